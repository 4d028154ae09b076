"""Messages that can't be understood are kept as they came, with the reason, and never loop."""

from messaging.publisher import Publication
from messaging.pull_consumer import Message
from schemas import subjects
from schemas.codes import Code


def quarantined(message: Message, code: Code, reason: str) -> Publication:
    """The publication that keeps `message`, bytes untouched. `reason` names the field and the rule, not the value."""
    # All of its headers but the server's own: a schedule or an id of another stream would not mean the same here.
    headers = {name: value for name, value in message.headers.items() if not name.startswith("Nats-")} | {
        subjects.HEADER_MSG_ID: f"{message.stream}.{message.sequence}",
        subjects.HEADER_ORIGIN: message.subject,
        subjects.HEADER_CODE: code.value,
        subjects.HEADER_REASON: reason,
    }
    return Publication(subjects.quarantined(message.subject), message.data, headers)
