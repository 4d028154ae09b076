"""How a delivery is requested: the one rule that every publisher follows (contract, section 3)."""

from oneprotect.jetstream.errors import SUBJECT_FULL, Refused
from oneprotect.jetstream.publish import Publication, Publisher, Stored
from schemas import subjects


async def request(
    publisher: Publisher, tenant: str, destination: str, document: bytes, headers: dict[str, str]
) -> Stored:
    """Publish a request; when its destination has its fill of due work, publish the same to the overflow.

    `headers` must hold `Nats-Msg-Id`. Raises `Refused` or `Unavailable`; then it is safe to call again.
    """
    try:
        return await publisher.publish(Publication(subjects.requested(tenant, destination), document, headers))
    except Refused as error:
        if error.err_code != SUBJECT_FULL:
            raise
    return await publisher.publish(Publication(subjects.overflow(tenant, destination), document, headers))
