"""Random policies and objects, of which some violate them, for tests of verdicts."""

import random
from collections.abc import Callable

from kubectl_serve.install.manifests import default_context
from serve_core.api import models
from serve_core.base.constants import PREFIX
from serve_core.base.json import JsonObject
from serve_core.knative.limits import VISIBILITY_LABEL
from serve_core.workload import loader_container
from serve_core.workload.loader_container import LoaderRequest
from serve_kube.resources import (
    CONFIGURATIONS,
    DEFINITIONS,
    DEPLOYMENTS,
    DOMAIN_MAPPINGS,
    KNATIVE_SERVICES,
    PODS,
    REVISIONS,
    ROUTES,
    Resource,
)

DIGEST = "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
PLAIN: JsonObject = {
    "replicas": 0,
    "selector": {"matchLabels": {"app": "plain"}},
    "template": {
        "metadata": {"labels": {"app": "plain"}},
        "spec": {"containers": [{"name": "plain", "image": "example.com/plain:1", "ports": [{"containerPort": 8080}]}]},
    },
}


def definition(resource: Resource) -> JsonObject:
    """A minimal CRD of another project."""
    group, _, version = resource.api_version.partition("/")
    anything = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    return {
        "apiVersion": DEFINITIONS.api_version,
        "kind": DEFINITIONS.kind,
        "metadata": {"name": f"{resource.plural}.{group}"},
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {"kind": resource.kind, "plural": resource.plural, "singular": resource.kind.lower()},
            "versions": [{"name": version, "served": True, "storage": True, "schema": anything}],
        },
    }


def policy(space: str, name: str, rules: list[JsonObject], action: str = "Deny") -> JsonObject:
    return {
        "apiVersion": "kubectl-serve.dev/v1alpha1",
        "kind": "ServingPolicy",
        "metadata": {"name": f"{space}-{name}"},
        "spec": {"match": {"namespaces": [space]}, "action": action, "rules": rules},
    }


def rules(rng: random.Random) -> list[JsonObject]:
    """Rules of every kind, with values that some objects satisfy and some violate."""
    pool: list[JsonObject] = [
        {"sources": {"allow": rng.sample(["s3://models", "s3://models/team-a", "https://*.example.com"], 2)}},
        {"sources": {"deny": ["s3://models/team-a"]}},
        {"pinned": {"by": ["digest"]}},
        {"signed": rng.choice([{}, {"keys": ["ml-team"]}])},
        {"formats": {rng.choice(["allow", "deny"]): rng.sample(["sklearn", "xgboost", "onnx"], 2)}},
        {"runtimes": {"deny": ["custom"]}},
        {"images": {"allow": rng.sample(["dev.local/kubectl-serve", "example.com/ml", "docker.io"], 2)}},
        {"images": {"digest": True}},
        {"resources": {"perReplica": {"memory": rng.choice(["512Mi", "1Gi", "3Gi"])}}},
        {"resources": {"total": {"cpu": rng.choice([1, "2500m", "12"])}}},
        {"scale": {"most": rng.choice([1, 3, 10])}},
        {"scale": {"toZero": rng.choice(["Required", "Forbidden"])}},
        {"visibility": {"allow": ["cluster-local"]}},
        {"mode": {"allow": ["knative"]}},
        {"protocols": {"allow": ["v2"]}},
        {"secrets": {"allow": ["models-*"]}},
        {"serviceAccounts": {"deny": ["builder"]}},
        {"containers": {"arguments": ["--trust-remote-code"], "variables": ["*_TOKEN"]}},
        {"label": {"key": "license", "values": ["mit", "apache-2.0"]}},
        {"expression": {"cel": "subject.images.size() < 3", "message": "it has too many images"}},
        {"expression": {"cel": "object.metadata.labels.license != 'gpl'", "message": "it is under the GPL"}},
    ]
    found = rng.sample(pool, rng.randrange(1, 5))
    extras = [{"action": rng.choice(["Deny", "Warn", "Audit"])} if rng.random() < 0.3 else {} for _ in found]
    return [{"name": f"r{i}"} | rule | extra for i, (rule, extra) in enumerate(zip(found, extras, strict=True))]


URIS = (
    *("s3://models/a.joblib", "https://eu.example.com/m/b.ubj") * 5,
    "s3://models/team-a/b.ubj", "s3://models/team-a/%62.ubj", "s3://models-evil/a.joblib", "s3://models/team-ab/a.onnx",
    "https://example.com:8443/a.joblib", "https://example.com.evil.example/a.joblib", "s3://models//a.joblib",
    "ftp://models/a.joblib",
)  # fmt: skip
"""Values that most policies allow are more frequent, so that some objects pass."""
IMAGES = (
    *("example.com/ml/server:1", "dev.local/kubectl-serve/mlserver-sklearn:1.7.1") * 5,
    "dev.local/kubectl-serve/mlserver-sklearn:1.7.1", "example.com/ml/server:1", f"example.com/ml/server@{DIGEST}",
    "example.com/ml-evil/server:1", "python", "example.com:5000/ml/server:1",
)  # fmt: skip


def container(rng: random.Random, name: str) -> JsonObject:
    made: JsonObject = {"name": name, "image": rng.choice(IMAGES)}
    if rng.random() < 0.7:
        memory, cpu = rng.choice(["512Mi", "1Gi", "2048Mi", "3221225473"]), rng.choice(["0.5", "1", "1500m"])
        limits = {"memory": memory, "cpu": cpu}
        made["resources"] = {"limits": limits, "requests": limits}
    if rng.random() < 0.3:
        made["args"] = rng.sample(["--trust-remote-code", "--trust_remote_code=1", "--verbose"], 2)
    if rng.random() < 0.3:
        made["env"] = [{"name": rng.choice(["HF_TOKEN", "LEVEL"]), "value": rng.choice(["x", "--trust-remote-code"])}]
    if rng.random() < 0.2:
        made["envFrom"] = [{"secretRef": {"name": rng.choice(["models-a", "others"])}}]
    return made


