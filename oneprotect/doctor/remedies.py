"""How to mend what keeps a credential from signing: one sentence for each status, and the commands for each cause.

NAMESPACE, SECRET and KEY stand for the parts of the credential's ref, which is not shown: who set it knows it.
"""

from enum import Enum
from typing import Final

from schemas.codes import CredentialStatus
from schemas.ids import Purpose

SENTENCES: Final = {
    CredentialStatus.CONFIGURED: "nothing is to be mended",
    CredentialStatus.MISSING: (
        "there is no such Secret, or no such key in it: create it, in the namespace and by the names that the ref gives"
    ),
    CredentialStatus.MISMATCH: (
        "its owner has not consented: label the Secret oneprotect.io/tenant and oneprotect.io/purpose with this tenant "
        "and purpose, and allow its namespace with ONEPROTECT_SECRET_NAMESPACES_ALLOWED"
    ),
    CredentialStatus.MALFORMED: (
        "no key in it can sign: store 24 to 64 bytes, raw or as whsec_ and base64, with `printf %s` and not `echo`, "
        "which leaves a line end behind them"
    ),
    CredentialStatus.DENIED: (
        "the consumers may not read it: grant their service account `get` on the Secret by name, with a Role"
    ),
    CredentialStatus.UNAVAILABLE: (
        "the provider could not be asked: see that the API server answers consumers, then check again"
    ),
    CredentialStatus.UNCHECKED: "no consumer has looked at it yet: start one with `oneprotect consumer`",
}


class SecretProblem(Enum):
    """Why a Secret can't sign, as one read of it shows."""

    REF_INVALID = "what is stored as its ref is none"
    FORBIDDEN = "its namespace is not one that may be read"
    NO_SECRET = "there is no such Secret"
    NO_KEY = "the Secret is there and its owner consents, but has no such key"
    OTHER_TYPE = "the Secret is of a type that never signs; its type must be Opaque"
    UNLABELLED = "the Secret does not say whose it is: its owner has not consented"
    OTHER_TENANT = "the Secret's label names another tenant: its owner has not consented"
    OTHER_PURPOSE = "the Secret names this tenant, and not this purpose"
    MALFORMED_SECRET = "the Secret has fields or more keys than it may have"
    MALFORMED_KEY = "the Secret is there and its owner consents, but what lies under its key can't sign"
    DENIED = "this service account may not read it"
    UNAVAILABLE = "the provider could not be asked"


ROLE: Final = """\
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: oneprotect-consumer-secrets, namespace: NAMESPACE}
rules:
- {apiGroups: [""], resources: [secrets], resourceNames: [SECRET, ...], verbs: [get]}"""
"""What a consumer needs, and no more."""

GRANT: Final = """\
kubectl create role oneprotect-consumer-secrets --namespace NAMESPACE --verb get --resource secrets \
--resource-name SECRET
kubectl create rolebinding oneprotect-consumer-secrets --namespace NAMESPACE --role oneprotect-consumer-secrets \
--serviceaccount CONSUMERS_NAMESPACE:CONSUMERS_SERVICEACCOUNT"""

_SET: Final = "oneprotect credential set {id} --tenant {tenant} --secret-ref k8s://NAMESPACE/SECRET/KEY"
_LABEL: Final = (
    "kubectl label secret SECRET --namespace NAMESPACE oneprotect.io/tenant={tenant} oneprotect.io/purpose={purpose}"
)
_NEW_KEY: Final = "printf 'whsec_%s' \"$(openssl rand -base64 32)\""

_CREATE: Final = _NEW_KEY + (
    " | kubectl create secret generic SECRET --namespace NAMESPACE --from-file=KEY=/dev/stdin\nand consent: " + _LABEL
)
_PATCH: Final = _NEW_KEY + (
    " | jq --raw-input '{{stringData: {{\"KEY\": .}}}}' | "
    "kubectl patch secret SECRET --namespace NAMESPACE --patch-file /dev/stdin"
)
"""Neither shows the key, or leaves it in a shell's history. Its receiver needs it, too."""

