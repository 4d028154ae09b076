"""The address ranges that no delivery may go to: tables for the egress policy and the chart's network policy.

IPv4 is allowed except for the listed ranges. IPv6 is denied except for global unicast (`2000::/3`) less the listed
holes: that way loopback, unique local, link-local, multicast, discard, NAT64 and every range that is yet to be invented
are excluded without being named. The standard library's `is_global` is no substitute: in Python 3.11 it takes
multicast, 6to4, NAT64, IPv4-compatible and other addresses that lead inside for public ones.

Sources: the IANA special-purpose registries of both families, and the documents named beside each range.
"""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Final, Generic, TypeVar

from msgspec import Struct

IPAddress = IPv4Address | IPv6Address
N = TypeVar("N", IPv4Network, IPv6Network)


class AddressRange(Struct, Generic[N], frozen=True):
    """A range of addresses, its purpose and its source."""

    network: N
    name: str
    source: str

    def __str__(self) -> str:
        return f"{self.name}, {self.network}"


def _v4(network: str, name: str, source: str) -> AddressRange[IPv4Network]:
    return AddressRange(IPv4Network(network), name, source)


def _v6(network: str, name: str, source: str) -> AddressRange[IPv6Network]:
    return AddressRange(IPv6Network(network), name, source)


IPV4_DENIED: Final = (
    _v4("0.0.0.0/8", "this network", "RFC 791"),
    _v4("10.0.0.0/8", "private", "RFC 1918"),
    _v4("100.64.0.0/10", "carrier-grade NAT, a cloud's metadata service", "RFC 6598"),
    _v4("127.0.0.0/8", "loopback", "RFC 1122"),
    _v4("168.63.129.16/32", "Azure's platform service", "Azure documentation, IP address 168.63.129.16"),
    _v4("169.254.0.0/16", "link-local, clouds' metadata services", "RFC 3927"),
    _v4("172.16.0.0/12", "private", "RFC 1918"),
    _v4("192.0.0.0/24", "protocol assignments", "RFC 6890"),
    _v4("192.0.2.0/24", "documentation", "RFC 5737"),
    _v4("192.31.196.0/24", "AS112", "RFC 7535"),
    _v4("192.52.193.0/24", "multicast tunnelling", "RFC 7450"),
    _v4("192.88.99.0/24", "6to4 relays", "RFC 7526"),
    _v4("192.168.0.0/16", "private", "RFC 1918"),
    _v4("192.175.48.0/24", "AS112", "RFC 7534"),
    _v4("198.18.0.0/15", "benchmarking", "RFC 2544"),
    _v4("198.51.100.0/24", "documentation", "RFC 5737"),
    _v4("203.0.113.0/24", "documentation", "RFC 5737"),
    _v4("224.0.0.0/4", "multicast", "RFC 5771"),
    _v4("240.0.0.0/4", "reserved, broadcast", "RFC 1112"),
)
"""Everything else in IPv4 is allowed."""

IPV6_ALLOWED: Final = _v6("2000::/3", "global unicast", "RFC 4291")
"""Everything else in IPv6 is denied."""

IPV6_DENIED: Final = (
    _v6("2001::/23", "Teredo and other protocol assignments", "RFC 2928"),
    _v6("2001:db8::/32", "documentation", "RFC 3849"),
    _v6("2002::/16", "6to4", "RFC 3056"),
    _v6("2620:4f:8000::/48", "AS112", "RFC 7534"),
    _v6("3fff::/20", "documentation", "RFC 9637"),
)
"""The holes in `IPV6_ALLOWED`."""

_LAST_BITS: Final = tuple(
    map(IPv6Network, ("::/96", "::ffff:0:0/96", "::ffff:0:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48"))
)
"""Prefixes of addresses that end in an IPv4 address: compatible, mapped, translated, NAT64 and local NAT64."""
_6TO4: Final = IPv6Network("2002::/16")
_TEREDO: Final = IPv6Network("2001::/32")
_ISATAP: Final = 0x5EFE
_ISATAP_MASK: Final = 0xFCFFFFFF
"""Without the bits for universal and group addresses (RFC 5214, section 6.1)."""

_IPV6_ELSEWHERE: Final = _v6("::/0", "outside IPv6 global unicast", "RFC 4291")


def denied_range(address: IPAddress) -> AddressRange[IPv4Network] | AddressRange[IPv6Network] | None:
    """Return the range that denies `address`, or None. Mapped addresses have to be unmapped before."""
    if isinstance(address, IPv4Address):
        return next((range_ for range_ in IPV4_DENIED if address in range_.network), None)
    if address not in IPV6_ALLOWED.network:
        return _IPV6_ELSEWHERE
    return next((range_ for range_ in IPV6_DENIED if address in range_.network), None)


def strip_ipv4_mapping(address: IPAddress) -> IPAddress:
    """Return the IPv4 address of `::ffff:a.b.c.d`, to which a connection would go; any other address unchanged."""
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address


def embedded_ipv4(address: IPAddress) -> tuple[IPv4Address, ...]:
    """Return the IPv4 addresses that a translator or tunnel may take from `address`.

    ISATAP (RFC 5214) is recognized below every prefix. Only the form of NAT64 with the address in the last 32 bits is
    known (RFC 6052): in any other form these end in zeros, and give an address that is denied.
    """
    if isinstance(address, IPv4Address) or int(address) <= 1:  # `::` and `::1` are no embeddings
        return ()
    bits = int(address)
    if address in _6TO4:
        return (IPv4Address(bits >> 80 & 0xFFFFFFFF),)
    if address in _TEREDO:
        return (IPv4Address(bits >> 64 & 0xFFFFFFFF), IPv4Address(~bits & 0xFFFFFFFF))
    if bits >> 32 & _ISATAP_MASK == _ISATAP or any(address in network for network in _LAST_BITS):
        return (IPv4Address(bits & (0xFFFFFFFF if bits & 0xFFFFFF else 0)),)
    return ()
