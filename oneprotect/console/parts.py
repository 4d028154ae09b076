"""What the console is made of: opened by the wiring, used by the pages."""

import asyncio

from msgspec import Struct

from oneprotect.api.parts import Parts
from oneprotect.console.live import Followers
from oneprotect.console.rendering import Renderer
from oneprotect.console.sessions import Sessions
from oneprotect.jetstream.bucket import Bucket


class ConsoleParts(Struct, frozen=True, kw_only=True):
    """Everything that pages use, beside what the API does. Nothing in it opens or closes anything."""

    api: Parts
    sessions: Sessions
    renderer: Renderer
    followers: Followers
    destinations: Bucket
    health: Bucket
    activity: Bucket
    stop: asyncio.Event
    """Set when the process is to end."""