_KUBERNETES: Final = {
    SecretProblem.REF_INVALID: _SET,
    SecretProblem.FORBIDDEN: (
        "name the right namespace: " + _SET + "\n"
        "or add it, where consumers run: ONEPROTECT_SECRET_NAMESPACES_ALLOWED=NAMESPACE"
    ),
    SecretProblem.NO_SECRET: (
        "see whether it is in another namespace: kubectl get secrets --all-namespaces "
        "--selector oneprotect.io/tenant={tenant}\n"
        "or create it: " + _CREATE
    ),
    SecretProblem.NO_KEY: (
        "see its keys: kubectl describe secret SECRET --namespace NAMESPACE\n"
        "name the right one: " + _SET + "\n"
        "or add it: " + _PATCH
    ),
    SecretProblem.OTHER_TYPE: ("a type can't be changed; create a Secret for this purpose alone: " + _CREATE),
    SecretProblem.UNLABELLED: _LABEL,
    SecretProblem.OTHER_TENANT: (
        "if it is the other tenant's, name another Secret: "
        + _SET
        + "\nif it is {tenant}'s: "
        + _LABEL
        + " --overwrite"
    ),
    SecretProblem.OTHER_PURPOSE: _LABEL + " --overwrite",
    SecretProblem.MALFORMED_SECRET: "keep one Secret for each purpose, with few keys in it",
    SecretProblem.MALFORMED_KEY: (
        "most often, 1: a line end behind it, as `echo` leaves one. Take it off a key that is text: "
        "kubectl get secret SECRET --namespace NAMESPACE --output json | "
        'jq \'.data["KEY"] |= (@base64d | rtrimstr("\\n") | @base64)\' | '
        "kubectl replace --filename -\n"
        "2: fewer than 24 or more than 64 bytes; 3: whsec_ with what is not plain base64 behind it (URL-safe letters, "
        "no padding, quotes); 4: encoded in base64 twice, or not at all, in a manifest written by hand\n"
        "make a new key: " + _PATCH + "\n"
        "if an operator fills the Secret from a store, mend it in the store, there too with `printf %s`"
    ),
    SecretProblem.DENIED: GRANT,
    SecretProblem.UNAVAILABLE: "see whether the API server answers: kubectl get --raw /readyz",
}

_LOCAL: Final = _KUBERNETES | {
    SecretProblem.NO_SECRET: (
        'write a Secret manifest (JSON) to "$ONEPROTECT_LOCAL_SECRETS_DIR/NAMESPACE/SECRET.json", with the labels '
        "oneprotect.io/tenant: {tenant} and oneprotect.io/purpose: {purpose}"
    ),
    SecretProblem.NO_KEY: "add it to the manifest's `data`, in base64, or name the right one: " + _SET,
    SecretProblem.OTHER_TYPE: "set the manifest's `apiVersion` to v1, `kind` to Secret, `type` to Opaque, and the ref's names",
    SecretProblem.UNLABELLED: "set its metadata.labels: oneprotect.io/tenant: {tenant}, oneprotect.io/purpose: {purpose}",
    SecretProblem.OTHER_TENANT: (
        "if it is the other tenant's, name another Secret: " + _SET + "\n"
        "if it is {tenant}'s, set its metadata.labels: oneprotect.io/tenant: {tenant}"
    ),
    SecretProblem.OTHER_PURPOSE: "set its metadata.labels: oneprotect.io/purpose: {purpose}",
    SecretProblem.MALFORMED_SECRET: "write its keys into `data`, in base64; `stringData` is not read",
    SecretProblem.MALFORMED_KEY: (
        "most often, 1: a line end behind it, as `echo` leaves one; 2: fewer than 24 or more than 64 bytes; 3: whsec_ "
        "with what is not plain base64 behind it; 4: encoded in base64 twice, or not at all\n"
        "make what belongs into `data`: " + _NEW_KEY + " | base64 -w0"
    ),
    SecretProblem.DENIED: 'let this user read it: ls -lR "$ONEPROTECT_LOCAL_SECRETS_DIR"',
    SecretProblem.UNAVAILABLE: "see that the manifest is JSON: jq type FILE",
}


def remedy_commands(cause: SecretProblem, *, is_local: bool, tenant: str, credential: str, purpose: Purpose) -> str:
    """What to do about it, with the exact commands."""
    return (_LOCAL if is_local else _KUBERNETES)[cause].format(tenant=tenant, id=credential, purpose=purpose.value)
