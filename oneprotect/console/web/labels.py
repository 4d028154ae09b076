"""What the console says about states: a word, a tone (its colour and icon), and what to do."""

from typing import Final

from msgspec import Struct


class Words(Struct, frozen=True):
    """A state as it is shown."""

    label: str
    tone: str
    hint: str = ""


STATES: Final = {
    "delivered": Words("Delivered", "good"),
    "retry_scheduled": Words("Retry scheduled", "warn"),
    "failed": Words("Failed", "bad"),
    "skipped": Words("Skipped", "idle", "The destination was disabled. It is kept, and can be replayed."),
    "suppressed": Words("Suppressed", "idle", "Handed out again although its result was on record: nothing was sent."),
    "pending": Words("Pending", "info"),
    "overflow": Words("Waiting in line", "info", "Its destination has its fill of due work."),
    "scheduled": Words("Retry scheduled", "warn"),
    "healthy": Words("Healthy", "good"),
    "failing": Words("Failing", "bad"),
    "resting": Words("Resting", "warn", "It failed again and again, or asked for less: what comes due waits."),
    "unsigned": Words("Can't sign", "bad", "Its credential is not ready: nothing is sent without a signature."),
    "disabled": Words("Disabled", "idle"),
    "quiet": Words("Quiet", "idle", "Nothing was attempted in the last 24 hours."),
    "running": Words("Running", "info"),
    "waiting": Words("Waiting", "info", "One replay of a tenant runs at a time; this one is not at work."),
    "finished": Words("Finished", "good"),
    "cancelled": Words("Cancelled", "idle"),
}

CREDENTIALS: Final = {
    "configured": Words("Configured", "good", "The Secret is there, is this tenant's, and signs."),
    "missing": Words("Missing", "bad", "There is no such Secret, or no such key in it. Create it, or correct the ref."),
    "mismatch": Words(
        "Mismatch",
        "bad",
        "The Secret's labels name another tenant or purpose. Label it for this one.",
    ),
    "malformed": Words("Malformed", "bad", "The Secret holds no signing key: whsec_ and base64, of 24 to 64 bytes."),
    "denied": Words("Denied", "bad", "The consumers may not read this Secret: add its name to their Role."),
    "unavailable": Words(
        "Unavailable", "warn", "The Secret can't be used now, and deliveries wait; operators see why."
    ),
    "unchecked": Words("Unchecked", "idle", "No consumer has looked at it yet. Is one running?"),
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
