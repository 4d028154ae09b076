"""The API's cache of tokens."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import msgspec
import pytest

from messaging.kv import KvEntry
from messaging.kv_cache import REPLICA_LAG_S
from oneprotect.api.auth import token_cache
from oneprotect.api.auth.token_cache import READ_AGAIN_S, TokenCache
from oneprotect.api.auth.token_format import IssuedToken
from schemas.roles import Role, Token
from tests.support.waiting import until
from tests.unit.messaging.kv_bucket import StubBucket

ISSUED = IssuedToken()
TOKEN = Token(
    tenant="acme", roles=(Role.VIEWER,), digest=ISSUED.digest, created_at=datetime.now(UTC), created_by="test"
)
ENTRY = KvEntry(f"acme.{ISSUED.id}", msgspec.json.encode(TOKEN), 1)


@pytest.fixture
def bucket() -> StubBucket:
    """A bucket without tokens."""
    return StubBucket()


@pytest.fixture
async def cache(bucket: StubBucket) -> AsyncIterator[TokenCache]:
    """A running cache of the bucket."""
    cache = TokenCache(bucket.bucket, bucket.connection)
    running = asyncio.create_task(cache.run())
    await until(lambda: cache.is_ready)
    yield cache
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def read_again(bucket: StubBucket, cache: TokenCache) -> None:
    """Have all tokens read again, as after a reconnect."""
    reads = bucket.reads
    await cache.forget()
    await until(lambda: bucket.reads > reads)


async def look_up(cache: TokenCache) -> bool:
    """Look the token up in the bucket."""
    return await cache.look_up(ISSUED.id, ISSUED.reveal()) is not None


@pytest.mark.parametrize("is_announced", [False, True])
async def test_a_token_whose_revocation_was_not_announced_ends_with_the_next_list(
    bucket: StubBucket, cache: TokenCache, *, is_announced: bool
) -> None:
    """A lagging replica does not bring the token back."""
    bucket.entries = [ENTRY]
    if is_announced:
        await bucket.announce(ENTRY)
    assert await look_up(cache)

    bucket.entries = []
    await read_again(bucket, cache)
    assert cache.known(ISSUED.id) is None

    bucket.entries = [ENTRY]
    assert not await look_up(cache)
    await read_again(bucket, cache)
    assert cache.known(ISSUED.id) is None


async def test_looking_up_a_token_is_no_announcement(
    bucket: StubBucket, cache: TokenCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next regular list decides, without a reconnect."""
    monkeypatch.setattr(token_cache, "READ_AGAIN_S", 0.01)
    await read_again(bucket, cache)
    bucket.entries = [ENTRY]
    assert await look_up(cache)

    bucket.entries = []
    await until(lambda: cache.known(ISSUED.id) is None)


def test_a_lost_announcement_counts_within_a_minute() -> None:
    """One list may be too early to count, the next one is not."""
    assert READ_AGAIN_S + REPLICA_LAG_S <= 60
