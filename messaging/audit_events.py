"""Operational events: the audit trail of the installation, stored for 30 days."""

from messaging.publication import Publication, PublishAck
from messaging.publisher import JetStreamPublisher
from schemas import subjects
from schemas.events import CONTENT_TYPE, CloudEvent, encode
from schemas.headers import HEADER_MSG_ID


async def publish_audit_event(publisher: JetStreamPublisher, kind: str, name: str, event: CloudEvent) -> PublishAck:
    """Publish an event on `oneprotect.event.<kind>.<tenant>.<name>`; its id is the key of the duplicate check."""
    headers = {HEADER_MSG_ID: f"{kind}.{event.tenant}.{event.id}", "content-type": CONTENT_TYPE}
    return await publisher.publish(Publication(subjects.operational(kind, event.tenant, name), encode(event), headers))
