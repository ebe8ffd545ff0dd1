"""Reviews as the API server sends them, of objects that policies judge."""

import json
from typing import Any

import yaml

from kubectl_serve.install.manifests import default_context
from model_uri import ModelURI, Store
from serve_core.admission.decide import judge
from serve_core.api import models
from serve_core.api.models import Placed
from serve_core.base.json import JsonObject
from serve_core.context.cluster import ClusterContext
from serve_core.policy.parse import read_policy
from serve_core.workload import loader_container
from serve_core.workload.loader_container import LoaderRequest

STORES = """
rules:
  - {name: places, sources: {allow: ['s3://models']}}
  - {name: images, images: {allow: [dev.local/kubectl-serve, example.com]}}
  - {name: memory, resources: {perReplica: {memory: 2Gi}}}
  - {name: scale, scale: {most: 5}}
"""


def document(kind: str, spec: str, name: str = "stores", **metadata: str) -> JsonObject:
    head = {"apiVersion": "kubectl-serve.dev/v1alpha1", "kind": kind, "metadata": {"name": name, **metadata}}
    return head | {"spec": yaml.safe_load(spec)}


def context_with(*specs: str) -> ClusterContext:
    base = default_context()
    made = tuple(read_policy(document("ServingPolicy", spec, f"p{i}")) for i, spec in enumerate(specs))
    return ClusterContext(
        base.loader, base.runtimes, policies=made, sidecar_images=frozenset({"example.org/queue@sha256:1"})
    )


FACTS = context_with(STORES)


def deployment(uri: str = "s3://models/iris/model.joblib", **notes: str) -> JsonObject:
    annotations = {"kubectl-serve.dev/model": uri, "kubectl-serve.dev/scale": "0..3"}
    annotations |= {f"kubectl-serve.dev/{key}": value for key, value in notes.items()}
    metadata = {"name": "iris", "namespace": "ml", "annotations": annotations}
    made = judge({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata}, FACTS).deployment
    assert made is not None
    return made


def loading(*uris: str, **asked: Any) -> JsonObject:
    """The loader and the volumes of a pod with a model."""
    placed = tuple(Placed(ModelURI(uri, "", "", None, ()), "") for uri in uris)
    loader = FACTS.loader.chosen(verifying="signature_key" in asked)
    asked = {"stores": public_stores(*uris)} | asked
    wanted = LoaderRequest(loader.image, placed, loader.allow_networks, **asked)
    return {"initContainers": [loader_container.render(wanted)], "volumes": loader_container.volumes(wanted)}


def public_stores(*uris: str) -> tuple[Store, ...]:
    """What a loader of these is bound to where a policy rests on places and names no store."""
    found = [uri for uri in map(models.parse, uris, uris) if isinstance(uri, ModelURI)]
    return tuple(dict.fromkeys(Store(f"{uri.scheme}://{uri.authority}") for uri in found if uri.scheme != "pvc"))


def pod(uri: str, **more: Any) -> JsonObject:
    mounted = {"volumeMounts": [{"name": "model", "mountPath": "/mnt/models", "subPath": "model", "readOnly": True}]}
    spec = loading(uri) | {"containers": [{"name": "server", "image": "example.com/s:1", **MEMORY, **mounted}]}
    metadata = {"name": "p", "namespace": "ml"}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec | more}


MEMORY = {"resources": {"limits": {"memory": "1Gi"}}}


def knative(kind: str = "Service", uri: str = "s3://elsewhere/a") -> JsonObject:
    spec = pod(uri)["spec"]
    return {
        "apiVersion": "serving.knative.dev/v1",
        "kind": kind,
        "metadata": {"name": "s", "namespace": "ml", "annotations": {"autoscaling.knative.dev/max-scale": "1"}},
        "spec": spec
        if kind == "Revision"
        else {"template": {"metadata": {"annotations": {"autoscaling.knative.dev/max-scale": "1"}}, "spec": spec}},
    }


def leading(kind: str, **labels: str) -> JsonObject:
    """A Route or a DomainMapping to a Knative Service."""
    metadata = {"name": "s", "namespace": "ml", "labels": labels}
    if kind == "Route":
        spec: JsonObject = {"traffic": [{"configurationName": "s", "percent": 100}]}
        return {"apiVersion": "serving.knative.dev/v1", "kind": kind, "metadata": metadata, "spec": spec}
    spec = {"ref": {"apiVersion": "serving.knative.dev/v1", "kind": "Service", "name": "s"}}
    return {"apiVersion": "serving.knative.dev/v1beta1", "kind": kind, "metadata": metadata, "spec": spec}


def request(new: JsonObject | None, old: JsonObject | None = None, **more: Any) -> bytes:
    metadata = (new or old or {}).get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    body = {
        "uid": "u",
        "operation": "UPDATE" if old else "CREATE",
        "namespace": metadata.get("namespace", ""),
        "name": metadata.get("name", ""),
        "userInfo": {"username": "alice", "groups": ["system:authenticated"]},
        "object": new,
        "oldObject": old,
    } | more
    return json.dumps({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": body}).encode()
