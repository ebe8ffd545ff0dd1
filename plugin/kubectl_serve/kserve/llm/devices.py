"""Devices of a language model by dynamic resource allocation, as KServe's annotations ask for them. Pure.

Source: KServe 0.20, ``pkg/controller/v1alpha2/llmisvc/managed_dra.go``: the controller makes a ResourceClaimTemplate.
"""

from kubectl_serve.kserve.base.accounting import Field, Ledger
from kubectl_serve.kserve.base.draft import Draft
from kubectl_serve.kserve.base.names import GROUP, LLM_SERVER
from serve_core.api.runtimes import Runtime
from serve_core.base.constants import SERVER_CONTAINER
from serve_core.base.json import JsonObject

_PREFIX = f"{GROUP}/exp-dra-"
_CLAIM, _SUFFIX = "managed-device", "-managed-dra"


def read(annotations: Field, runtime: Runtime | None, ledger: Ledger, draft: Draft) -> list[JsonObject]:
    """Add the claim to the draft's pod; return the ResourceClaimTemplate, if devices are asked for."""
    device = annotations.at(f"{_PREFIX}device-class").text()
    if not device:
        return []
    name = f"{draft.name}{_SUFFIX}"
    present = draft.pod.get("resourceClaims")
    claims = present.objects() if isinstance(present, Field) else []
    draft.pod["resourceClaims"] = [*claims, {"name": _CLAIM, "resourceClaimTemplateName": name}]
    target = annotations.at(f"{_PREFIX}container-name").text() or LLM_SERVER
    listed = [ledger.settled(each) for each in draft.pod["containers"]]
    for each in listed:
        if each.get("name") == (SERVER_CONTAINER if target == LLM_SERVER else target):
            resources = each.setdefault("resources", {})
            resources["claims"] = [*resources.get("claims", []), {"name": _CLAIM}]
    image = _image_for(device, runtime)
    if "image" not in listed[0] and image is not None:
        listed[0]["image"] = image  # the runtime chooses its image by resources, and a claim names none
    draft.pod["containers"] = listed
    return [
        {
            "apiVersion": "resource.k8s.io/v1",
            "kind": "ResourceClaimTemplate",
            "metadata": {"name": name, **{key: each for key, each in draft.metadata.items() if key == "namespace"}},
            "spec": {"spec": {"devices": {"requests": [_request(device, annotations)]}}},
        }
    ]


def _request(device: str, annotations: Field) -> JsonObject:
    exactly: JsonObject = {"deviceClassName": device}
    count = annotations.at(f"{_PREFIX}device-count").text()
    if count is not None and count.isdecimal() and int(count) > 1:
        exactly["count"] = int(count)
    lines = (annotations.at(f"{_PREFIX}cel-selector").text() or "").splitlines()
    selectors = [{"cel": {"expression": each.strip()}} for each in lines if each.strip()]
    return {"name": "device", "exactly": exactly | ({"selectors": selectors} if selectors else {})}


def _image_for(device_class: str, runtime: Runtime | None) -> str | None:
    """The runtime's image for a class of devices, such as ``gpu.nvidia.com``."""
    for variant in runtime.variants if runtime is not None else ():
        domain = (variant.resource or "").partition("/")[0]
        if domain and f".{device_class}".endswith(f".{domain}"):
            return str(variant.container["image"])
    return None
