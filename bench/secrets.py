"""`python -m bench.secrets`: what resolving costs, and how often the API server is asked for it.

Secrets in memory, a cold start, and one cold Secret that everybody wants at once. Times say as much about the machine
as about the program, so they are shown beside what is wanted and break nothing; a number of GETs that is wrong does.
The API server is the tests' double, over TLS on the loopback, in the same process and so on the same core; it takes 3
ms for an answer, as real ones do, so that GETs overlap.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median
from typing import Final

import uvloop
from aiohttp import web
from msgspec import Struct

from bench.harness.command import write_json
from provider.cache.provider import CachedSecretProvider
from provider.kubernetes.api_server import ApiServerConfig
from provider.kubernetes.provider import KubernetesSecretProvider
from provider.kubernetes.reader import MAX_CONCURRENT_READS
from provider.secret_ref import SecretRef
from schemas.ids import Purpose
from tests.kubernetes.apiserver import Answer, ApiServer
from tests.kubernetes.manifests import manifest

NAMESPACE: Final = "webhooks"
KNOWN: Final = 1000
ROUNDS: Final = 7
BURST: Final = 500
CROWD: Final = 10_000

WANTED_RESOLVE_US: Final = 5.0
WANTED_BURST_S: Final = 2.0
DEADLINE_S: Final = 60.0
ANSWER_S: Final = 0.003


class Row(Struct, frozen=True):
    """A figure, and its target."""

    what: str
    found: str
    wanted: str
    broken: bool = False
    """A bound that does not depend on the machine is not kept."""


class Stand:
    """An API server with Secrets, and a provider with a cache before it."""

    def __init__(self, server: ApiServer, cache: CachedSecretProvider) -> None:
        self.server = server
        self.cache = cache

    async def resolve(self, ref: SecretRef) -> None:
        """As a delivery does."""
        await self.cache.resolve(ref, tenant="acme", purpose=Purpose.WEBHOOK_SIGNING)


@asynccontextmanager
async def stand(secrets: int) -> AsyncGenerator[tuple[Stand, list[SecretRef]]]:
    """With so many Secrets, none of them in memory, and a ref to each."""
    refs = [SecretRef(namespace=NAMESPACE, name=f"signing-{number}", key="signing") for number in range(secrets)]
    with tempfile.TemporaryDirectory(prefix="oneprotect-bench-") as directory:
        async with ApiServer.running(Path(directory)) as server:
            server.every_answer = _unhurried(server)
            server.grant(NAMESPACE)
            for ref in refs:
                server.objects["secrets", NAMESPACE, ref.name] = manifest(name=ref.name)
            provider = KubernetesSecretProvider(
                namespaces_allowed=frozenset({NAMESPACE}),
                server=await ApiServerConfig.in_cluster(
                    directory=server.service_account(Path(directory) / "account"), environ=server.environ
                ),
                timeout_s=DEADLINE_S,
            )
            cache = CachedSecretProvider(provider)
            yield Stand(server, cache), refs
            await cache.aclose()


def _unhurried(server: ApiServer) -> Answer:
    async def answer(request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(ANSWER_S)
        return await server.answer(request)

    return answer


async def from_memory() -> list[Row]:
    """Resolves of Secrets that are in memory, one after the other, as deliveries come."""
    async with stand(KNOWN) as (opened, refs):
        await asyncio.gather(*map(opened.resolve, refs))
        sent, cache = len(opened.server.requests), opened.cache

        async def resolve_all() -> None:
            for ref in refs:
                await cache.resolve(ref, tenant="acme", purpose=Purpose.WEBHOOK_SIGNING)

        async def look_all_up() -> None:
            for ref in refs:
                cache.find_cached(ref, tenant="acme", purpose=Purpose.WEBHOOK_SIGNING)

        resolve_us, cached_us = [
            [await _took_s(each) / len(refs) * 1e6 for _ in range(ROUNDS)] for each in (resolve_all, look_all_up)
        ]
        more, hits = len(opened.server.requests) - sent, cache.hits
    return [
        Row(f"resolve, {KNOWN} Secrets in memory", f"{median(resolve_us):.2f} us", f"< {WANTED_RESOLVE_US:.0f} us"),
        Row("  the fastest of its rounds", f"{min(resolve_us):.2f} us", ""),
        Row("  `cached`, without the coroutine", f"{median(cached_us):.2f} us", ""),
        _count("  from memory", hits, 2 * ROUNDS * KNOWN),
        _count("  GETs meanwhile", more, 0),
    ]


async def from_nothing() -> list[Row]:
    """Every Secret at once, none of them known: a consumer that has just started."""
    async with stand(BURST) as (opened, refs):

        async def resolve_all() -> None:
            await asyncio.gather(*map(opened.resolve, refs))

        took_s = await _took_s(resolve_all)
        sent, most = len(opened.server.requests), opened.server.most_in_flight
    return [
        Row(f"{BURST} cold refs at once", f"{took_s:.2f} s", f"< {WANTED_BURST_S:.0f} s"),
        _count("  GETs", sent, BURST),
        Row("  GETs at the same time", str(most), f"<= {MAX_CONCURRENT_READS}", broken=most > MAX_CONCURRENT_READS),
    ]


async def from_one() -> list[Row]:
    """Measure a cold Secret that all callers request at once."""
    async with stand(1) as (opened, (ref,)):

        async def crowd() -> None:
            await asyncio.gather(*(opened.resolve(ref) for _ in range(CROWD)))

        took_s = await _took_s(crowd)
        sent = len(opened.server.requests)
    return [Row(f"{CROWD} resolves of one cold ref", f"{took_s:.2f} s", ""), _count("  GETs", sent, 1)]


def _count(what: str, found: int, wanted: int) -> Row:
    return Row(what, str(found), f"= {wanted}", broken=found != wanted)


async def _took_s(action: Callable[[], Awaitable[None]]) -> float:
    began_s = time.perf_counter()
    await action()
    return time.perf_counter() - began_s


async def measure() -> list[Row]:
    """Everything, one after the other, within a deadline."""
    async with asyncio.timeout(DEADLINE_S):
        return [*await from_memory(), *await from_nothing(), *await from_one()]


def main() -> int:
    """Print the table; 1 if a bound that is a number of calls is not kept."""
    parser = argparse.ArgumentParser(prog="python -m bench.secrets", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there, too")
    arguments = parser.parse_args()
    rows = uvloop.run(measure())
    write_json(arguments.json, rows)
    for row in rows:
        print(f"{row.what:40}{row.found:>12}   {row.wanted:10}{'BROKEN' if row.broken else ''}".rstrip())
    return int(any(row.broken for row in rows))


if __name__ == "__main__":
    sys.exit(main())
