"""The format of tokens: `oneprotect_`, an id of 16 characters, a secret of 43, and a checksum of 6.

The prefix lets secret scanners find leaked tokens. The checksum distinguishes a typing error from a revoked token
without a look-up. Only the SHA-256 of a token is stored: 256 random bits need no slow hash.
"""

import hashlib
import hmac
import re
import secrets
import string
import zlib
from typing import Final, NoReturn

PREFIX: Final = "oneprotect_"

_ID_LENGTH: Final = 16
_SECRET_LENGTH: Final = 43
_ID_LETTERS: Final = string.ascii_lowercase + string.digits
_LETTERS: Final = string.ascii_letters + string.digits
_TOKEN: Final = re.compile(
    rf"{PREFIX}(?P<id>[a-z0-9]{{{_ID_LENGTH}}})[A-Za-z0-9]{{{_SECRET_LENGTH}}}(?P<sum>[A-Za-z0-9]{{6}})", re.ASCII
)


class IssuedToken:
    """A new token, to be shown once. It cannot be printed, copied or pickled by mistake."""

    __slots__ = ("_text", "id")

    def __init__(self) -> None:
        self.id: Final = "".join(secrets.choice(_ID_LETTERS) for _ in range(_ID_LENGTH))
        body = PREFIX + self.id + "".join(secrets.choice(_LETTERS) for _ in range(_SECRET_LENGTH))
        self._text: Final = body + _checksum(body)

    @property
    def digest(self) -> str:
        """The digest to store."""
        return digest(self._text)

    def reveal(self) -> str:
        """Return the text of the token."""
        return self._text

    def __repr__(self) -> str:
        return f"IssuedToken({self.id})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a token cannot be copied")


def parse_token_id(text: str) -> str | None:
    """Return the id of a token, or None for another format or a wrong checksum."""
    found = _TOKEN.fullmatch(text)
    if found is None or not hmac.compare_digest(_checksum(text[:-6]), found["sum"]):
        return None
    return found["id"]


def digest(text: str) -> str:
    """Return the SHA-256 of a token in hex."""
    return hashlib.sha256(text.encode()).hexdigest()


def _checksum(body: str) -> str:
    number, letters = zlib.crc32(body.encode()), ""
    for _ in range(6):
        number, place = divmod(number, len(_LETTERS))
        letters += _LETTERS[place]
    return letters
