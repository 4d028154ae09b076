"""Looking for a secret in bytes, in every form in which it could have got there."""

import base64
import urllib.parse


def forms(secret: str) -> dict[str, bytes]:
    """The forms of a `whsec_` secret: as text, its key raw and re-encoded, and the text encoded once more."""
    text = secret.encode()
    key = base64.b64decode(secret.removeprefix("whsec_"))
    return {
        "text": text,
        "text without prefix": text.removeprefix(b"whsec_"),
        "key": key,
        "key in hex": key.hex().encode(),
        "key in base64url": base64.urlsafe_b64encode(key).rstrip(b"="),
        "text in base64": base64.b64encode(text).rstrip(b"=")[:-1],
        "text in hex": text.hex().encode(),
        "text percent-encoded": urllib.parse.quote(text, safe="").encode(),
        "text reversed": text[::-1],
        "key as a Python literal": repr(key)[2:-1].encode(),
    }


def leaks(haystack: bytes, secret: str, *, window: int = 12) -> list[str]:
    """The forms of which any `window` bytes in a row are in `haystack`."""
    found: list[str] = []
    for name, form in forms(secret).items():
        pieces = (form[start : start + window] for start in range(max(1, len(form) - window + 1)))
        if any(piece in haystack for piece in pieces):
            found.append(name)
    return found
