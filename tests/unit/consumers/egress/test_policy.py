"""The egress policy: addresses, URLs, ports, the resolver and the last check before a socket is connected."""

import socket
import traceback
from ipaddress import IPv4Address

import pytest
from yarl import URL

from consumers.egress.blocked_ranges import IPV4_DENIED, IPV6_ALLOWED, IPV6_DENIED
from consumers.egress.policy import AddrInfo, ConnectionBlocked, EgressBlocked, EgressPolicy, EgressRule

HOSTILE_ADDRESSES = (
    "0.0.0.0",  # noqa: S104  an address, nothing is bound to it
    "0.1.2.3",
    "10.0.0.1",
    "10.255.255.255",
    "100.64.0.1",
    "100.100.100.200",
    "100.127.255.255",
    "127.0.0.1",
    "127.1.2.3",
    "168.63.129.16",
    "169.254.0.1",
    "169.254.169.254",
    "169.254.170.2",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.9",
    "192.0.0.255",
    "192.0.2.1",
    "192.31.196.1",
    "192.52.193.1",
    "192.88.99.1",
    "192.88.99.3",
    "192.168.0.1",
    "192.175.48.1",
    "198.18.0.1",
    "198.19.255.255",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "224.1.2.3",
    "233.252.0.16",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",
    "::ffff:0:127.0.0.1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:169.254.169.254",
    "0000:0000:0000:0000:0000:ffff:7f00:1",
    "64:ff9b::169.254.169.254",
    "64:ff9b::8.8.8.8",
    "64:ff9b:1::7f00:1",
    "100::1",
    "100:0:0:1::1",
    "2001::1",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    "2001:10::1",
    "2001:2::1",
    "2001:db8::1",
    "2002:7f00:1::",
    "2002:808:808::1",
    "2620:4f:8000::1",
    "3fff::1",
    "4000::1",
    "5f00::1",
    "fc00::1",
    "fd00:ec2::254",
    "fd20:ce::254",
    "fe80::1",
    "fe80::1%eth0",
    "2606:4700::1111%eth0",
    "fec0::1",
    "ff02::1",
)
PUBLIC_ADDRESSES = (
    "1.1.1.1",
    "8.8.8.8",
    "9.255.255.255",
    "11.0.0.0",
    "100.63.255.255",
    "100.128.0.0",
    "126.255.255.255",
    "128.0.0.0",
    "168.63.129.15",
    "168.63.129.17",
    "172.15.255.255",
    "172.32.0.0",
    "192.0.1.1",
    "192.167.255.255",
    "198.17.255.255",
    "198.20.0.0",
    "223.255.255.255",
    "::ffff:8.8.8.8",
    "2001:200::1",
    "2001:4860:4860::8888",
    "2003::1",
    "2606:4700::1111",
    "2a00:1450:4001::1",
    "3ffe::1",
)
NO_ADDRESSES = (
    "",
    "localhost",
    "127.1",
    "2130706433",
    "0x7f.1",
    "0177.0.0.1",
    "127.0.0.1/8",
    "①②⑦.⓪.⓪.①",
    "[::1]",
    " 1.1.1.1",
)

DISGUISED_ADDRESSES = (
    "0",
    "0x7f.1",
    "0x7f000001",
    "0X7F000001",
    "0177.0.0.1",
    "017700000001",
    "127.1",
    "127.0.1",
    "127.0.0.1.",
    "127.000.000.001",
    "127.0.0.256",
    "127.0.0.1.1",
    "2130706433",
    "2130706433.",
    "1.0x",
    "①②⑦.⓪.⓪.①",
    "\uff11\uff12\uff17.\uff10.\uff10.\uff11",
    "127。0。0。1",
    "①.①.①.①",
    "%31%32%37.0.0.1",
    "[::1",
    "::1",
    "[::1]1",
    "[127.0.0.1]",
    "[fe80::1%25lo]",
    "[fe80::1%lo]",
    "[::ffff:0x7f.1]",
    "[v1.x]",
)
NO_HOST_NAMES = (
    ".",
    "..",
    ".example.com",
    "a..example.com",
    "example.com..",
    "-a.example.com",
    "a-.example.com",
    "ex%61mple.com",
    "a.example.com:",
    "a,b.example.com",
    "a\u200b.example.com",
    "\ufffe.example.com",
    f"{'a' * 64}.example.com",
    f"{'a.' * 126}com",
)
INTERNAL_NAMES = (
    "localhost",
    "LOCALHOST",
    "localhost.",
    "ⓛocalhost",
    "a.localhost",
    "receiver",
    "receiver.",
    "printer.local",
    "metadata.google.internal",
    "METADATA.GOOGLE.INTERNAL.",
    "api.default.svc",
    "api.default.svc.cluster.local",
    "router.home.arpa",
    "secret.onion",
    "hooks.test",
    "hooks.invalid",
    "hooks.example",
)


