"""What the console is made of: opened by the wiring, used by the pages."""

import asyncio

from msgspec import Struct

from messaging.kv import KvBucket, KvTable
from oneprotect.api.operations.dependencies import ApiDependencies
from oneprotect.console.web.event_stream import EventStreamLimiter
from oneprotect.console.web.sessions import SessionStore
from oneprotect.console.web.templating import TemplateRenderer
from schemas.configuration import Health
from schemas.hourly_stats import HourlyStats


class ConsoleParts(Struct, frozen=True, kw_only=True):
    """Everything that pages use, beside what the API does. Nothing in it opens or closes anything."""

    api: ApiDependencies
    sessions: SessionStore
    renderer: TemplateRenderer
    followers: EventStreamLimiter
    destinations: KvBucket
    health: KvTable[Health]
    activity: KvTable[HourlyStats]
    stop: asyncio.Event
    """Set when the process is to end."""
