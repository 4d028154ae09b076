"""The stub resolver against a name server on loopback, honest and hostile."""

import asyncio
import contextlib
import itertools
import os
import random
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from consumers.dns.exchange import MAX_WRONG_ANSWERS
from consumers.dns.message import MAX_ADDRESSES, MAX_ALIASES, MalformedAnswer, decode_answer, encode_query
from consumers.dns.resolver import LOOKUP_TIMEOUT_S, NameServerFailure, ResolvedAddresses, StubResolver
from consumers.dns.system_files import DnsConfig, SystemNames, name_server, parse_hosts, parse_resolv_conf
from tests.component.dns.name_server import CNAME, A, Question, address, alias, name, record, serving_names, silence

NAME = "hooks.example.com"
ADDRESS = "203.0.113.7"


MakeResolver = Callable[..., StubResolver]


@pytest.fixture
def resolver_of(tmp_path: Path) -> MakeResolver:
    """Return a function that makes a resolver for these servers, with files in `tmp_path`."""

    def make(*servers: tuple[str, int], options: str = "timeout:1 attempts:1") -> StubResolver:
        resolv_conf = tmp_path / "resolv.conf"
        resolv_conf.write_text(f"search one.test two.test\noptions {options}\n")
        return StubResolver(SystemNames(servers=servers, resolv_conf=resolv_conf, hosts=tmp_path / "hosts"))

    return make


# Answers


async def test_a_name_has_the_addresses_of_both_families(resolver_of: MakeResolver) -> None:
    """The A and the AAAA records of a name are its addresses, with the smallest lifetime."""

    def respond(question: Question) -> list[bytes]:
        return [question.addresses(ADDRESS, "2001:db8::7", ttl_s=30 if question.type == A else 20)]

    async with serving_names(respond) as server:
        found = await resolver_of(server.address).resolve(NAME)

    assert set(found.addresses) <= {ADDRESS, "2001:db8::7"}
    assert ADDRESS in found.addresses
    assert found.ttl_s in (20, 30)


async def test_aliases_lead_to_the_addresses(resolver_of: MakeResolver) -> None:
    """The addresses of the last alias count, with the smallest lifetime on the way."""

    def respond(question: Question) -> list[bytes]:
        records = [
            alias(NAME, "one.example.net", 50),
            alias("one.example.net", "two.example.net", 7),
            address("two.example.net", ADDRESS, 40),
            address("unrelated.example.net", "203.0.113.9", 1),
        ]
        return [question.answer(records if question.type == A else [])]

    async with serving_names(respond) as server:
        found = await resolver_of(server.address).resolve(NAME)

    assert found == ResolvedAddresses((ADDRESS,), 7)


@pytest.mark.parametrize("length", [MAX_ALIASES - 1, MAX_ALIASES])
async def test_a_chain_of_aliases_has_an_end(resolver_of: MakeResolver, length: int) -> None:
    """A chain beyond the limit has no addresses."""

    def respond(question: Question) -> list[bytes]:
        chain = [NAME, *(f"a{number}.example.net" for number in range(length))]
        records = [alias(*pair) for pair in itertools.pairwise(chain)]
        return [question.answer([*records, address(chain[-1], ADDRESS)])]

    async with serving_names(respond) as server:
        found = await resolver_of(server.address).resolve(NAME)

    assert found.addresses == ((ADDRESS,) if length < MAX_ALIASES else ())


async def test_a_loop_of_aliases_has_no_addresses(resolver_of: MakeResolver) -> None:
    """Two aliases that lead to each other end the lookup."""

    def respond(question: Question) -> list[bytes]:
        return [question.answer([alias(NAME, "other.example.net"), alias("other.example.net", NAME)])]

    async with serving_names(respond) as server:
        found = await resolver_of(server.address).resolve(NAME)

    assert found.addresses == ()


