"""The turns in which credentials are checked."""

from consumers.credentials.turn_queue import MAX_RUNNING, MAX_RUNNING_PER_TENANT, TurnQueue


def test_a_tenant_with_one_key_waits_for_no_other_tenants_keys() -> None:
    """However many keys others have waiting, the next start is its own."""
    queue = TurnQueue()
    for number in range(5000):
        queue.add(f"acme.c{number}")
    started = [queue.start() for _ in range(MAX_RUNNING_PER_TENANT)]
    queue.add("globex.key")

    assert started == ["acme.c0", "acme.c1"]
    assert queue.start() == "globex.key"
    assert queue.start() is None, "the other tenant has as many running as it may"
    queue.end("acme.c1")
    assert queue.start() == "acme.c2"


def test_tenants_take_turns() -> None:
    """Each tenant starts one key before any starts its second; the total is bounded."""
    queue = TurnQueue()
    for number in range(2):
        for tenant in range(MAX_RUNNING):
            queue.add(f"t{tenant}.c{number}")
    started = [queue.start() for _ in range(MAX_RUNNING + 1)]
    assert started == [*(f"t{tenant}.c0" for tenant in range(MAX_RUNNING)), None]


def test_a_new_key_is_first_among_those_of_its_tenant() -> None:
    """A key that waits already moves, and is started once."""
    queue = TurnQueue()
    for key in ("acme.a", "acme.b", "acme.c"):
        queue.add(key)
    queue.add("acme.c", first=True)
    assert [queue.start(), queue.start(), len(queue)] == ["acme.c", "acme.a", 1]


def test_a_key_that_is_added_while_it_runs_runs_again_afterwards() -> None:
    """Never twice at a time."""
    queue = TurnQueue()
    queue.add("acme.a")
    assert queue.start() == "acme.a"
    queue.add("acme.a")
    queue.add("acme.a")
    assert (queue.start(), queue.is_running("acme.a")) == (None, True)
    queue.end("acme.a")
    assert [queue.start(), queue.start()] == ["acme.a", None]


def test_a_discarded_key_is_not_started() -> None:
    """Not even when its tenant has no turn at the moment."""
    queue = TurnQueue()
    for number in range(4):
        queue.add(f"acme.c{number}")
    started = [queue.start(), queue.start()]
    queue.discard("acme.c2")
    queue.discard("acme.c3")
    queue.discard("globex.unknown")
    for key in started:
        queue.end(key or "")
    assert (queue.start(), len(queue)) == (None, 0)
