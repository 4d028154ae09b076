"""What the console is made of: opened by the wiring, used by the pages."""

import asyncio

from msgspec import Struct

from messaging.kv import KvBucket
from oneprotect.api.operations.dependencies import ApiDependencies
from oneprotect.console.web.event_stream import EventStreamLimiter
from oneprotect.console.web.sessions import SessionStore
from oneprotect.console.web.templating import TemplateRenderer


class ConsoleParts(Struct, frozen=True, kw_only=True):
    """Everything that pages use, beside what the API does. Nothing in it opens or closes anything."""

    api: ApiDependencies
    sessions: SessionStore
    renderer: TemplateRenderer
    followers: EventStreamLimiter
    destinations: KvBucket
    health: KvBucket
    activity: KvBucket
    stop: asyncio.Event
    """Set when the process is to end."""
