"""The cache under any course of events, compared with a simple model, on a manual clock."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from provider.cache.provider import CachedSecretProvider
from provider.errors import SecretDenied, SecretError, SecretMismatch, SecretNotFound, SecretUnavailable
from provider.secret_manifest import read_manifest
from provider.secret_ref import SecretRef
from provider.signing_secret import SigningSecret
from provider.snapshot import SecretSnapshot
from schemas.ids import Purpose
from tests.kubernetes.manifests import PURPOSE_LABEL, TENANT_LABEL, encoded, manifest

TTL_S, MAX_STALE_S, REFUSAL_S = 60.0, 300.0, 6.0
NAMES, TENANTS = ["one", "two"], ["acme", "globex"]

names = st.sampled_from(["one", "one", "one", "two"])
tenants = st.sampled_from(TENANTS)


@dataclass(frozen=True)
class Known:
    """A version of a Secret: its owner, and the start of its read."""

    version: int
    owner: str
    began_s: float


Outcome = Known | type[SecretError]


@dataclass(eq=False)
class Read:
    """A read in progress, whose result is fixed at its start unless it fails."""

    name: str
    outcome: Outcome
    future: asyncio.Future[Outcome]


@dataclass
class Model:
    """Permitted knowledge of a cache of one Secret."""

    known: Known | None = None
    refused: type[SecretError] | None = None
    refused_s: float = 0.0
    silent: bool = False
    """The last read failed."""
    current: Read | None = None
    """The read whose answer will count."""
    waiting: list[tuple[asyncio.Task[Any], str, Read]] = field(default_factory=list[Any])


class World:
    """A provider whose reads end on request."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.versions = 0
        self.states: dict[str, type[SecretError] | tuple[int, str]] = dict.fromkeys(NAMES, (0, "acme"))
        self.begun: list[Read] = []

    async def read(self, ref: SecretRef) -> SecretSnapshot:
        state = self.states[ref.name]
        outcome = state if isinstance(state, type) else Known(*state, self.now_s)
        read = Read(ref.name, outcome, asyncio.get_running_loop().create_future())
        self.begun.append(read)
        outcome = await read.future
        if not isinstance(outcome, Known):
            raise outcome
        document = manifest(name=ref.name, labels={TENANT_LABEL: outcome.owner, PURPOSE_LABEL: "webhook-signing"})
        document["metadata"].update(uid="uid", resourceVersion=str(outcome.version))
        snapshot = read_manifest(encoded(document), ref)
        assert isinstance(snapshot, SecretSnapshot)
        return snapshot

    async def aclose(self) -> None: ...


