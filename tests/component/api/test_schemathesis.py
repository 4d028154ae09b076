"""Generated requests to the running API, checked against its own OpenAPI document."""

import asyncio
import sys
from pathlib import Path

from schemas.roles import ALL_TENANTS, Role
from tests.support.api import Api, running
from tests.support.site import TENANT, Site

EXAMPLES = 25
"""Of each operation and kind; more of them find more, and take longer."""

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "missing_required_header",
    "unsupported_method",
    "ignored_auth",
)


async def test_every_response_conforms_to_the_document(site: Site, tmp_path: Path) -> None:
    """Each response has a documented status, headers and body, and invalid input is refused."""
    await site.destination("orders", "https://example.com/in")
    async with running(site, api_auth_failures="100000") as api:
        await _run(api, tmp_path)


async def _run(api: Api, directory: Path) -> None:
    token = await api.token(*Role, tenant=ALL_TENANTS)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "schemathesis.cli", "run", f"{api.url}/openapi.json"),
        *("--header", f"Authorization: Bearer {token}"),
        *("--checks", ",".join(CHECKS)),
        *("--max-examples", str(EXAMPLES), "--seed", "1", "--workers", "1", "--no-color", "--max-failures", "20"),
        *("--phases", "examples,coverage,fuzzing"),
        *("--request-timeout", "20", "--suppress-health-check", "all"),
        *("--exclude-path-regex", "/test$|/check$"),  # they wait for a consumer
        cwd=directory,  # where it leaves its cache
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await asyncio.wait_for(process.communicate(), 270)

    assert process.returncode == 0, output.decode()[-12_000:]
    assert (await (await api.client(Role.VIEWER))("GET", f"/v1/tenants/{TENANT}/attempts")).status == 200