def rule_of(policy: EgressPolicy, url: str) -> EgressRule | None:
    """The rule that `url` breaks."""
    try:
        policy.check_url(url)
    except EgressBlocked as blocked:
        return blocked.rule
    return None


@pytest.mark.parametrize("address", HOSTILE_ADDRESSES)
def test_every_address_that_leads_inside_is_denied(address: str) -> None:
    """No address of a private, local, transitional, reserved or metadata range is allowed, in any notation."""
    policy = EgressPolicy()

    assert not policy.is_allowed(address)


@pytest.mark.parametrize("address", PUBLIC_ADDRESSES)
def test_public_addresses_are_allowed(address: str) -> None:
    """Addresses of the public internet are allowed, up to the edges of the denied ranges."""
    policy = EgressPolicy()

    assert policy.is_allowed(address)


@pytest.mark.parametrize("text", NO_ADDRESSES)
def test_an_invalid_address_is_denied(text: str) -> None:
    """A text that is not plainly an address is denied, even where everything is allowed."""
    policy = EgressPolicy(allow_cidrs=["0.0.0.0/0", "::/0"])

    assert not policy.is_allowed(text)


def test_only_a_matching_exception_allows_a_denied_range() -> None:
    """An exception allows its own addresses and their mapped forms, and no neighbour."""
    policy = EgressPolicy(allow_cidrs=["10.1.0.0/16", "fd00:1::/32"])

    assert policy.is_allowed("10.1.2.3")
    assert policy.is_allowed("::ffff:10.1.2.3")
    assert policy.is_allowed("fd00:1::5")
    assert not policy.is_allowed("10.2.0.1")
    assert not policy.is_allowed("fd00:2::5")
    assert not policy.is_allowed("fd00:1::5%eth0")
    assert policy.is_allowed("8.8.8.8")


def test_an_exception_for_nat64_still_has_the_address_inside_checked() -> None:
    """In a cluster with DNS64, a translated address is as good as the IPv4 address that it carries."""
    policy = EgressPolicy(allow_cidrs=["64:ff9b::/96"])

    assert policy.is_allowed("64:ff9b::8.8.8.8")
    assert not policy.is_allowed("64:ff9b::127.0.0.1")
    assert not policy.is_allowed("64:ff9b::169.254.169.254")


@pytest.mark.parametrize(
    ("exception", "form"),
    [
        ("::/96", "::{v4}"),
        ("::ffff:0:0:0/96", "::ffff:0:{v4}"),
        ("64:ff9b:1::/48", "64:ff9b:1:7::{v4}"),
        ("2002::/16", "2002:{hex}::1"),
        ("2001::/32", "2001:0:{hex}::f7f7:f7f7"),
        ("2001::/32", "2001:0:808:808::{inverted}"),
        ("fd00::/8", "fd00::5efe:{v4}"),
        ("fd00::/8", "fd00::200:5efe:{v4}"),
    ],
)
def test_whatever_embeds_an_ipv4_address_is_judged_by_it_too(exception: str, form: str) -> None:
    """An exception for a translator or a tunnel leads to no denied IPv4 address behind it."""
    policy = EgressPolicy(allow_cidrs=[exception])

    for v4, expected in (("8.8.8.8", True), ("127.0.0.1", False), ("10.0.0.1", False), ("169.254.169.254", False)):
        number = int(IPv4Address(v4))
        octets, inverted = f"{number:08x}", f"{number ^ 0xFFFFFFFF:08x}"
        address = form.format(v4=v4, hex=f"{octets[:4]}:{octets[4:]}", inverted=f"{inverted[:4]}:{inverted[4:]}")
        assert policy.is_allowed(address) is expected, address


