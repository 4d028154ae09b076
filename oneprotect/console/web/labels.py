"""Labels of states: a text, a tone (color and icon), and a hint on the cause or the next step."""

from typing import Final

from msgspec import Struct


class StatusLabel(Struct, frozen=True):
    """A state as the console shows it."""

    label: str
    tone: str
    hint: str = ""


STATES: Final = {
    "delivered": StatusLabel("Delivered", "good"),
    "retry_scheduled": StatusLabel("Retry scheduled", "warn"),
    "failed": StatusLabel("Failed", "bad"),
    "skipped": StatusLabel("Skipped", "idle", "The destination was disabled. The delivery can be replayed."),
    "suppressed": StatusLabel("Suppressed", "idle", "The result was already recorded. Nothing was sent again."),
    "pending": StatusLabel("Pending", "info"),
    "overflow": StatusLabel("In overflow", "info", "The destination has reached its limit of due deliveries."),
    "scheduled": StatusLabel("Retry scheduled", "warn"),
    "healthy": StatusLabel("Healthy", "good"),
    "failing": StatusLabel("Failing", "bad"),
    "open": StatusLabel(
        "Circuit open", "warn", "The receiver failed repeatedly or asked for a pause. Deliveries wait."
    ),
    "unsigned": StatusLabel("Cannot sign", "bad", "The credential is not ready. Nothing is sent unsigned."),
    "disabled": StatusLabel("Disabled", "idle"),
    "quiet": StatusLabel("No activity", "idle", "There were no attempts in the last 24 hours."),
    "running": StatusLabel("Running", "info"),
    "waiting": StatusLabel("Waiting", "info", "A tenant runs one replay at a time. This replay is queued."),
    "finished": StatusLabel("Finished", "good"),
    "cancelled": StatusLabel("Cancelled", "idle"),
}

CREDENTIALS: Final = {
    "configured": StatusLabel("Configured", "good", "The Secret exists, belongs to this tenant, and can sign."),
    "missing": StatusLabel("Missing", "bad", "The Secret or its key does not exist. Create it, or correct the ref."),
    "mismatch": StatusLabel(
        "Mismatch", "bad", "The labels of the Secret name another tenant or purpose. Correct the labels."
    ),
    "malformed": StatusLabel(
        "Malformed", "bad", "The Secret has no valid signing key. Use `whsec_` and base64 of 24 to 64 bytes."
    ),
    "denied": StatusLabel(
        "Denied", "bad", "The consumers are not allowed to read the Secret. Add its name to their Role."
    ),
    "unavailable": StatusLabel(
        "Unavailable", "warn", "The Secret cannot be used now, and deliveries wait. Operators see the cause."
    ),
    "unchecked": StatusLabel("Unchecked", "idle", "No consumer has checked the Secret. Check that a consumer runs."),
}

CODES: Final = {
    "http.2xx": "The receiver accepted the delivery.",
    "http.3xx": "The receiver sent a redirect. Redirects are never followed.",
    "http.4xx": "The receiver rejected the delivery.",
    "http.410": "The receiver is gone.",
    "http.429": "The receiver asked for fewer requests.",
    "http.5xx": "The receiver failed.",
    "net.dns": "The host name has no address.",
    "net.refused": "The connection was refused.",
    "net.reset": "The connection was interrupted.",
    "net.tls": "The TLS connection failed. Check certificate and protocol.",
    "net.timeout": "The receiver did not respond in time.",
    "net.blocked": "The address is blocked.",
    "net.response_too_large": "The response headers are too large.",
    "secret.ref_invalid": "The secret ref is not valid.",
    "secret.ref_forbidden": "The namespace of the secret ref is not allowed.",
    "secret.mismatch": "The Secret belongs to another tenant or purpose.",
    "secret.not_found": "The Secret does not exist.",
    "secret.malformed": "The Secret has no valid signing key.",
    "secret.denied": "The consumers are not allowed to read the Secret.",
    "secret.unavailable": "The Secret could not be used.",
    "destination.not_found": "The destination does not exist.",
    "destination.disabled": "The destination is disabled.",
    "event.invalid": "The request is not valid.",
    "internal": "An internal error occurred.",
}

DONE: Final = {
    "enabled": "The destination is enabled. Deliveries are sent again.",
    "disabled": "The destination is disabled. Deliveries are skipped, and can be replayed.",
    "cancelled": "The replay is cancelled. Deliveries that it has requested are not cancelled.",
    "checked": "The credential was checked just now.",
    "no-consumer": "No consumer responded, and only consumers can read Secrets. Start a consumer and retry.",
}
"""Notices after an action, by the value of `done` in the query string."""
