"""Search for a secret value in text."""

import base64
import traceback
from pathlib import Path

PROVIDER = str(Path(__file__).parents[2] / "provider")


def shows(text: str, material: bytes) -> bool:
    """Whether `text` has 12 bytes in a row of the material, plain, in hex, in base64, or backwards."""
    plain = material.removeprefix(b"whsec_")
    forms = {
        plain,
        plain.hex().encode(),
        plain.hex(" ").encode(),
        plain[::-1],
        base64.b64encode(material),
        base64.b64encode(base64.b64encode(material)),
        base64.urlsafe_b64encode(plain),
        repr(plain)[2:-1].encode(),
    }
    raw = text.encode(errors="surrogateescape")
    return any(form[start : start + 12] in raw for form in forms for start in range(len(form) - 11))


def locals_in_provider(error: BaseException) -> str:
    """Return the locals of the provider's frames in a traceback."""
    frames = [
        frame.f_locals for frame, _ in traceback.walk_tb(error.__traceback__) if is_ours(frame.f_code.co_filename)
    ]
    assert frames
    return repr(frames)


def is_ours(filename: str) -> bool:
    """Return whether the file belongs to the provider."""
    return filename.startswith(PROVIDER)
