"""Base class of objects that hold a key, or bytes that a key can be made of."""

from typing import NoReturn


class Opaque:
    """Object that cannot be printed, copied, pickled or encoded.

    Subclasses must declare `__slots__`; otherwise `vars()` shows their values.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return f"{type(self).__name__}(...)"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError(f"a {type(self).__name__} can't be copied or serialised")
