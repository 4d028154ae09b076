"""What holds a key, or bytes that one can be made of: it shows nothing and leaves the process by no door."""

from typing import NoReturn


class Opaque:
    """Cannot be printed, copied, pickled or encoded. Subclasses name their slots, or `vars` would show what is held."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"{type(self).__name__}(...)"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError(f"a {type(self).__name__} can't be copied or serialised")