@pytest.mark.parametrize("address", ["2606:4700::5efe:10.0.0.1", "2606:4700:1:2:200:5efe:169.254.169.254"])
def test_isatap_below_a_public_prefix_is_denied(address: str) -> None:
    """The router of the prefix would send the packet on to the IPv4 address."""
    assert not EgressPolicy().is_allowed(address)
    assert EgressPolicy().is_allowed("2606:4700::5efe:8.8.8.8")


def test_other_forms_of_local_nat64_are_denied() -> None:
    """An IPv4 address before the last 32 bits leaves zeros there."""
    assert not EgressPolicy(allow_cidrs=["64:ff9b:1::/48"]).is_allowed("64:ff9b:1:0:a:0:800:0")


@pytest.mark.parametrize("cidr", ["10.0.0.1/8", "10.0.0.0/33", "all", ""])
def test_an_exception_that_is_no_network_is_refused(cidr: str) -> None:
    """A mistyped exception stops the program rather than opening something else."""
    with pytest.raises(ValueError, match=r"\S"):
        EgressPolicy(allow_cidrs=[cidr])


def test_the_tables_can_be_rendered() -> None:
    """Each range has a name and a source and is listed once; IPv6 ranges lie in the allowed one."""
    ranges = (*IPV4_DENIED, *IPV6_DENIED)

    assert len({range_.network for range_ in ranges}) == len(ranges) == 24
    assert all(range_.name and range_.source for range_ in ranges)
    assert all(range_.network.subnet_of(IPV6_ALLOWED.network) for range_ in IPV6_DENIED)


@pytest.mark.parametrize(
    ("url", "normalised", "host", "port"),
    [
        ("https://hooks.example.com", "https://hooks.example.com/", "hooks.example.com", 443),
        ("HTTPS://Hooks.Example.COM./a/../B?x=%20y&z", "https://hooks.example.com/a/../B?x=%20y&z", None, 443),
        ("https://hooks.example.com:443?a=b", "https://hooks.example.com/?a=b", None, 443),
        ("https://hooks.example.com:08443/", "https://hooks.example.com:8443/", "hooks.example.com", 8443),
        ("https://bücher.example.com/ä".replace("/ä", "/"), "https://xn--bcher-kva.example.com/", None, 443),
        ("https://my_hooks.example.com/", "https://my_hooks.example.com/", "my_hooks.example.com", 443),
        ("https://8.8.8.8/", "https://8.8.8.8/", "8.8.8.8", 443),
        ("https://[2606:4700:0::1111]:8443/", "https://[2606:4700::1111]:8443/", "2606:4700::1111", 8443),
        ("https://[::ffff:8.8.8.8]/", "https://8.8.8.8/", "8.8.8.8", 443),
        ("https://a.example.com/t/{x}|y", "https://a.example.com/t/{x}|y", "a.example.com", 443),
    ],
)
def test_a_url_that_passes_is_normalised(url: str, normalised: str, host: str | None, port: int) -> None:
    """Scheme and host are folded and the default port dropped; path and query stay as they were written."""
    policy = EgressPolicy(ports=(443, 8443))

    target = policy.check_url(url)

    assert target.url == str(URL(target.url, encoded=True)) == normalised
    assert target.head.startswith(b"POST %b HTTP/1.1\r\n" % URL(normalised, encoded=True).raw_path_qs.encode())
    assert target.port == port
    assert host is None or target.host == host


@pytest.mark.parametrize("host", DISGUISED_ADDRESSES + NO_HOST_NAMES)
def test_a_host_in_disguise_is_blocked(host: str) -> None:
    """Historical, encoded and non-ASCII spellings of addresses are blocked, even where every address is allowed."""
    policy = EgressPolicy(allow_cidrs=["0.0.0.0/0", "::/0"])

    assert rule_of(policy, f"https://{host}/") is EgressRule.HOST


@pytest.mark.parametrize("host", INTERNAL_NAMES)
def test_a_name_for_internal_use_is_blocked_before_it_is_resolved(host: str) -> None:
    """Names of the machine, the local network and the cluster are blocked as names."""
    policy = EgressPolicy(allow_cidrs=["10.0.0.0/8"])

    assert rule_of(policy, f"https://{host}/") is EgressRule.INTERNAL_NAME


@pytest.mark.parametrize("address", [a for a in HOSTILE_ADDRESSES if "%" not in a])
def test_a_denied_address_in_a_url_is_blocked(address: str) -> None:
    """An address written in a URL, which no resolver sees, is held against the same tables."""
    policy = EgressPolicy()

    assert rule_of(policy, f"https://[{address}]/" if ":" in address else f"https://{address}/") is EgressRule.ADDRESS


