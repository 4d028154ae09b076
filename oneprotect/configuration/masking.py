"""Values of a destination that may be credentials of its receiver: header values, and the query of its URL.

They are write-only. Every reader sees `***` in their place, and a writer that sends `***` back keeps the stored value.
"""

from typing import Final, TypeVar

import msgspec

from schemas import validation
from schemas.configuration import DestinationSpec
from schemas.validation import ValidationError

MASK: Final = "***"

T = TypeVar("T", bound=DestinationSpec)


def mask(destination: T) -> T:
    """Return the destination without header values and without the values of its URL's query."""
    headers = dict.fromkeys(destination.headers, MASK)
    return msgspec.structs.replace(destination, url=_mask_url(destination.url), headers=headers)


def unmask(spec: DestinationSpec, stored: DestinationSpec | None) -> DestinationSpec:
    """Return `spec` with the stored values in the places of `***`.

    Raises `ValidationError` where no value is stored, and for headers whose values would go to another address:
    otherwise a writer could have a stored credential sent to a receiver of its own.
    """
    url = spec.url
    if stored is not None and url == _mask_url(stored.url):
        url = stored.url
    elif MASK in url.partition("?")[2]:
        raise ValidationError("url", f"`{MASK}` is in the place of an unchanged value; send the whole URL to change it")
    known = {} if stored is None else {name.lower(): value for name, value in stored.headers.items()}
    kept = [name for name, value in spec.headers.items() if value == MASK]
    if any(name.lower() not in known for name in kept):
        raise ValidationError("headers", f"`{MASK}` is in the place of an unchanged value; no value is stored yet")
    if kept and stored is not None and _address(url) != _address(stored.url):
        raise ValidationError("headers", f"`{MASK}` keeps a value for the same URL only; send the values again")
    headers = spec.headers | {name: known[name.lower()] for name in kept}
    return validation.convert(msgspec.structs.asdict(spec) | {"url": url, "headers": headers}, DestinationSpec)


def _mask_url(url: str) -> str:
    head, mark, query = url.partition("?")
    return f"{head}{mark}{'&'.join(map(_mask_parameter, query.split('&')))}" if query else url


def _mask_parameter(parameter: str) -> str:
    name, equals, _ = parameter.partition("=")
    return f"{name}={MASK}" if equals else MASK


def _address(url: str) -> str:
    """Return the URL without its query."""
    return url.partition("?")[0]
