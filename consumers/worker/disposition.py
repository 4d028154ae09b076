"""How a message may be settled, as its handler says it: acknowledged after something is stored, or handed back."""

import msgspec

from messaging.publisher import Publication


class Again(msgspec.Struct, frozen=True):
    """Store these, and hand the message back: it is to come again, at once."""

    publications: tuple[Publication, ...] = ()


Settlement = tuple[Publication, ...] | Again
"""What must be stored, in this order, before the message is acknowledged, or handed back."""