async def test_a_name_that_does_not_exist_has_no_addresses(resolver_of: MakeResolver) -> None:
    """NXDOMAIN is an answer, and no other server is asked."""
    async with (
        serving_names(lambda question: [question.answer(code=3)]) as first,
        serving_names(lambda question: [question.addresses(ADDRESS)]) as second,
    ):
        found = await resolver_of(first.address, second.address).resolve(NAME)

    assert (found.addresses, second.asked[NAME]) == ((), 0)


async def test_a_truncated_answer_is_read_over_tcp(resolver_of: MakeResolver) -> None:
    """The addresses come from the connection."""
    async with serving_names(
        lambda question: [question.answer(flags=0x0200)], lambda question: [question.addresses(ADDRESS)]
    ) as server:
        found = await resolver_of(server.address).resolve(NAME)

    assert found.addresses == (ADDRESS,)
    assert server.streams >= 1


async def test_use_vc_asks_over_tcp_alone(resolver_of: MakeResolver) -> None:
    """The option of `resolv.conf` avoids UDP."""
    async with serving_names(silence, lambda question: [question.addresses(ADDRESS)]) as server:
        found = await resolver_of(server.address, options="use-vc").resolve(NAME)

    assert (found.addresses, server.asked[NAME]) == ((ADDRESS,), 0)


# Hostile answers


@pytest.mark.parametrize("count", [40, 400])
async def test_of_many_addresses_a_few_count(resolver_of: MakeResolver, count: int) -> None:
    """A name with hundreds of addresses is used with the first ones."""
    many = [f"203.0.{number // 256}.{number % 256}" for number in range(count)]

    async with serving_names(
        lambda question: [question.answer(flags=0x0200)], lambda question: [question.addresses(*many)]
    ) as server:
        found = await resolver_of(server.address).resolve(NAME)

    assert set(found.addresses) <= set(many)
    assert 1 <= len(found.addresses) <= MAX_ADDRESSES


@pytest.mark.parametrize("size", [17_000, 65_000])
async def test_a_huge_answer_is_not_read(resolver_of: MakeResolver, size: int) -> None:
    """A text record of this size fails the lookup."""

    def respond(question: Question) -> list[bytes]:
        return [question.answer([address(NAME, ADDRESS), record(name(NAME), 16, b"x" * size)])]

    async with serving_names(lambda question: [question.answer(flags=0x0200)], respond) as server:
        with pytest.raises(NameServerFailure):
            await resolver_of(server.address).resolve(NAME)


async def test_answers_to_other_queries_are_ignored(resolver_of: MakeResolver) -> None:
    """A wrong id, another name or another type does not answer the query, and the right answer counts."""

    def respond(question: Question) -> list[bytes]:
        own_id = int.from_bytes(question.message[:2], "big")
        forged = [address(NAME, "198.51.100.66")]
        other = Question(question.message.replace(b"\x05hooks", b"\x05other"))
        return [
            question.answer(forged, query_id=own_id ^ 1),
            other.answer(forged),
            question.message,
            b"",
            b"\0" * 11,
            question.addresses(ADDRESS),
        ]

    async with serving_names(respond) as server:
        found = await resolver_of(server.address).resolve(NAME)

    assert found.addresses == (ADDRESS,)


async def test_a_flood_of_guesses_moves_the_query_to_tcp(resolver_of: MakeResolver) -> None:
    """A forger who guesses ids does not reach the connection."""

    def respond(question: Question) -> list[bytes]:
        own_id = int.from_bytes(question.message[:2], "big")
        guesses = [(own_id + 1 + number) % 0x10000 for number in range(MAX_WRONG_ANSWERS)]
        forged = [address(NAME, "198.51.100.66")]
        return [*(question.answer(forged, query_id=guess) for guess in guesses), question.answer(forged)]

    async with serving_names(respond, lambda question: [question.addresses(ADDRESS)]) as server:
        found = await resolver_of(server.address).resolve(NAME)

    assert found.addresses == (ADDRESS,)


