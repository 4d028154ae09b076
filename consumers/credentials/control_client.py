"""What consumers are asked for over core NATS, by whoever can't read Secrets."""

from typing import Final

import msgspec

from messaging.client.connection import NatsConnection
from messaging.client.errors import ServerUnavailable
from schemas import subjects
from schemas.configuration import CredentialState
from schemas.control_messages import CheckCredential

CHECK_TIMEOUT_S: Final = 15.0
"""What a consumer may take: its read of the Secret, tried again where that can help, and writing down what it found."""


class NoConsumerReplied(Exception):
    """No consumer did what was asked; the text says why."""


async def check_credential(connection: NatsConnection, tenant: str, credential: str) -> CredentialState:
    """What one consumer finds when it reads a credential's Secret now. Raises `NoConsumerReplied`."""
    asked = msgspec.json.encode(CheckCredential(tenant=tenant, credential=credential))
    try:
        answer = await connection.ask(subjects.CHECK, asked, timeout_s=CHECK_TIMEOUT_S)
        return msgspec.json.decode(answer.data, type=CredentialState)
    except ServerUnavailable:
        problem = "no consumer answered, and only consumers can read Secrets; start one with `oneprotect consumer`"
    except msgspec.DecodeError:
        problem = "a consumer does not know this credential, or is of another version; try again"
    raise NoConsumerReplied(problem)
