"""Remedies for credentials that cannot sign: a sentence for each code and status, and commands for each cause.

NAMESPACE, SECRET and KEY are the parts of the credential's ref, which is never shown: its owner knows it.
"""

from enum import Enum
from typing import Final

from schemas.codes import Code, CredentialStatus
from schemas.ids import Purpose

REMEDY_BY_CODE: Final = {
    Code.SECRET_REF_INVALID: (
        "use k8s://NAMESPACE/SECRET/KEY, or k8s://SECRET/KEY with ONEPROTECT_SECRET_NAMESPACE set; "
        "a ref names a key in a Secret, and is never the secret itself"
    ),
    Code.SECRET_REF_FORBIDDEN: (
        "this namespace may not be read; if it should be, add it to ONEPROTECT_SECRET_NAMESPACES_ALLOWED"
    ),
    Code.SECRET_MISMATCH: (
        "the Secret's owner has not consented; label the Secret oneprotect.io/tenant and oneprotect.io/purpose with "
        "this tenant and purpose"
    ),
    Code.SECRET_NOT_FOUND: (
        "the Secret, or the key in it, does not exist; create it with the names in the ref "
        "(the local provider reads DIR/NAMESPACE/SECRET.json)"
    ),
    Code.SECRET_MALFORMED: (
        "no key in the Secret can sign; store 24 to 64 bytes, raw or as whsec_ and base64, with `printf %s` instead of "
        "`echo`, which adds a line end"
    ),
    Code.SECRET_DENIED: (
        "access is denied; grant the service account `get` on the Secret by name, with a Role and a RoleBinding"
    ),
    Code.SECRET_UNAVAILABLE: "the secret provider does not answer; check the API server, then try again",
}
REMEDY_BY_STATUS: Final = {
    CredentialStatus.CONFIGURED: "no action is needed",
    CredentialStatus.MISSING: REMEDY_BY_CODE[Code.SECRET_NOT_FOUND],
    CredentialStatus.MISMATCH: (
        REMEDY_BY_CODE[Code.SECRET_MISMATCH] + ", and allow its namespace with ONEPROTECT_SECRET_NAMESPACES_ALLOWED"
    ),
    CredentialStatus.MALFORMED: REMEDY_BY_CODE[Code.SECRET_MALFORMED],
    CredentialStatus.DENIED: REMEDY_BY_CODE[Code.SECRET_DENIED],
    CredentialStatus.UNAVAILABLE: REMEDY_BY_CODE[Code.SECRET_UNAVAILABLE],
    CredentialStatus.UNCHECKED: "no consumer has checked it yet; start one with `oneprotect consumer`",
}


class SecretProblem(Enum):
    """Reasons why a Secret cannot sign, as a read of it shows them."""

    REF_INVALID = "the stored ref is invalid"
    FORBIDDEN = "the namespace of the ref may not be read"
    NO_SECRET = "the Secret does not exist"
    NO_KEY = "the Secret exists and its owner consents, but it has no such key"
    OTHER_TYPE = "the Secret has a type that never signs; the type must be Opaque"
    UNLABELLED = "the Secret has no tenant label: its owner has not consented"
    OTHER_TENANT = "the Secret's label names another tenant: its owner has not consented"
    OTHER_PURPOSE = "the Secret's labels name this tenant, but another purpose"
    MALFORMED_SECRET = "the Secret has unexpected fields or too many keys"
    MALFORMED_KEY = "the Secret exists and its owner consents, but the value of its key cannot sign"
    DENIED = "this service account may not read it"
    UNAVAILABLE = "the secret provider did not answer"


ROLE: Final = """\
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: oneprotect-consumer-secrets, namespace: NAMESPACE}
rules:
- {apiGroups: [""], resources: [secrets], resourceNames: [SECRET, ...], verbs: [get]}"""
"""The permissions that a consumer needs, and no others."""

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
    " | kubectl create secret generic SECRET --namespace NAMESPACE --from-file=KEY=/dev/stdin\n"
    "then allow its use by labels: " + _LABEL
)
_PATCH: Final = _NEW_KEY + (
    " | jq --raw-input '{{stringData: {{\"KEY\": .}}}}' | "
    "kubectl patch secret SECRET --namespace NAMESPACE --patch-file /dev/stdin"
)
"""Neither command shows the key or leaves it in the shell's history. The receiver needs the key as well."""