class Course(RuleBasedStateMachine):
    """Resolves, good, failed and late reads, evictions, changes of Secrets, and time."""

    @initialize(share=st.sampled_from([0.0, 0.5, 1.0]))
    def begin(self, share: float) -> None:
        self.loop = asyncio.new_event_loop()
        self.world = World()
        self.models = {name: Model() for name in NAMES}
        self.under_way: list[Read] = []
        self.cache = CachedSecretProvider(
            self.world,
            ttl_s=TTL_S,
            max_stale_s=MAX_STALE_S,
            clock=lambda: self.world.now_s,
            jitter=lambda low, high: low + share * (high - low),
            denied_pauses_s=(),
        )

    @rule(name=names, tenant=tenants)
    def resolve(self, name: str, tenant: str) -> None:
        """Resolve from memory with a correct answer, or wait for the Secret's one read."""
        model = self.models[name]
        ref = SecretRef(namespace="webhooks", name=name, key="signing")
        task = self.loop.create_task(self.cache.resolve(ref, tenant=tenant, purpose=Purpose.WEBHOOK_SIGNING))
        self.turn()
        if task.done() and self.world.begun:  # ahead of time, and no caller waits for it
            assert model.known is not None
            assert self.age_s(model.known) >= 0.8 * 0.8 * TTL_S
        self.note_new_reads()
        if task.done():
            self.check_from_memory(model, tenant, outcome_of(task))
            return
        assert model.current is not None
        model.waiting.append((task, tenant, model.current))

    @rule(name=names, fails=st.sampled_from([False, False, True]))
    def resolve_as_the_owner(self, name: str, fails: bool) -> None:
        """Resolve as the owner and end the read at once, the most frequent case."""
        state = self.world.states[name]
        self.resolve(name, "acme" if isinstance(state, type) else state[1])
        current = self.models[name].current
        if current is not None:
            self.end(current, fails=fails)

    @rule(name=names, error=st.sampled_from([SecretNotFound, SecretDenied]))
    def lose(self, name: str, error: type[SecretError]) -> None:
        """Refuse and then cause an outage, after which nothing may be served."""
        self.world.states[name] = error
        self.advance(61.0)
        self.resolve_as_the_owner(name, fails=False)
        self.advance(7.0)
        self.resolve_as_the_owner(name, fails=True)

    @rule(name=names)
    def outlast(self, name: str) -> None:
        """Cause an outage longer than the stale time."""
        self.resolve_as_the_owner(name, fails=False)
        for seconds in (61.0, 190.0, 61.0):
            self.advance(seconds)
            self.resolve_as_the_owner(name, fails=True)

    @rule(name=names)
    def use_a_lot(self, name: str) -> None:
        """Use a Secret often shortly before its expiry, which may cause only one read."""
        self.resolve_as_the_owner(name, fails=False)
        self.advance(47.9)
        state = self.world.states[name]
        for _ in range(3):
            self.resolve(name, "acme" if isinstance(state, type) else state[1])

    @rule(name=names, older_first=st.booleans())
    def overtake(self, name: str, older_first: bool) -> None:
        """End a read that began before an eviction, whose answer must not count."""
        reads: list[Read | None] = []
        for _ in range(2):
            self.evict(name)
            self.change(name, "acme")
            self.resolve(name, "acme")
            reads.append(self.models[name].current)
        for read in reads if older_first else reversed(reads):
            assert read is not None
            self.end(read, fails=False)
        self.resolve(name, "acme")

    @precondition(lambda self: self.under_way)
    @rule(data=st.data(), fails=st.booleans())
    def end_read(self, data: st.DataObject, fails: bool) -> None:
        """End any read; overtaken reads do not count."""
        self.end(data.draw(st.sampled_from(self.under_way)), fails=fails)

    def end(self, read: Read, *, fails: bool) -> None:
        """End a read and check the results of its waiting callers."""
        self.under_way.remove(read)
        outcome = SecretUnavailable if fails else read.outcome
        read.future.set_result(outcome)
        self.turn()
        model = self.models[read.name]
        if model.current is read:
            model.current = None
            self.learn(model, outcome)
        for task, tenant, awaited in model.waiting:
            if awaited is read:
                self.check_from_read(model, tenant, outcome, outcome_of(task))
        model.waiting = [entry for entry in model.waiting if entry[2] is not read]
        self.note_new_reads()

    @rule(seconds=st.sampled_from([3.0, 7.0, 50.0, 61.0, 240.0]))
    def advance(self, seconds: float) -> None:
        self.world.now_s += seconds

    @rule(name=st.sampled_from([*NAMES, None]))
    def evict(self, name: str | None) -> None:
        if name is None:
            self.cache.evict_all()
        else:
            self.cache.evict("webhooks", name)
        for one in NAMES if name is None else [name]:
            self.forget(one)

    @rule(name=names, state=st.sampled_from(["acme", "globex", SecretNotFound, SecretDenied]))
    def change(self, name: str, state: str | type[SecretError]) -> None:
        """A new version, perhaps another tenant's; or it is deleted, or not granted any more."""
        self.world.versions += 1
        self.world.states[name] = state if isinstance(state, type) else (self.world.versions, state)

    def teardown(self) -> None:
        if hasattr(self, "loop"):
            self.loop.run_until_complete(self.cache.aclose())
            self.turn()
            waiting = [task for model in self.models.values() for task, _, _ in model.waiting]
            assert all(outcome_of(task) is SecretUnavailable for task in waiting)
            assert not asyncio.all_tasks(self.loop)
            self.loop.close()

    def turn(self) -> None:
        """Run the event loop until nothing is left to do."""
        for _ in range(6):
            self.loop.run_until_complete(asyncio.sleep(0))

    def note_new_reads(self) -> None:
        """Require at most one current read of each Secret."""
        for read in self.world.begun:
            model = self.models[read.name]
            assert model.current is None
            model.current = read
            self.under_way.append(read)
            known = model.known
            assert known is None or model.refused or model.silent or self.age_s(known) >= REFUSAL_S * 2 / 3
        self.world.begun.clear()

    def learn(self, model: Model, outcome: Outcome) -> None:
        model.silent = outcome is SecretUnavailable
        if isinstance(outcome, Known):
            model.known, model.refused = outcome, None
        elif outcome is not SecretUnavailable:
            model.known, model.refused, model.refused_s = None, outcome, self.world.now_s

    def forget(self, name: str) -> None:
        model = self.models[name]
        model.known = model.refused = model.current = None
        model.silent = False

    def check_from_memory(self, model: Model, tenant: str, found: str | type[SecretError]) -> None:
        known = model.known
        if isinstance(found, str):
            assert known is not None
            assert (found, tenant) == (f"uid/{known.version}", known.owner)
            assert self.age_s(known) < (MAX_STALE_S if model.silent else TTL_S)
            return
        assert known is None or tenant != known.owner or self.age_s(known) >= 0.8 * TTL_S
        if found is SecretMismatch:
            assert known is not None
            assert self.age_s(known) < REFUSAL_S
        elif found is not SecretUnavailable:
            assert found is model.refused
            assert self.world.now_s - model.refused_s < REFUSAL_S

    def check_from_read(self, model: Model, tenant: str, outcome: Outcome, found: str | type[SecretError]) -> None:
        if isinstance(outcome, Known):
            assert found == (f"uid/{outcome.version}" if tenant == outcome.owner else SecretMismatch)
        elif outcome is not SecretUnavailable:
            assert found is outcome
        elif model.known is None or tenant != model.known.owner or self.age_s(model.known) >= MAX_STALE_S:
            assert found is SecretUnavailable
        else:
            assert found == f"uid/{model.known.version}"

    def age_s(self, known: Known) -> float:
        return self.world.now_s - known.began_s


def outcome_of(task: asyncio.Task[Any]) -> str | type[SecretError]:
    """The version that was served, or the kind of error."""
    error = task.exception()
    if error is None:
        secret = task.result()
        assert isinstance(secret, SigningSecret)
        return secret.version
    assert isinstance(error, SecretError)
    return type(error)


Course.TestCase.settings = settings(
    max_examples=150,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestCourse = Course.TestCase
