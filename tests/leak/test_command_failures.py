"""Failing commands: bad settings, NATS, Secrets, requests to verify, and a secret pasted as a ref."""

import itertools
from pathlib import Path

import msgspec
import pytest
from aiohttp import web

from oneprotect.settings.variables import VARIABLES
from schemas.validation import ValidationError
from tests.kubernetes.manifests import manifest, write
from tests.leak.support import cluster, search_targets
from tests.leak.support.commands import Run, ran
from tests.leak.support.faults import faults
from tests.leak.support.malformed import MALFORMED, made_of
from tests.leak.support.sinks import Sinks
from tests.leak.support.tracebacks import LOCALS, attached
from tests.support.leaks import Canary, Search
from tests.support.site import NAMESPACE, TENANT, Site

CHECK = ("secret", "check", f"k8s://{NAMESPACE}/acme-signing/signing", "--tenant", TENANT)
READ_BY_A_CONSUMER = ("ONEPROTECT_EGRESS_CA_FILE", "ONEPROTECT_NATS_CA_FILE")
SOME_MALFORMED = list(MALFORMED.values())[::3]
"""The rest of them is for the provider's tests, which are quicker."""


async def _hear(sinks: Sinks, environ: dict[str, str], *runs: Run) -> list[int]:
    """Run the commands in both output formats, record their output and return their exit codes."""
    both = [*runs, *(msgspec.structs.replace(run, arguments=(*run.arguments, "--json")) for run in runs)]
    results = await ran(environ, both)
    for run, result in zip(both, results, strict=True):
        sinks.hear(f"command {run.arguments[0]} {sorted(run.settings)}", result.out, result.err)
        assert result.out or result.err, run
    return [result.code for result in results]


async def test_no_error_repeats_a_setting(site: Site, sinks: Sinks) -> None:
    """No error repeats a secret, token, seed or URL with a password that replaces a setting."""
    pasted, word = Canary.secret("pasted secret"), Canary.word("pasted token")
    seed, password = Canary("pasted seed", f"SU{Canary.word('').reveal()}"), Canary.word("pasted password")
    values = [pasted.reveal(), word.reveal(), seed.reveal(), f"nats://user:{password.reveal()}@127.0.0.1:4222"]
    everything = [
        Run(("apply", "--check"), {variable.name: value for variable in VARIABLES if "LOG" not in variable.name})
        for value in values
    ]
    single = [
        Run(command, {variable.name: value, "ONEPROTECT_LOG_LEVEL": "debug"})
        for variable in VARIABLES
        if "LOG" not in variable.name and variable.rule.parse(values[0]) is not None
        for value in (values[0], values[1])
        for command in (("apply", "--check"), ("consumer",), CHECK)
        if command != ("consumer",) or variable.name in READ_BY_A_CONSUMER  # with any other it would start
    ]
    logs = [Run(("apply",), {name: values[0]}) for name in ("ONEPROTECT_LOG_LEVEL", "ONEPROTECT_LOG_FORMAT")]

    codes = await _hear(sinks, site.environ, *everything, *logs, *single)

    assert codes[: len(everything) + len(logs)] == [2] * (len(everything) + len(logs))
    assert single
    assert sinks.findings(Search(pasted, word, seed, password)) == []


async def test_no_command_shows_a_secret_without_nats(site: Site, sinks: Sinks) -> None:
    """Each command reports the failed connection, at DEBUG with tracebacks, and no secret."""
    secret, query = Canary("secret", site.secret), Canary.word("URL's query")
    url = f"https://example.com/?token={query.reveal()}"
    runs = [
        Run(arguments)
        for arguments in (
            ("attempts",),
            ("destination", "set", "a", "--tenant", TENANT, "--url", url, "--credential", "key"),
        )
    ]

    codes = await _hear(sinks, site.environ | {"ONEPROTECT_NATS_URL": "nats://127.0.0.1:1"}, *runs)

    assert set(codes) == {1}
    assert sinks.findings(Search(secret, query)) == []


async def test_checking_a_secret_that_is_of_no_use_does_not_show_it(site: Site, sinks: Sinks) -> None:
    """Whatever is wrong with it, and when it is right, but another's."""
    canary, codes = Canary.secret(), set[int]()
    for number, make in enumerate(SOME_MALFORMED):
        data = {"signing": made_of(canary, make)}
        write(site.directory / "secrets", manifest(name=f"acme-signing-{number}", data=data))
    names = [f"k8s://{NAMESPACE}/acme-signing-{number}/signing" for number in range(len(SOME_MALFORMED))]
    runs = [Run((*CHECK[:2], name, *CHECK[3:])) for name in (*names, f"k8s://{NAMESPACE}/missing/signing")]
    runs.append(Run((*CHECK[:2], f"k8s://{NAMESPACE}/signing-key/signing", "--tenant", "globex")))

    codes |= set(await _hear(sinks, site.environ, *runs))

    assert codes == {1}
    assert sinks.findings(Search(canary, Canary("secret", site.secret))) == []