_KUBERNETES: Final = {
    SecretProblem.REF_INVALID: _SET,
    SecretProblem.FORBIDDEN: (
        "set the right namespace: " + _SET + "\n"
        "or allow the namespace for consumers: ONEPROTECT_SECRET_NAMESPACES_ALLOWED=NAMESPACE"
    ),
    SecretProblem.NO_SECRET: (
        "find it in another namespace: kubectl get secrets --all-namespaces "
        "--selector oneprotect.io/tenant={tenant}\n"
        "or create it: " + _CREATE
    ),
    SecretProblem.NO_KEY: (
        "list its keys: kubectl describe secret SECRET --namespace NAMESPACE\n"
        "set the right one: " + _SET + "\n"
        "or add it: " + _PATCH
    ),
    SecretProblem.OTHER_TYPE: ("a type cannot be changed; create a Secret for this purpose: " + _CREATE),
    SecretProblem.UNLABELLED: _LABEL,
    SecretProblem.OTHER_TENANT: (
        "if it belongs to the other tenant, set another Secret: "
        + _SET
        + "\nif it belongs to {tenant}: "
        + _LABEL
        + " --overwrite"
    ),
    SecretProblem.OTHER_PURPOSE: _LABEL + " --overwrite",
    SecretProblem.MALFORMED_SECRET: "use one Secret for each purpose, with few keys",
    SecretProblem.MALFORMED_KEY: (
        "1. a line end after the key, from `echo`: remove it from a text key with "
        "kubectl get secret SECRET --namespace NAMESPACE --output json | "
        'jq \'.data["KEY"] |= (@base64d | rtrimstr("\\n") | @base64)\' | '
        "kubectl replace --filename -\n"
        "2. fewer than 24 or more than 64 bytes\n"
        "3. whsec_ without plain base64 after it: URL-safe letters, no padding, or quotes\n"
        "4. a manifest written by hand, encoded in base64 twice or not at all\n"
        "create a new key: " + _PATCH + "\n"
        "if an operator fills the Secret from a store, correct the store, also with `printf %s`"
    ),
    SecretProblem.DENIED: GRANT,
    SecretProblem.UNAVAILABLE: "check that the API server answers: kubectl get --raw /readyz",
}

_LOCAL: Final = _KUBERNETES | {
    SecretProblem.NO_SECRET: (
        'write a Secret manifest (JSON) to "$ONEPROTECT_LOCAL_SECRETS_DIR/NAMESPACE/SECRET.json", with the labels '
        "oneprotect.io/tenant: {tenant} and oneprotect.io/purpose: {purpose}"
    ),
    SecretProblem.NO_KEY: "add it to the manifest's `data`, in base64, or set the right one: " + _SET,
    SecretProblem.OTHER_TYPE: "set `apiVersion` to v1, `kind` to Secret, `type` to Opaque, and the ref's names",
    SecretProblem.UNLABELLED: "set metadata.labels: oneprotect.io/tenant: {tenant}, oneprotect.io/purpose: {purpose}",
    SecretProblem.OTHER_TENANT: (
        "if it belongs to the other tenant, set another Secret: " + _SET + "\n"
        "if it belongs to {tenant}, set its metadata.labels: oneprotect.io/tenant: {tenant}"
    ),
    SecretProblem.OTHER_PURPOSE: "set its metadata.labels: oneprotect.io/purpose: {purpose}",
    SecretProblem.MALFORMED_SECRET: "write its keys into `data`, in base64; `stringData` is not read",
    SecretProblem.MALFORMED_KEY: (
        "1. a line end after the key, from `echo`\n2. fewer than 24 or more than 64 bytes\n"
        "3. whsec_ without plain base64 after it\n4. encoded in base64 twice, or not at all\n"
        "create a value for `data`: " + _NEW_KEY + " | base64 -w0"
    ),
    SecretProblem.DENIED: 'give this user read access: ls -lR "$ONEPROTECT_LOCAL_SECRETS_DIR"',
    SecretProblem.UNAVAILABLE: "check that the manifest is JSON: jq type FILE",
}


def remedy_commands(cause: SecretProblem, *, is_local: bool, tenant: str, credential: str, purpose: Purpose) -> str:
    """Return the instructions for a cause, with the exact commands."""
    return (_LOCAL if is_local else _KUBERNETES)[cause].format(tenant=tenant, id=credential, purpose=purpose.value)
