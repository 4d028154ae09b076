"""JWT authentication: accepted and refused tokens, and an unavailable issuer."""

import base64
import contextlib
import hmac
import time
from collections.abc import AsyncGenerator
from typing import Any

import jwt
import msgspec
import pytest
from aiohttp import web
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from schemas.roles import Role
from tests.support.api import Api, running
from tests.support.site import TENANT, Site

LIST = f"/v1/tenants/{TENANT}/destinations"


class Issuer:
    """An issuer with one RSA key, one EC key and a key set over HTTP."""

    def __init__(self) -> None:
        self.rsa = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.ec = ec.generate_private_key(ec.SECP256R1())
        self.requests = 0
        self.is_away = False
        self.url = ""

    async def keys(self, _: web.Request) -> web.Response:
        """The key set."""
        self.requests += 1
        if self.is_away:
            return web.Response(status=503)
        found: list[dict[str, Any]] = [
            RSAAlgorithm.to_jwk(self.rsa.public_key(), as_dict=True) | {"kid": "rsa", "use": "sig"},
            ECAlgorithm.to_jwk(self.ec.public_key(), as_dict=True) | {"kid": "ec"},
            {"kty": "oct", "k": "c2VjcmV0", "kid": "shared"},
            {"kty": "nonsense"},
        ]
        return web.json_response({"keys": found})

    async def discovery(self, _: web.Request) -> web.Response:
        """Where that is."""
        return web.json_response({"issuer": self.url, "jwks_uri": f"{self.url}/keys"})

    def token(self, *, key: str = "rsa", **changes: Any) -> str:
        """Return a valid token with the given claims changed; None removes a claim."""
        claims = {
            "iss": self.url,
            "aud": "oneprotect",
            "sub": "ada",
            "exp": int(time.time()) + 300,
            "tenant": TENANT,
            "roles": ["viewer", "something-else"],
        } | changes
        claims = {name: value for name, value in claims.items() if value is not None}
        private, algorithm = (self.rsa, "RS256") if key == "rsa" else (self.ec, "ES256")
        return jwt.encode(claims, private, algorithm=algorithm, headers={"kid": key})


@contextlib.asynccontextmanager
async def _issuer() -> AsyncGenerator[Issuer]:
    issuer = Issuer()
    application = web.Application()
    application.router.add_get("/.well-known/openid-configuration", issuer.discovery)
    application.router.add_get("/keys", issuer.keys)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    issuer.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield issuer
    finally:
        await runner.cleanup()


@contextlib.asynccontextmanager
async def _trusting(site: Site, issuer: Issuer) -> AsyncGenerator[Api]:
    async with running(site, oidc_issuer=issuer.url, oidc_audience="oneprotect", api_auth_failures="1000") as api:
        yield api


async def test_a_jwt_gives_the_tenant_and_roles_of_its_claims(site: Site) -> None:
    """Any of the issuer's keys may sign the token, and the keys are fetched once."""
    async with _issuer() as issuer, _trusting(site, issuer) as api:
        for key in ("rsa", "ec"):
            client = api.with_token(issuer.token(key=key))
            assert (await client("GET", LIST)).status == 200
            assert (await client("GET", LIST)).status == 200
            assert (await client("GET", "/v1/tenants/other/destinations")).status == 403
            assert (await client("POST", f"/v1/tenants/{TENANT}/replays", {"dry_run": True})).status == 403
        operator = api.with_token(issuer.token(tenant="*", roles="operator viewer"))
        assert (await operator("GET", "/v1/tenants/other/destinations")).status == 200
        own = await api.client(Role.VIEWER)
        assert (await own("GET", LIST)).status == 200
        assert issuer.requests == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"iss": "https://somebody.example"}, {"aud": "another"}, {"aud": None}, {"exp": None}, {"sub": None},
        {"exp": 1}, {"nbf": int(time.time()) + 3600}, {"tenant": None}, {"tenant": "Not A Name"}, {"tenant": ["acme"]},
        {"sub": "x" * 500},
    ],
)  # fmt: skip
async def test_invalid_claims_are_refused(site: Site, changes: dict[str, Any]) -> None:
    """Each invalid claim causes a 401 that repeats no input."""
    async with _issuer() as issuer, _trusting(site, issuer) as api:
        reply = await api.with_token(issuer.token(**changes))("GET", LIST)
        good = await api.with_token(issuer.token())("GET", LIST)

    assert (reply.status, good.status) == (401, 200)


async def test_invalid_signatures_are_refused(site: Site) -> None:
    """Missing, foreign, truncated and public-key HMAC signatures cause a 401."""
    async with _issuer() as issuer, _trusting(site, issuer) as api:
        claims = jwt.decode(issuer.token(), options={"verify_signature": False})
        public = issuer.rsa.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        forged = [
            _signed(claims, {"alg": "none"}, b""),
            jwt.encode(claims, Issuer().rsa, algorithm="RS256", headers={"kid": "rsa"}),
            _signed(claims, {"alg": "HS256", "kid": "rsa"}, public),
            jwt.encode(claims, b"secret" * 8, algorithm="HS256", headers={"kid": "shared"}),
            jwt.encode(claims, issuer.ec, algorithm="ES256", headers={"kid": "rsa"}),
            issuer.token()[:-10],
            issuer.token() + "." + issuer.token(),
            "a.b.c",
            "..",
        ]
        statuses = [(await api.with_token(token)("GET", LIST)).status for token in forged]
        good = await api.with_token(issuer.token())("GET", LIST)

    assert set(statuses) == {401}
    assert good.status == 200


def _signed(claims: dict[str, Any], header: dict[str, str], secret: bytes) -> str:
    """Return a JWT with an HMAC or no signature, which libraries refuse to create."""
    head, body = (base64.urlsafe_b64encode(msgspec.json.encode(part)).rstrip(b"=") for part in (header, claims))
    signature = hmac.digest(secret, head + b"." + body, "sha256") if secret else b""
    return b".".join([head, body, base64.urlsafe_b64encode(signature).rstrip(b"=")]).decode()


async def test_failed_jwts_lock_out_no_valid_one_behind_the_same_address(site: Site) -> None:
    """Forged tokens and unknown key ids are answered 429 in the end, and a new valid token is accepted."""
    async with _issuer() as issuer, running(site, oidc_issuer=issuer.url, oidc_audience="oneprotect") as api:
        forged = [issuer.token()[:-10], issuer.token(key="ec") + "x", _signed({}, {"alg": "RS256", "kid": "no"}, b"x")]
        failed = [(await api.with_token(forged[number % 3])("GET", LIST)).status for number in range(60)]
        good = [(await api.with_token(issuer.token(sub=f"ada-{number}"))("GET", LIST)).status for number in range(5)]

        assert set(failed) == {401, 429}
        assert failed[-1] == 429
        assert good == [200] * 5
        assert issuer.requests <= 2


async def test_an_unavailable_issuer(site: Site) -> None:
    """A JWT causes a 503 until the keys are known, and unknown key ids cause no repeated fetches."""
    async with _issuer() as issuer, _trusting(site, issuer) as api:
        issuer.is_away = True
        statuses = [(await api.with_token(issuer.token())("GET", LIST)).status for _ in range(5)]

        assert set(statuses) == {503}
        assert issuer.requests == 1
        own = await api.client(Role.VIEWER)
        assert (await own("GET", LIST)).status == 200


async def test_no_jwt_is_accepted_without_an_issuer(api: Api) -> None:
    """A JWT causes a 401, like any other text."""
    issuer = Issuer()

    assert (await api.with_token(issuer.token())("GET", LIST)).status == 401
