"""What the console says about states: a word, a tone (its colour and icon), and what to do."""

from typing import Final

from msgspec import Struct


class StatusLabel(Struct, frozen=True):
    """A state as it is shown."""

    label: str
    tone: str
    hint: str = ""


STATES: Final = {
    "delivered": StatusLabel("Delivered", "good"),
    "retry_scheduled": StatusLabel("Retry scheduled", "warn"),
    "failed": StatusLabel("Failed", "bad"),
    "skipped": StatusLabel("Skipped", "idle", "The destination was disabled. It is kept, and can be replayed."),
    "suppressed": StatusLabel(
        "Suppressed", "idle", "Handed out again although its result was on record: nothing was sent."
    ),
    "pending": StatusLabel("Pending", "info"),
    "overflow": StatusLabel("Waiting in line", "info", "Its destination has its fill of due work."),
    "scheduled": StatusLabel("Retry scheduled", "warn"),
    "healthy": StatusLabel("Healthy", "good"),
    "failing": StatusLabel("Failing", "bad"),
    "resting": StatusLabel("Resting", "warn", "It failed again and again, or asked for less: what comes due waits."),
    "unsigned": StatusLabel("Can't sign", "bad", "Its credential is not ready: nothing is sent without a signature."),
    "disabled": StatusLabel("Disabled", "idle"),
    "quiet": StatusLabel("Quiet", "idle", "Nothing was attempted in the last 24 hours."),
    "running": StatusLabel("Running", "info"),
    "waiting": StatusLabel("Waiting", "info", "One replay of a tenant runs at a time; this one is not at work."),
    "finished": StatusLabel("Finished", "good"),
    "cancelled": StatusLabel("Cancelled", "idle"),
}

CREDENTIALS: Final = {
    "configured": StatusLabel("Configured", "good", "The Secret is there, is this tenant's, and signs."),
    "missing": StatusLabel(
        "Missing", "bad", "There is no such Secret, or no such key in it. Create it, or correct the ref."
    ),
    "mismatch": StatusLabel(
        "Mismatch",
        "bad",
        "The Secret's labels name another tenant or purpose. Label it for this one.",
    ),
    "malformed": StatusLabel(
        "Malformed", "bad", "The Secret holds no signing key: whsec_ and base64, of 24 to 64 bytes."
    ),
    "denied": StatusLabel("Denied", "bad", "The consumers may not read this Secret: add its name to their Role."),
    "unavailable": StatusLabel(
        "Unavailable", "warn", "The Secret can't be used now, and deliveries wait; operators see why."
    ),
    "unchecked": StatusLabel("Unchecked", "idle", "No consumer has looked at it yet. Is one running?"),
}

CODES: Final = {
    "http.2xx": "the receiver took it",
    "http.3xx": "a redirect, which is never followed",
    "http.4xx": "the receiver refused it",
    "http.410": "the receiver is gone",
    "http.429": "the receiver asks for less",
    "http.5xx": "the receiver failed",
    "net.dns": "the host's name has no address",
    "net.refused": "the connection was refused",
    "net.reset": "the connection broke",
    "net.tls": "no secure connection: certificate or protocol",
    "net.timeout": "no answer in time",
    "net.blocked": "an address that may not be called",
    "net.response_too_large": "the answer's head was too large",
    "secret.ref_invalid": "the secret ref breaks a rule",
    "secret.ref_forbidden": "a namespace that is not allowed",
    "secret.mismatch": "the Secret belongs to another tenant or purpose",
    "secret.not_found": "there is no such Secret",
    "secret.malformed": "the Secret holds no signing key",
    "secret.denied": "the Secret may not be read",
    "secret.unavailable": "the Secret could not be used",
    "destination.not_found": "there is no such destination",
    "destination.disabled": "the destination is disabled",
    "event.invalid": "the request was not understood",
    "internal": "an error of ours",
}

DONE: Final = {
    "enabled": "The destination is enabled: deliveries go there from now on.",
    "disabled": "The destination is disabled: what comes due is kept, and can be replayed.",
    "cancelled": "The replay is cancelled. What it had requested so far stays requested.",
    "checked": "The credential was checked just now.",
    "no-consumer": "No consumer answered, and only consumers can read Secrets. Try again when one runs.",
}
"""What was done, by the word in the address after a form was sent."""