async def test_an_answer_from_another_source_is_ignored(resolver_of: MakeResolver) -> None:
    """Only the server's own address answers, even with the right id."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as forger:
        forger.bind(("127.0.0.1", 0))

        def respond(question: Question) -> list[bytes]:
            forger.sendto(question.answer([address(NAME, "198.51.100.66")]), server.peers[-1])
            return [question.addresses(ADDRESS)]

        async with serving_names(respond) as server:
            found = await resolver_of(server.address).resolve(NAME)

    assert found.addresses == (ADDRESS,)


async def test_queries_come_from_many_ports(resolver_of: MakeResolver) -> None:
    """Each query has a port of its own, so that a forger has to guess it."""
    async with serving_names(lambda question: [question.addresses(ADDRESS)]) as server:
        resolver = resolver_of(server.address)
        for number in range(20):
            await resolver.resolve(f"n{number}.example.com")

    assert len({port for _, port in server.peers}) > 15


MALFORMED = {
    "pointer to itself": b"\xc0\x1f" + b"\0\1\0\1\0\0\0\1\0\4\1\2\3\4",
    "pointer forwards": b"\xc0\xff" + b"\0\1\0\1\0\0\0\1\0\4\1\2\3\4",
    "no record": b"",
    "short record": b"\xc0\x0c\0\1",
    "data beyond the end": b"\xc0\x0c\0\1\0\1\0\0\0\1\xff\xff\1\2\3\4",
    "address of three bytes": b"\xc0\x0c\0\1\0\1\0\0\0\1\0\3\1\2\3",
    "reserved label": b"\x80a\0\1\0\1\0\0\0\1\0\4\1\2\3\4",
    "long name": b"\x3f" + b"a" * 63 + (b"\x3f" + b"a" * 63) * 4 + b"\0\0\1\0\1\0\0\0\1\0\4\1\2\3\4",
}


@pytest.mark.parametrize("record_bytes", MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_answer_is_refused(record_bytes: bytes) -> None:
    """Each of these breaks the format, and none of them loops or raises another error."""
    query = encode_query(7, "a.example.com", 1)
    message = b"\0\7\x81\x80\0\1\0\1\0\0\0\0" + query[12:] + record_bytes

    with pytest.raises(MalformedAnswer):
        decode_answer(message, query)


def test_any_bytes_are_an_answer_or_malformed() -> None:
    """Answers with random changes are decoded or refused."""
    chance = random.Random(7)  # noqa: S311 - no secret
    query = encode_query(7, NAME, 1)
    good = Question(query).answer([alias(NAME, "one.example.net"), address("one.example.net", ADDRESS)])
    for _ in range(20_000):
        changed = bytearray(good)
        for _ in range(chance.randrange(1, 6)):
            changed[chance.randrange(len(changed))] = chance.randrange(256)
        with contextlib.suppress(MalformedAnswer):
            decode_answer(bytes(changed[: chance.randrange(len(changed) + 1)]), query)


def test_an_answer_that_repeats_a_long_name_is_refused_quickly() -> None:
    """Pointers to a name of 120 labels in each record cost a millisecond in all."""
    query = encode_query(7, NAME, 1)
    first = len(query)
    long_name = b"\1a" * 120 + b"\0"
    records = [record(long_name, 1, b"\1\2\3\4")]
    records += [
        record(bytes([0xC0 | first >> 8, first & 0xFF]), CNAME, bytes([0xC0 | first >> 8, first & 0xFF]))
    ] * 1000
    message = Question(query).answer(records)
    took_s: list[float] = []

    for _ in range(20):
        started = time.process_time()
        with pytest.raises(MalformedAnswer):
            decode_answer(message, query)
        took_s.append(time.process_time() - started)

    assert min(took_s) < 0.005, "0.6 ms without a machine's other work"


# Servers that fail


@pytest.mark.parametrize("code", [1, 2, 4, 5])
async def test_a_refusing_server_is_followed_by_the_next(resolver_of: MakeResolver, code: int) -> None:
    """FORMERR, SERVFAIL, NOTIMP and REFUSED move the query on at once."""
    async with (
        serving_names(
            lambda question: [question.answer(code=code)[:12] if code == 5 else question.answer(code=code)]
        ) as first,
        serving_names(lambda question: [question.addresses(ADDRESS)]) as second,
    ):
        found = await resolver_of(first.address, second.address).resolve(NAME)

    assert (found.addresses, first.asked[NAME] >= 1) == ((ADDRESS,), True)


async def test_the_server_that_answered_is_asked_first_from_then_on(resolver_of: MakeResolver) -> None:
    """A silent first server costs one lookup its timeout."""
    async with (
        serving_names() as silent,
        serving_names(lambda question: [question.addresses(ADDRESS)]) as second,
    ):
        resolver = resolver_of(silent.address, second.address)
        await resolver.resolve(NAME)
        before = sum(silent.asked.values())
        found = await resolver.resolve("other.example.com")

    assert (found.addresses, sum(silent.asked.values())) == ((ADDRESS,), before)


async def test_an_error_leaves_the_order_of_the_servers(resolver_of: MakeResolver) -> None:
    """The owner of one name can cause an error, and would choose the server of every other name."""
    async with (
        serving_names(
            lambda question: [question.answer(code=2) if question.name == NAME else question.addresses(ADDRESS)]
        ) as first,
        serving_names(lambda question: [question.addresses(ADDRESS)]) as second,
    ):
        resolver = resolver_of(first.address, second.address)
        await resolver.resolve(NAME)
        await resolver.resolve("other.example.com")

    assert (first.asked["other.example.com"] >= 1, second.asked["other.example.com"]) == (True, 0)


async def test_a_lost_datagram_is_sent_again(resolver_of: MakeResolver) -> None:
    """A query whose first datagram is lost is answered without waiting for the timeout."""

    def respond(question: Question) -> list[bytes]:
        return [question.addresses(ADDRESS)] if server.asked[NAME] > 2 else []

    async with serving_names(respond) as server:
        found = await resolver_of(server.address, options="timeout:5 attempts:1").resolve(NAME)

    assert found.addresses == (ADDRESS,)


async def test_a_closed_port_fails_at_once(resolver_of: MakeResolver) -> None:
    """The refusal of the machine is an answer."""
    async with serving_names() as server:
        closed = server.address

    with pytest.raises(NameServerFailure):
        await asyncio.wait_for(resolver_of(closed, options="timeout:30 attempts:5").resolve(NAME), 20)


async def test_a_family_without_an_answer_delays_the_other_briefly(resolver_of: MakeResolver) -> None:
    """Servers that never answer AAAA queries are common."""
    async with serving_names(lambda question: [question.addresses(ADDRESS)] if question.type == A else []) as server:
        found = await asyncio.wait_for(resolver_of(server.address, options="timeout:9").resolve(NAME), 5)

    assert found.addresses == (ADDRESS,)


@pytest.mark.long
async def test_a_lookup_has_an_end(resolver_of: MakeResolver) -> None:
    """Whatever the options say, a lookup ends."""
    async with serving_names() as server:
        started = time.monotonic()
        with pytest.raises(NameServerFailure):
            await resolver_of(server.address, options="timeout:30 attempts:5").resolve(NAME)

    assert time.monotonic() - started < LOOKUP_TIMEOUT_S + 2


# The machine's files


async def test_the_files_are_read_again_when_they_change(resolver_of: MakeResolver, tmp_path: Path) -> None:
    """A changed hosts file counts at the next lookup, and a missing one leaves what was known."""
    resolver = resolver_of(("127.0.0.1", 9))
    hosts = tmp_path / "hosts"
    hosts.write_text(f"{ADDRESS} {NAME} other # {NAME}\n")
    first = await resolver.resolve(NAME)
    replacement = tmp_path / "replacement"
    replacement.write_text(f"203.0.113.80 {NAME}\n")
    os.replace(replacement, hosts)  # noqa: PTH105
    second = await resolver.resolve(NAME.upper() + ".")
    hosts.unlink()
    third = await resolver.resolve(NAME)

    assert [found.addresses for found in (first, second, third)] == [(ADDRESS,), ("203.0.113.80",), ("203.0.113.80",)]


async def test_localhost_and_addresses_need_no_server(resolver_of: MakeResolver) -> None:
    """They are resolved without a query."""
    resolver = resolver_of(("127.0.0.1", 9))

    local, literal = await resolver.resolve("localhost"), await resolver.resolve(ADDRESS)

    assert set(local.addresses) == {"127.0.0.1", "::1"}
    assert literal.addresses == (ADDRESS,)


def test_resolv_conf_is_read_like_the_c_library() -> None:
    """Servers, search domains and options; comments and unknown words are skipped."""
    config = parse_resolv_conf(
        "; comment\n# comment\ndomain old.example\nsearch ns.svc.cluster.local  Cluster.Local.\n"
        "nameserver 10.0.0.10\nnameserver bad\nnameserver fd00::10\nnameserver\nnameserver 10.0.0.11\n"
        "nameserver 10.0.0.12\noptions ndots:5 timeout:2 attempts:99 rotate\noptions use-vc edns0 ndots:x\n"
    )

    assert [server.address[:2] for server in config.servers] == [("10.0.0.10", 53), ("fd00::10", 53), ("10.0.0.11", 53)]
    assert config.search == ("ns.svc.cluster.local", "cluster.local")
    assert (config.ndots, config.timeout_s, config.attempts, config.rotate, config.tcp) == (1, 2, 5, True, True)


def test_an_empty_resolv_conf_means_the_local_server() -> None:
    """As for the C library."""
    assert parse_resolv_conf("") == DnsConfig(servers=(name_server("127.0.0.1"),))


def test_a_name_in_hosts_has_all_its_addresses() -> None:
    """In their order; lines that begin with anything else are skipped."""
    text = "127.0.0.1 localhost\n::1 localhost ip6\nfe80::1%lo0 localhost\nbad host\n10.0.0.1\n\n"

    assert parse_hosts(text) == {"localhost": ("127.0.0.1", "::1"), "ip6": ("::1",)}


@pytest.mark.parametrize(
    ("search", "host", "asked"),
    [
        (False, "hooks.example", ["hooks.example"]),
        (True, "hooks", ["hooks.one.test", "hooks.two.test", "hooks"]),
        (True, "a.b.hooks", ["a.b.hooks", "a.b.hooks.one.test", "a.b.hooks.two.test"]),
    ],
)
async def test_search_domains_count_only_on_request(
    resolver_of: MakeResolver, search: bool, host: str, asked: list[str]
) -> None:
    """Names are complete, unless the caller asks for the rules of `resolv.conf`."""
    async with serving_names(lambda question: [question.answer(code=3)]) as server:
        found = await resolver_of(server.address, options="ndots:2").resolve(host, search=search)

    assert (found.addresses, list(server.asked)) == ((), asked)


async def test_a_search_domain_that_fails_is_followed_by_the_next(resolver_of: MakeResolver) -> None:
    """Like in the C library. Without addresses in any domain the failure counts, as the name may exist."""

    def respond(question: Question) -> list[bytes]:
        if question.name == "hooks.two.test":
            return [question.addresses(ADDRESS)]
        return [question.answer(code=2 if question.name.endswith(".one.test") else 3)]

    async with serving_names(respond) as server:
        resolver = resolver_of(server.address)
        found = await resolver.resolve("hooks", search=True)
        with pytest.raises(NameServerFailure):
            await resolver.resolve("other", search=True)

    assert found.addresses == (ADDRESS,)
    assert server.asked["other"] >= 1
