"""The store of the cache, compared with a list that is searched each time."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from provider.cache.store import CacheEntry, SnapshotStore
from provider.secret_ref import NamespacedName
from provider.snapshot import SecretSnapshot

CAPACITY = 6

steps = st.lists(
    st.tuples(st.sampled_from(["put", "put", "touch", "discard"]), st.sampled_from("abc"), st.integers(0, 3)),
    min_size=20,
    max_size=60,
)


def entry(tenant: str, *, outdated: bool = False) -> CacheEntry:
    """Of that tenant, and of use for an hour or no longer."""
    useful_s = 0.0 if outdated else 3600.0
    return CacheEntry(
        SecretSnapshot(tenant=tenant, purpose="webhook-signing", version="uid/1", secrets={}),
        began_at=0.0,
        fresh_s=useful_s,
        stale_s=useful_s,
        refuses_s=useful_s,
        refresh_s=useful_s,
    )


@given(steps)
def test_the_largest_tenant_loses_its_least_used_secret(course: list[tuple[str, str, int]]) -> None:
    """No tenant falls below an equal share, and the total is bounded."""
    shelf, model = SnapshotStore(CAPACITY), list[tuple[str, NamespacedName]]()  # the least used first
    for step, tenant, number in course:
        place = (tenant, str(number))
        if step == "put":
            shelf.put(place, entry(tenant), now=1.0)
            model = [*(kept for kept in model if kept[1] != place), (tenant, place)]
            if len(model) > CAPACITY:
                counts = Counter(owner for owner, _ in model)
                share = CAPACITY / len(counts)
                victim = next(kept for kept in model if counts[kept[0]] == max(counts.values()))
                assert counts[victim[0]] > share
                model.remove(victim)
        elif step == "discard":
            shelf.discard(place)
            model = [kept for kept in model if kept[1] != place]
        elif shelf.get(place) is not None:
            shelf.touch(place)
            model = [*(kept for kept in model if kept[1] != place), (tenant, place)]

        assert len(shelf) == len(model) <= CAPACITY
        assert all(shelf.get(place) is not None for _, place in model)


@given(st.lists(st.booleans(), max_size=CAPACITY))
def test_expired_secrets_are_removed_from_the_least_used_on(outdated: list[bool]) -> None:
    """Each insertion removes expired Secrets up to the first useful one."""
    shelf = SnapshotStore(2 * CAPACITY)
    for number, is_outdated in enumerate(outdated):
        shelf.put(("old", str(number)), entry("a", outdated=is_outdated), now=-1.0)

    shelf.put(("new", "0"), entry("b"), now=1.0)

    first_useful = outdated.index(False) if False in outdated else len(outdated)
    assert len(shelf) == len(outdated) - first_useful + 1