@pytest.mark.parametrize(
    ("url", "rule"),
    [
        ("", EgressRule.FORM),
        ("hooks.example.com", EgressRule.FORM),
        ("//hooks.example.com/", EgressRule.FORM),
        ("https:hooks.example.com", EgressRule.FORM),
        ("https:/hooks.example.com/", EgressRule.FORM),
        ("https:///hooks.example.com/", EgressRule.FORM),
        ("https://?a", EgressRule.FORM),
        ("https://:443/", EgressRule.HOST),
        ("http://hooks.example.com/", EgressRule.SCHEME),
        ("ftp://hooks.example.com/", EgressRule.SCHEME),
        ("file:///etc/passwd", EgressRule.FORM),
        ("file://hooks.example.com/etc/passwd", EgressRule.SCHEME),
        ("unix://hooks.example.com/", EgressRule.SCHEME),
        ("gopher://hooks.example.com:443/_x", EgressRule.SCHEME),
        ("https://user:password@hooks.example.com/", EgressRule.USER_INFO),
        ("https://hooks.example.com@127.0.0.1/", EgressRule.USER_INFO),
        ("https://@hooks.example.com/", EgressRule.USER_INFO),
        ("https://hooks.example.com/#fragment", EgressRule.FRAGMENT),
        ("https://hooks.example.com/#", EgressRule.FRAGMENT),
        ("https://hooks.example.com#@127.0.0.1/", EgressRule.FRAGMENT),
        ("https://hooks.example.com/a b", EgressRule.CHARACTERS),
        (" https://hooks.example.com/", EgressRule.CHARACTERS),
        ("https://hooks.example.com/\n", EgressRule.CHARACTERS),
        ("https://hooks.example.com/\r\nx-injected: 1", EgressRule.CHARACTERS),
        ("https://hooks.example.com/\x00", EgressRule.CHARACTERS),
        ("https://hooks.example.com/\x7f", EgressRule.CHARACTERS),
        ("https://hooks.example.com/ä", EgressRule.CHARACTERS),
        ("https://hooks.example.com\\@127.0.0.1/", EgressRule.CHARACTERS),
        ("https:\\\\hooks.example.com\\", EgressRule.CHARACTERS),
        ("https://hooks.example.com:0/", EgressRule.PORT),
        ("https://hooks.example.com:22/", EgressRule.PORT),
        ("https://hooks.example.com:80/", EgressRule.PORT),
        ("https://hooks.example.com:99999/", EgressRule.PORT),
        ("https://hooks.example.com:443443/", EgressRule.HOST),
        ("https://hooks.example.com:-1/", EgressRule.HOST),
        ("https://hooks.example.com:\uff14\uff14\uff13/", EgressRule.HOST),
        ("https://hooks.example.com:443:443/", EgressRule.HOST),
        (f"https://hooks.example.com/{'a' * 2023}", EgressRule.LENGTH),
        (f"https://hooks.example.com?{'a' * 2022}", EgressRule.LENGTH),
    ],
)
def test_a_url_that_breaks_a_rule_is_blocked_by_that_rule(url: str, rule: EgressRule) -> None:
    """Each bad URL is blocked with the code of its rule."""
    policy = EgressPolicy()

    assert rule_of(policy, url) is rule


def test_the_longest_url_passes() -> None:
    """2048 characters are allowed."""
    policy = EgressPolicy()

    assert len(policy.check_url(f"https://hooks.example.com/{'a' * 2022}").url) == 2048


def test_plain_http_needs_its_switch_and_its_port() -> None:
    """`http` requires its own switch, and port 80 must still be an allowed port."""
    assert rule_of(EgressPolicy(allow_http=True), "http://hooks.example.com/") is EgressRule.PORT
    assert rule_of(EgressPolicy(allow_http=True, ports=(80,)), "http://hooks.example.com/") is None
    assert rule_of(EgressPolicy(allow_http=True, ports=(80,)), "https://hooks.example.com/") is EgressRule.PORT


def test_an_allowed_loopback_still_needs_an_allowed_port() -> None:
    """An exception for an address opens no port."""
    policy = EgressPolicy(allow_cidrs=["127.0.0.0/8"], ports=(443, (8000, 8999)))

    assert rule_of(policy, "https://127.0.0.1:8080/") is None
    assert rule_of(policy, "https://127.0.0.1:9000/") is EgressRule.PORT