LOADER = default_context().loader
"""The loader's image, whose containers are recognised; cluster tests set the cluster's own."""


def loading(rng: random.Random) -> JsonObject:
    """Part of a pod's spec: the exact loader, or a container with only its name; and its volumes."""
    signed, digest = rng.random() < 0.4, DIGEST if rng.random() < 0.4 else None
    known = LOADER.chosen(verifying=signed)
    key = rng.choice(["ml-team", "mine"]) if signed else None
    placed, _ = models.parse_all(rng.choice(URIS), "")
    if rng.random() < 0.6 and placed:
        asked = LoaderRequest(known.image, placed, known.allow_networks, digest, key)
        return {"initContainers": [loader_container.render(asked)], "volumes": loader_container.volumes(asked)}
    words = ["--volume", "/mnt/model-volume", *(["--digest", DIGEST] if digest else []), "--", rng.choice(URIS)]
    mounts = [{"name": "model", "mountPath": "/mnt/model-volume"}]
    called = container(rng, "model-loader") | {"args": words, "volumeMounts": mounts}
    return {"initContainers": [called], "volumes": [{"name": "model", "emptyDir": {}}]}


def labels(rng: random.Random) -> JsonObject:
    return {"license": rng.choice(["mit", "gpl"])} if rng.random() < 0.7 else {}


def visibility(rng: random.Random) -> JsonObject:
    return {VISIBILITY_LABEL: "cluster-local"} if rng.random() < 0.5 else {}


def deployment(rng: random.Random, space: str, name: str) -> JsonObject:
    notes = {"model": rng.choice(URIS)}
    notes |= {key: value for key, value in {
        "scale": rng.choice(["0..3", "1..10", "2", "many"]), "digest": DIGEST, "visibility": "cluster-local",
        "format": rng.choice(["sklearn", "xgboost:1", "onnx"]), "credentials": rng.choice(["models-a", "others"]),
        "protocol": rng.choice(["v2", "v1"]), "mode": "deployment", "signature-key": rng.choice(["ml-team", "mine"]),
    }.items() if rng.random() < 0.25}  # fmt: skip
    made: JsonObject = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": name,
            "namespace": space,
            "labels": labels(rng),
            "annotations": {f"{PREFIX}{key}": value for key, value in notes.items()},
        },
    }
    if rng.random() < 0.4:
        made["spec"] = {"template": {"spec": {"containers": [container(rng, "server")]}}}
        if rng.random() < 0.3:
            made["spec"]["template"]["spec"]["serviceAccountName"] = "builder"
        if rng.random() < 0.2:
            made["spec"]["template"]["spec"]["initContainers"] = [{"name": "model-loader", "args": [rng.choice(URIS)]}]
    return made


def knative(rng: random.Random, space: str, name: str, resource: Resource = KNATIVE_SERVICES) -> JsonObject:
    spec: JsonObject = {"containers": [container(rng, "server")]}
    if rng.random() < 0.6:
        spec |= loading(rng)
    notes = {f"autoscaling.knative.dev/{key}": rng.choice("0123") for key in ("min-scale",) if rng.random() < 0.5}
    if rng.random() < 0.7:
        notes["autoscaling.knative.dev/max-scale"] = rng.choice(["3", "10", "0"])
    head = {"apiVersion": resource.api_version, "kind": resource.kind}
    metadata = {"name": name, "namespace": space, "labels": labels(rng) | visibility(rng)}
    if resource is REVISIONS:
        return head | {"metadata": metadata | {"annotations": notes}, "spec": spec}
    return head | {"metadata": metadata, "spec": {"template": {"metadata": {"annotations": notes}, "spec": spec}}}


def pod(rng: random.Random, space: str, name: str) -> JsonObject:
    spec = {
        **loading(rng),
        "containers": [container(rng, "server")],
    }
    metadata = {"name": name, "namespace": space, "labels": labels(rng)}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def configuration(rng: random.Random, space: str, name: str) -> JsonObject:
    return knative(rng, space, name, CONFIGURATIONS)


def revision(rng: random.Random, space: str, name: str) -> JsonObject:
    return knative(rng, space, name, REVISIONS)


def route(rng: random.Random, space: str, name: str) -> JsonObject:
    return {
        "apiVersion": ROUTES.api_version,
        "kind": ROUTES.kind,
        "metadata": {"name": name, "namespace": space, "labels": labels(rng) | visibility(rng)},
        "spec": {"traffic": [{"configurationName": name, "percent": 100}]},
    }


def domain_mapping(rng: random.Random, space: str, name: str) -> JsonObject:
    """Without a label that makes it private."""
    leads_to = {"apiVersion": KNATIVE_SERVICES.api_version, "kind": KNATIVE_SERVICES.kind, "name": name}
    return {
        "apiVersion": DOMAIN_MAPPINGS.api_version,
        "kind": DOMAIN_MAPPINGS.kind,
        "metadata": {
            "name": f"{name}.{space}.example.com",
            "namespace": space,
            "labels": labels(rng) | visibility(rng),
        },
        "spec": {"ref": leads_to},
    }


Maker = Callable[[random.Random, str, str], JsonObject]
MAKERS: tuple[tuple[Resource, Maker], ...] = (
    (DEPLOYMENTS, deployment),
    (KNATIVE_SERVICES, knative),
    (CONFIGURATIONS, configuration),
    (REVISIONS, revision),
    (ROUTES, route),
    (DOMAIN_MAPPINGS, domain_mapping),
    (PODS, pod),
)