async def test_checking_a_secret_in_kubernetes_shows_neither_it_nor_the_token(
    site: Site, sinks: Sinks, tmp_path: Path
) -> None:
    """The check shows neither while the API server returns each fault and then the Secret."""
    async with cluster.running(tmp_path / "cluster") as running:
        names = ("401 with our token", "no base64", "its name", "a broken header", "404 with the Secret")
        answers = [faults()[name](running.server, running.document()) for name in names]
        turns = itertools.chain(itertools.chain.from_iterable([answers] * 2), itertools.repeat(running.server.answer))

        async def answer(request: web.Request) -> web.StreamResponse:
            return await next(turns)(request)

        running.server.every_answer = answer
        environ = site.environ | {
            "KUBECONFIG": str(running.kubeconfig()),
            "ONEPROTECT_SECRET_PROVIDER": "kubernetes",
            "TMPDIR": str(tmp_path),
        }
        codes = await _hear(sinks, environ, *[Run(CHECK)] * 6)

        assert set(codes) == {0, 1}
        assert sinks.findings(running.search) == []


async def test_verifying_shows_neither_the_secret_nor_the_signature(site: Site, sinks: Sinks, tmp_path: Path) -> None:
    """Output of `verify` has neither, for good and malformed secrets and for valid and invalid signatures."""
    from consumers.signatures.signer import sign
    from provider.signing_keys import HmacKey
    from provider.signing_secret import SigningSecret
    from schemas.events import now

    canary = Canary.secret()
    right = sign(
        SigningSecret(current=HmacKey(canary.reveal_bytes()), version="1"), delivery="a", body=b"{}", now=now()
    )
    wrong = sign(
        SigningSecret(current=HmacKey(canary.reveal_bytes().removeprefix(b"whsec_")), version="1"),
        delivery="a",
        body=b"{}",
        now=now(),
    )
    (tmp_path / "body").write_bytes(b"{}")
    runs: list[Run] = []
    for number, make in enumerate([bytes, *SOME_MALFORMED]):
        (tmp_path / f"secret-{number}").write_bytes(made_of(canary, make))
        for signature in (right.signature, wrong.signature):
            headers = ("webhook-id: a", f"webhook-timestamp: {right.timestamp}", f"webhook-signature: {signature}")
            options = [word for header in headers for word in ("--header", header)]
            files = ("--secret-file", str(tmp_path / f"secret-{number}"), "--body", str(tmp_path / "body"))
            runs.append(Run(("verify", *files, *options)))

    codes = await _hear(sinks, site.environ, *runs)

    signatures = [Canary("signature", one.signature.removeprefix("v1,")) for one in (right, wrong)]
    assert set(codes) == {0, 1, 2}
    assert sinks.findings(Search(canary, *signatures)) == []


@pytest.mark.parametrize("form", ["{}", "k8s://{}", "k8s://webhooks/{}/signing", "k8s://webhooks/signing/{}"])
async def test_a_secret_pasted_as_a_ref_is_refused_and_not_stored(site: Site, sinks: Sinks, form: str) -> None:
    """No error, event or bucket contains a secret that a caller passed as a ref."""
    pasted = Canary.secret("pasted secret")
    await search_targets.overhear(site, sinks)

    with pytest.raises(ValidationError) as failure:
        await site.jetstream.configuration.set_credential(
            TENANT, "new", {"secret_ref": form.format(pasted.reveal())}, by="test"
        )
    sinks.hear_error("refused", failure.value)
    await site.jetstream.configuration.set_credential(TENANT, "new", {"secret_ref": "k8s://a/b/c"}, by="test")
    sinks.hear_all(search_targets.store(site))

    assert attached(failure.value) == [failure.value]
    assert sinks.holds("refused: traceback", "secret_ref: expected")
    assert "NATS oneprotect.event" in {name[:21] for name in sinks.names}
    # The caller's own frames hold what the caller has; what is not locals is ours alone.
    assert sinks.findings(Search(pasted), but=[f"refused: {way}" for way in LOCALS]) == []
