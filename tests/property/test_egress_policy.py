"""The address policy against a table of ranges written down independently, as first and last addresses."""

from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from yarl import URL

from consumers.egress.policy import EgressBlocked, EgressPolicy, EgressRule

DENIED_V4 = [
    (int(IPv4Address(first)), int(IPv4Address(last)))
    for first, last in (
        ("0.0.0.0", "0.255.255.255"),  # noqa: S104  a range, nothing is bound to it
        ("10.0.0.0", "10.255.255.255"),
        ("100.64.0.0", "100.127.255.255"),
        ("127.0.0.0", "127.255.255.255"),
        ("168.63.129.16", "168.63.129.16"),
        ("169.254.0.0", "169.254.255.255"),
        ("172.16.0.0", "172.31.255.255"),
        ("192.0.0.0", "192.0.0.255"),
        ("192.0.2.0", "192.0.2.255"),
        ("192.31.196.0", "192.31.196.255"),
        ("192.52.193.0", "192.52.193.255"),
        ("192.88.99.0", "192.88.99.255"),
        ("192.168.0.0", "192.168.255.255"),
        ("192.175.48.0", "192.175.48.255"),
        ("198.18.0.0", "198.19.255.255"),
        ("198.51.100.0", "198.51.100.255"),
        ("203.0.113.0", "203.0.113.255"),
        ("224.0.0.0", "255.255.255.255"),
    )
]
ALLOWED_V6 = [
    (int(IPv6Address(first)), int(IPv6Address(last)))
    for first, last in (
        ("2000::", "2000:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
        ("2001:200::", "2001:db7:ffff:ffff:ffff:ffff:ffff:ffff"),
        ("2001:db9::", "2001:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
        ("2003::", "2620:4f:7fff:ffff:ffff:ffff:ffff:ffff"),
        ("2620:4f:8001::", "3ffe:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
        ("3fff:1000::", "3fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
    )
]
PREFIXES_AROUND_V4 = {
    "compatible": 0,
    "translated": int(IPv6Address("::ffff:0:0:0")),
    "NAT64": int(IPv6Address("64:ff9b::")),
    "local NAT64": int(IPv6Address("64:ff9b:1::")),
    "ISATAP": int(IPv6Address("fe80::5efe:0:0")),
    "Teredo": int(IPv6Address("2001:0:4136:e378:8000:63bf::")),
}
MAPPED = int(IPv6Address("::ffff:0:0"))


def near_edges(ranges: list[tuple[int, int]], bits: int) -> st.SearchStrategy[int]:
    """Any number, and often one that begins, ends or just misses a range."""
    edges = {edge + step for first, last in ranges for edge in (first, last) for step in (-1, 0, 1)}
    return st.sampled_from(sorted(edge for edge in edges if 0 <= edge < 1 << bits)) | st.integers(0, (1 << bits) - 1)


IPV4 = near_edges(DENIED_V4, 32)
IPV6 = near_edges(ALLOWED_V6, 128) | st.integers(0x2000 << 112, (0x4000 << 112) - 1)
POLICY = EgressPolicy()


@given(IPV4)
def test_ipv4_is_judged_like_the_table(number: int) -> None:
    """An IPv4 address, plain or mapped, is allowed exactly if it lies in no denied range."""
    expected = not any(first <= number <= last for first, last in DENIED_V4)

    assert POLICY.is_allowed(IPv4Address(number)) is expected
    assert POLICY.is_allowed(str(IPv4Address(number))) is expected
    assert POLICY.is_allowed(str(IPv6Address(MAPPED | number))) is expected
    assert POLICY.is_allowed(IPv6Address(MAPPED | number).exploded) is expected


@given(IPV6)
def test_ipv6_is_judged_like_the_table(number: int) -> None:
    """An IPv6 address is allowed in an allowed range, or as a mapped allowed IPv4 address."""
    is_mapped = number >> 32 == MAPPED >> 32
    in_v4 = any(first <= number & 0xFFFFFFFF <= last for first, last in DENIED_V4)
    is_isatap = number >> 32 & 0xFCFFFFFF == 0x5EFE
    expected = (
        not in_v4
        if is_mapped
        else not (is_isatap and in_v4) and any(first <= number <= last for first, last in ALLOWED_V6)
    )

    assert POLICY.is_allowed(IPv6Address(number)) is expected
    assert not POLICY.is_allowed(f"{IPv6Address(number)}%eth0")


@given(IPV4, st.sampled_from(sorted(PREFIXES_AROUND_V4)))
def test_no_embedding_of_an_ipv4_address_is_allowed(number: int, kind: str) -> None:
    """Whatever translates IPv6 back to IPv4 could lead anywhere, so even public addresses in it are denied."""
    embedded = IPv6Address(PREFIXES_AROUND_V4[kind] | number)

    assert not POLICY.is_allowed(embedded)
    assert not POLICY.is_allowed(IPv6Address((0x2002 << 112) | (number << 80)))


@given(IPV4, st.integers(0, 32), IPV4)
def test_an_exception_opens_its_network_and_nothing_else(inside: int, length: int, other: int) -> None:
    """With one exception, an address is allowed if it is in it or was allowed before."""
    mask = ((1 << length) - 1) << (32 - length)
    policy = EgressPolicy(allow_cidrs=[f"{IPv4Address(inside & mask)}/{length}"])

    assert policy.is_allowed(IPv4Address(inside))
    for number in (other, inside ^ 1, inside ^ (1 << 31)):
        address = IPv4Address(number)
        assert policy.is_allowed(address) is (number & mask == inside & mask or POLICY.is_allowed(address))


@given(IPV4, st.sampled_from(["{0}", "{0:#x}", "0{0:o}", "0x{0:X}", "{1}.{2}", "{1}.{3}.{4}", "0{1:o}.{2}"]))
def test_no_other_spelling_of_an_ipv4_address_passes(number: int, spelling: str) -> None:
    """Other spellings that the C library accepts are blocked, even if everything is allowed."""
    policy = EgressPolicy(allow_cidrs=["0.0.0.0/0"])
    octets = number.to_bytes(4, "big")
    host = spelling.format(number, octets[0], number & 0xFFFFFF, octets[1], number & 0xFFFF)

    with pytest.raises(EgressBlocked) as blocked:
        policy.check_url(f"https://{host}/")

    assert blocked.value.rule is EgressRule.HOST


@given(st.text(max_size=60) | st.from_regex(r"https?://[^/]{0,20}[/?#:@\[\]]?.{0,20}"))
@example("https://\ud800.example.com/")
@example("https://a\u00a0b.example.com/")
@example("https://\u3002\u3002.example.com/")
def test_any_text_is_a_target_or_blocked(text: str) -> None:
    """A text gives an ASCII URL on an allowed port of a proper host, or the one error: nothing else, and no crash."""
    try:
        target = POLICY.check_url(text)
    except EgressBlocked:
        return
    assert target.url.isascii()
    assert target.url.startswith("https://")
    seen_by_others = URL(target.url, encoded=True)
    assert (target.port, seen_by_others.raw_host, seen_by_others.port) == (443, target.host, 443)
    assert POLICY.check_url(target.url) == target
