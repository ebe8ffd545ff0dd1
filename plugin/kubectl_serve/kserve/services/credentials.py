"""The Secret with the keys of the store, which an annotation, a ServiceAccount or ``imagePullSecrets`` names. Pure.

Source: KServe 0.20, ``pkg/credentials``.
"""

import base64
import json
from collections.abc import Collection

from kubectl_serve.kserve.base.accounting import Field
from kubectl_serve.kserve.base.draft import Draft
from kubectl_serve.kserve.base.names import FORMER_GROUP, GROUP, STORAGE_SECRETS
from serve_core.api.annotations import CREDENTIALS, MODEL
from serve_core.base.json import JsonObject, object_at, objects_in

_KEYS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "gs": "key.json",
    "az": "AZURE_STORAGE_ACCOUNT and AZURE_STORAGE_KEY",
    "hf": "HF_TOKEN",
    "https": "authorization, or username and password",
    "oci": ".dockerconfigjson",
}
"""Keys of the loader's Secret for each scheme."""
_RECOGNIZED = {
    "s3": ("awsAccessKeyID", "awsSecretAccessKey", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
    "gs": ("gcloud-application-credentials.json", "key.json"),
    "az": ("AZ_CLIENT_ID", "AZURE_CLIENT_ID", "AZURE_STORAGE_ACCESS_KEY", "AZURE_STORAGE_KEY"),
    "hf": ("HF_TOKEN",),
    "https": ("https-host", "authorization", "username"),
    "oci": (".dockerconfigjson", ".dockercfg"),
}
"""Keys by which a Secret is one of a store, in KServe or for the loader."""
_OF_SECRETS = frozenset({"s3", "gs", "az", "hf", "https"})
"""The schemes for which KServe reads the Secrets of the store."""
_OTHER_KEYS = f"the loader reads other keys of this Secret: {_KEYS['https']}."
_ANNOTATIONS = (
    "the loader reads the keys of this Secret, and not its annotations: write serving.kserve.io/s3-endpoint as the key "
    "AWS_ENDPOINT_URL, and serving.kserve.io/s3-region as AWS_REGION."
)
_SETTINGS = (f"{GROUP}/s3-", f"{FORMER_GROUP}/s3-")
"""Prefixes of the annotations with which KServe finds a store."""
_SWITCHES = {
    "usevirtualbucket": "AWS_S3_ADDRESSING_STYLE=virtual",
    "useaccelerate": "AWS_S3_USE_ACCELERATE_ENDPOINT=true",
    "useanoncredential": "AWS_NO_SIGN_REQUEST=true",
}
_OF_KUBERNETES = ("-token-", "-dockercfg-")
"""Part of the names of Secrets that Kubernetes and OpenShift add to a ServiceAccount."""
_DEFAULT_ACCOUNT = "default"
STORAGE_CONFIG = "storage-config"


def of_entries(document: Field) -> str:
    """The Secret with the storage entries: ``storage-config``, or the one that the annotation names."""
    found = [each for each in _annotations(document) if each.is_text()]
    return str(found[0].value) if found else STORAGE_CONFIG


def storage_entry(secret_name: str, storage: Field, draft: Draft) -> JsonObject:
    """What a Secret in the same files says of a storage entry; empty if it is not there or cannot be read."""
    kind = storage.at("parameters", "type").value
    key = str(storage.at("key").value or (f"default_{kind}" if kind else "default"))
    secret = draft.other("Secret", secret_name) or {}
    text = object_at(secret, "stringData").get(key)
    try:
        found = json.loads(base64.b64decode(object_at(secret, "data").get(key) or "") if text is None else text)
    except (TypeError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def note_entry(secret_name: str, storage: Field, entry: JsonObject, scheme: str | None, document: Field) -> None:
    """Say what replaces the keys of a storage entry, if it names one or the files have its default."""
    key = storage.at("key")
    if not key and not entry:
        return
    key.use()
    for each in _annotations(document):
        if each.value == secret_name:
            each.use()
    keys = _KEYS["gs"] if scheme == "gs" else "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_ENDPOINT_URL"
    said = {"AWS_ENDPOINT_URL": entry.get("endpoint_url"), "AWS_REGION": entry.get("region")}
    words = [f"{name}={value}" for name, value in said.items() if isinstance(value, str) and value and "@" not in value]
    settings = f" The entry says {', '.join(words)}." if words else ""
    (key or storage).remark(
        f"the loader does not read the entry of Secret {secret_name}; create a Secret with {keys}, and set "
        f"{CREDENTIALS} to its name.{settings}"
    )


def read(document: Field, predictor: Field, draft: Draft) -> None:
    """The Secret for the loader. Called after the model is read."""
    scheme = draft.asked.get(MODEL, "").partition("://")[0]
    if scheme in _OF_SECRETS and not draft.has_entries:
        _of_annotations(document, scheme, draft)
    read_of_pod(predictor, draft)


def read_of_pod(predictor: Field, draft: Draft) -> None:
    """The Secret that the pod names: those that pull an image with a model, and those of its ServiceAccount."""
    scheme = draft.asked.get(MODEL, "").partition("://")[0]
    secrets = [each.at("name").text() for each in predictor.at("imagePullSecrets").objects()]
    if scheme == "oci" and len(secrets) == 1 and secrets[0] is not None:
        draft.asked[CREDENTIALS] = secrets[0]
    if scheme != "pvc" and CREDENTIALS not in draft.asked:
        _of_account(predictor, scheme, draft)


def _annotations(document: Field) -> list[Field]:
    """The annotations that name a Secret, those of the predictor first."""
    places = (document.at("spec", "predictor", "annotations"), document.at("metadata", "annotations"))
    return [each for place in places for each in map(place.at, STORAGE_SECRETS) if each]


def _of_annotations(document: Field, scheme: str, draft: Draft) -> None:
    """The Secret that an annotation names. KServe then does not read those of the ServiceAccount."""
    for each in _annotations(document):
        if CREDENTIALS not in draft.asked and each.text() is not None:
            _take(str(each.value), each, scheme, draft)


def _of_account(predictor: Field, scheme: str, draft: Draft) -> None:
    """The Secret of the ServiceAccount, if that is among the same files. Of several, the last is used, as by KServe."""
    named = predictor.at("serviceAccountName") or predictor.at("serviceAccount")
    account = draft.other("ServiceAccount", str(named.value or _DEFAULT_ACCOUNT))
    if account is None:
        if named:
            keys = f" with {_KEYS[scheme]}" if scheme in _KEYS else ""
            named.remark(
                f"the loader does not read its Secrets; set {CREDENTIALS} to a Secret{keys} if the store needs one."
            )
        return
    place = named or predictor
    listed = "imagePullSecrets" if scheme == "oci" else "secrets"
    names = [str(each.get("name")) for each in objects_in(account.get(listed))]
    found = [name for name in names if (one := draft.other("Secret", name)) and _is_of(scheme, one)]
    elsewhere = [
        name
        for name in names
        if draft.other("Secret", name) is None and not any(part in name for part in _OF_KUBERNETES)
    ]
    if found:
        _take(found[-1], place, scheme, draft)
    elif len(elsewhere) == 1 and scheme in _KEYS:
        draft.asked[CREDENTIALS] = elsewhere[0]
        place.remark(
            f"names Secret {elsewhere[0]}, which is not in these files; the loader needs {_KEYS[scheme]} in it."
        )
    elif elsewhere:
        place.remark(f"names several Secrets that are not in these files; set {CREDENTIALS} to that of the store.")
    if scheme == "s3" and (keys_to_write := _keys_to_write(account, ())):
        target = f"Secret {draft.asked[CREDENTIALS]}" if CREDENTIALS in draft.asked else "a Secret"
        place.remark(
            f"the loader does not read the annotations of the ServiceAccount; write into {target}: {keys_to_write}."
        )


def _take(name: str, place: Field, scheme: str, draft: Draft) -> None:
    """Use a Secret, and say at ``place`` what the loader reads under another name."""
    draft.asked[CREDENTIALS] = name
    secret = draft.other("Secret", name)
    if scheme == "https" and (secret is None or not {"authorization", "username"} & _keys_of(secret)):
        place.remark(_OTHER_KEYS)
    if scheme == "s3" and secret is None:
        place.remark(_ANNOTATIONS)
    elif scheme == "s3" and secret is not None and (keys := _keys_to_write(secret, _keys_of(secret))):
        place.remark(f"the loader does not read the annotations of Secret {name}; write as keys of it: {keys}.")


def _keys_to_write(annotated: JsonObject, present: Collection[str]) -> str:
    """The keys of a Secret for KServe's annotations that lead to a store, without those ``present``. Values that could
    have a password are left out."""
    said = {
        key.partition("/s3-")[2]: str(value)
        for key, value in object_at(annotated, "metadata", "annotations").items()
        if key.startswith(_SETTINGS)
    }
    written = {}
    if endpoint := said.get("endpoint", "").strip():
        if "://" not in endpoint:
            endpoint = f"{'http' if said.get('usehttps') == '0' else 'https'}://{endpoint}"
        written["AWS_ENDPOINT_URL"] = "" if "@" in endpoint else f"={endpoint}"
    if region := said.get("region"):
        written["AWS_REGION"] = f"={region}"
    for name, setting in _SWITCHES.items():
        if said.get(name, "").lower() in ("1", "true"):
            key, _, value = setting.partition("=")
            written[key] = f"={value}"
    if endpoint.lower().startswith("http://"):
        pass  # no certificate to verify
    elif said.get("cabundle-configmap"):
        written["ca.crt"] = f" (the authorities in ConfigMap {said['cabundle-configmap']})"
    elif said.get("cabundle") or said.get("verifyssl", "").lower() in ("0", "false"):
        written["ca.crt"] = " (the authority of the store: the loader verifies each certificate)"
    return ", ".join(f"{key}{value}" for key, value in written.items() if key not in present)


def _keys_of(secret: JsonObject) -> set[str]:
    return {*object_at(secret, "data"), *object_at(secret, "stringData")}


def _is_of(scheme: str, secret: JsonObject) -> bool:
    return bool(_keys_of(secret) & set(_RECOGNIZED.get(scheme, ()))) or (
        scheme == "s3" and bool(_keys_to_write(secret, ()))
    )
