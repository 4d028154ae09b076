"""Requests to consumers over core NATS, from processes that can't read Secrets."""

from typing import Final

import msgspec

from messaging.client.connection import NatsConnection
from messaging.client.errors import ServerUnavailable
from schemas import subjects
from schemas.configuration import CredentialState
from schemas.control_messages import CheckCredential

CHECK_TIMEOUT_S: Final = 15.0
"""Time for a consumer to read the Secret, with retries, and to store the status."""


class NoConsumerReplied(Exception):
    """No consumer answered the request; the text says why."""


async def check_credential(connection: NatsConnection, tenant: str, credential: str) -> CredentialState:
    """Return the status that one consumer finds when it reads the Secret now. Raises `NoConsumerReplied`."""
    asked = msgspec.json.encode(CheckCredential(tenant=tenant, credential=credential))
    try:
        answer = await connection.ask(subjects.CHECK, asked, timeout_s=CHECK_TIMEOUT_S)
        return msgspec.json.decode(answer.data, type=CredentialState)
    except ServerUnavailable:
        problem = "no consumer answered, and only consumers can read Secrets; start one with `oneprotect consumer`"
    except msgspec.DecodeError:
        problem = "a consumer does not know this credential, or is of another version; try again"
    raise NoConsumerReplied(problem)