@pytest.mark.parametrize("cidr", ["127.0.0.0/8", "127.0.0.1/32", "::1/128"])
def test_localhost_is_allowed_with_an_exception_for_loopback(cidr: str) -> None:
    """`localhost` goes with the loopback address; names below it stay blocked."""
    policy = EgressPolicy(allow_cidrs=[cidr])

    assert policy.check_url("https://LOCALHOST./").host == "localhost"
    assert rule_of(policy, "https://a.localhost/") is EgressRule.INTERNAL_NAME


def test_an_error_shows_nothing_of_the_url() -> None:
    """Neither the error nor its traceback shows user information, path or query."""
    policy = EgressPolicy()
    secret = "c4n4ry"
    urls = (f"http://h.example.com/{secret}", f"https://{secret}@h.example.com/{secret}?{secret}", f"https://{secret}/")

    for url in urls:
        with pytest.raises(EgressBlocked) as blocked:
            policy.check_url(url)

        text = f"{blocked.value} {blocked.value!r} {traceback.format_exception_only(blocked.value)}"
        assert "blocked destination: " in text
        assert secret not in text
        assert (blocked.value.__cause__, blocked.value.__context__) == (None, None)


def test_a_target_shows_its_host_alone() -> None:
    """The repr of a target has no path and no query."""
    target = EgressPolicy().check_url("https://hooks.example.com/services/T0/c4n4ry?c4n4ry")

    assert repr(target) == "ValidatedUrl(https://hooks.example.com:443)"


def test_a_parsed_target_is_cached() -> None:
    """The same URL is parsed once."""
    policy = EgressPolicy()

    assert policy.check_url("https://hooks.example.com/a") is policy.check_url("https://hooks.example.com/a")


def test_no_ports_allow_nothing() -> None:
    """An empty list of ports is no wildcard."""
    assert rule_of(EgressPolicy(ports=()), "https://hooks.example.com/") is EgressRule.PORT


def v4(address: str) -> AddrInfo:
    """Return an IPv4 answer."""
    return (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, 443))


def v6(address: str, scope: int = 0) -> AddrInfo:
    """Return an IPv6 answer."""
    return (socket.AF_INET6, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, 443, 0, scope))


@pytest.mark.parametrize(
    "info", [v4("127.0.0.1"), v6("::ffff:127.0.0.1"), v6("::1"), v6("fe80::1", 2), v6("2606:4700::1111", 2)]
)
def test_no_socket_is_made_for_a_denied_address(info: AddrInfo) -> None:
    """The last check before connecting blocks a denied address."""
    policy = EgressPolicy()

    with pytest.raises(ConnectionBlocked) as blocked:
        policy.guard_socket(info)

    assert isinstance(blocked.value, OSError)
    assert str(info[4][0]) not in str(blocked.value)


def test_a_socket_is_made_for_an_allowed_address() -> None:
    """The last check allows public addresses and exceptions."""
    policy = EgressPolicy(allow_cidrs=["127.0.0.1/32"])

    for info in (v4("8.8.8.8"), v4("127.0.0.1")):
        with policy.guard_socket(info) as made:
            assert (made.family, made.type) == (socket.AF_INET, socket.SOCK_STREAM)


@pytest.mark.parametrize("denied", [v4("127.0.0.1"), v4("10.0.0.1"), v6("::ffff:10.0.0.1"), v6("2606:4700::1", 3)])
def test_one_denied_answer_refuses_the_name(denied: AddrInfo) -> None:
    """A name with a public and a denied address is refused without showing the address."""
    with pytest.raises(ConnectionBlocked) as blocked:
        EgressPolicy().guard_answers("hooks.example.com", [v4("8.8.8.8"), denied])

    assert blocked.value.rule is EgressRule.RESOLVED
    assert str(denied[4][0]) not in str(blocked.value)


def test_localhost_resolves_to_allowed_addresses() -> None:
    """`localhost` uses 127.0.0.1 and not ::1 if only that is allowed, and nothing where no loopback is."""
    answers = [v6("::1"), v4("127.0.0.1")]

    assert EgressPolicy(allow_cidrs=["127.0.0.0/8"]).guard_answers("localhost", answers) == [v4("127.0.0.1")]
    with pytest.raises(ConnectionBlocked):
        EgressPolicy().guard_answers("localhost", answers)
