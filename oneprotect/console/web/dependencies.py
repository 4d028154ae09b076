"""What the console is made of: opened by the wiring, used by the pages."""

import asyncio

from msgspec import Struct

from messaging.kv import Bucket
from oneprotect.api.operations.dependencies import Parts
from oneprotect.console.web.event_stream import Followers
from oneprotect.console.web.sessions import Sessions
from oneprotect.console.web.templating import Renderer


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
