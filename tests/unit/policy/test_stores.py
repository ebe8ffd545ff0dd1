"""The operator decides the store of a source. A user's Secret, arguments or pod cannot change it unnoticed."""

import copy
import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

import pytest
import trustme
import yaml

from kubectl_serve.install.manifests import default_context
from model_uri import Store
from serve_core.admission.decide import judge
from serve_core.base.json import JsonObject
from serve_core.context.cluster import ClusterContext
from serve_core.policy.evaluate import judge_policies
from serve_core.policy.field_types import read_stores
from serve_core.policy.parse import PolicyError, read_policy
from serve_core.subjects.build import subject_of
from serve_core.workload import loader_container
from serve_core.workload.loader_container import LoaderRequest

BASE = default_context()
COMMIT = "0123456789" * 4
DIGEST = "sha256:" + "9f" * 32
PLACES = "{name: sources, sources: {allow: ['s3://models', 'https://models.example.com', 'hf://our-org']}}"
PINNED = "{name: pinned, pinned: {by: [revision, digest]}}"
MINIO = "https://minio.example.com"
PEM = trustme.CA().cert_pem.bytes().decode()


def context(*policies: str, stores: tuple[Store, ...] = (), match: str = "{}") -> ClusterContext:
    """Each policy is the text of its rules."""
    head = {"apiVersion": "kubectl-serve.dev/v1alpha1", "kind": "ServingPolicy"}
    read = tuple(
        read_policy(
            head | {"metadata": {"name": f"p{n}"}, "spec": yaml.safe_load(f"{{match: {match}, rules: [{rules}]}}")}
        )
        for n, rules in enumerate(policies)
    )
    return ClusterContext(BASE.loader, BASE.runtimes, policies=read, stores=stores)


def deployment(uri: str, **notes: str) -> JsonObject:
    annotations = {"model": uri, "credentials": "mine", "runtime": "mlserver-sklearn"} | notes
    metadata: JsonObject = {"name": "by-secret", "namespace": "ml", "labels": {"tier": "gold"}}
    metadata |= {"annotations": {f"kubectl-serve.dev/{key}": value for key, value in annotations.items()}}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata}


def made(uri: str, known: ClusterContext, kind: str = "Deployment", **notes: str) -> tuple[JsonObject, JsonObject]:
    """What admission makes of it, and the pod's spec in it."""
    verdict = judge(deployment(uri, **notes), known)
    assert verdict.deployment is not None, verdict.problems
    assert verdict.service is not None
    found = copy.deepcopy(verdict.deployment if kind == "Deployment" else verdict.service)
    if kind in ("Deployment", "Service"):
        return found, found["spec"]["template"]["spec"]
    spec = found["spec"]["template"]["spec"]
    head = {"kind": kind, "metadata": {"name": "m-00001", "namespace": "ml"}, "spec": spec}
    return head | {"apiVersion": "v1" if kind == "Pod" else "serving.knative.dev/v1"}, spec


def bindings(uri: str, known: ClusterContext, **notes: str) -> list[str]:
    """The stores that the loader is bound to."""
    args = made(uri, known, **notes)[1]["initContainers"][0]["args"]
    return [value for option, value in itertools.pairwise(args) if option == "--store"]


def broken(manifest: JsonObject, known: ClusterContext) -> dict[str, set[str]]:
    subject = subject_of(manifest, known)
    assert subject is not None
    results = judge_policies(subject, known.policies, (), datetime(2026, 11, 30, tzinfo=UTC)).results
    return {result.by: {found.code for found in result.findings} for result in results if result.findings}


def bound(pod: JsonObject, known: ClusterContext, *stores: Store) -> None:
    """Bind an honest loader to other stores."""
    request = loader_container.read(pod["initContainers"][0], pod, known.known_loaders)
    assert isinstance(request, LoaderRequest)
    pod["initContainers"] = [loader_container.render(replace(request, stores=stores))]


KINDS = ["Deployment", "Service", "Revision", "Pod"]
HUB = f"hf://our-org/model@{COMMIT}"


def leading(endpoint: str, place: str = "s3://models", **places: list[str]) -> str:
    """A rule on sources that names a store."""
    return json.dumps({"name": "s", "sources": {"stores": [{"place": place, "endpoint": endpoint}], **places}})


AZURE, BLOBS = "az://models/a.joblib", "https://us.blob.core.windows.net"


@pytest.mark.parametrize(
    ("uri", "rules", "stores"),
    [
        (HUB, PLACES, ["hf://our-org -"]),
        (HUB, PINNED, ["hf://our-org -"]),
        ("s3://models/a.joblib", PLACES, ["s3://models -"]),
        ("https://models.example.com/a.joblib", PLACES, ["https://models.example.com -"]),
        (f"s3://models/a.joblib {HUB}=b", PLACES, ["s3://models -", "hf://our-org -"]),
        ("s3://models/a.joblib", "{name: s, sources: {deny: ['s3://other']}}", []),
        ("s3://models/a.joblib", "{name: s, scale: {most: 5}}", []),
        ("s3://models/a.joblib", leading(MINIO), [f"s3://models {MINIO}"]),
        ("s3://other/a.joblib", leading(MINIO), []),
        (AZURE, leading(BLOBS, "az://models", allow=["az://models"]), [f"az://models {BLOBS}"]),
        ("http://m.ml.svc/a.joblib", "{name: s, sources: {allow: ['http://m.ml.svc']}}", ["http://m.ml.svc -"]),
    ],
)
@pytest.mark.attack(33)
def test_the_loaders_arguments_name_the_store_of_a_source(uri: str, rules: str, stores: list[str]) -> None:
    known = context(rules)
    assert bindings(uri, known) == stores
    for kind in KINDS:
        assert "SourceNotFixed" not in str(broken(made(uri, known, kind)[0], known))


def test_a_rule_on_digests_binds_no_store() -> None:
    assert bindings("s3://models/a.joblib", context("{name: s, pinned: {by: [digest]}}"), digest=DIGEST) == []


UNBOUND: dict[str, tuple[Store, ...]] = {
    "to nothing": (),
    "to the attacker's hub": (Store("hf://our-org", "https://hub.evil.example"),),
    "to trust the attacker": (Store("hf://our-org", "", PEM),),
    "by a narrower place": (Store("hf://our-org"), Store("hf://our-org/model", "https://hub.evil.example")),
    "by plain http": (Store("hf://our-org", "http://huggingface.co"),),
    "another place": (Store("hf://other"),),
    "anywhere": (Store("hf://our-org", "*"),),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stores", UNBOUND.values(), ids=UNBOUND.keys())
@pytest.mark.attack(33)
def test_a_loader_with_another_store_breaks_the_rule(kind: str, stores: tuple[Store, ...]) -> None:
    known = context(PLACES, PINNED)
    manifest, pod = made(HUB, known, kind)
    assert broken(manifest, known) == {}
    bound(pod, known, *stores)
    assert broken(manifest, known) == {"p0/sources": {"SourceNotFixed"}, "p1/pinned": {"SourceNotFixed"}}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.attack(33)
def test_a_pull_request_does_not_belong_to_the_organisation(kind: str) -> None:
    known = context(PLACES)
    manifest, _ = made("hf://our-org/model@refs/pr/7", known, kind)
    assert broken(manifest, known) == {"p0/sources": {"SourceNotAllowed"}}


SURROUNDINGS: dict[str, Callable[[JsonObject], object]] = {
    "hostAliases": lambda pod: pod.update(hostAliases=[{"ip": "10.1.2.3", "hostnames": ["huggingface.co"]}]),
    "hostnameOverride": lambda pod: pod.update(hostnameOverride="huggingface.co"),
    "dnsConfig": lambda pod: pod.update(dnsConfig={"nameservers": ["10.1.2.3"]}),
    "dnsConfig of searches": lambda pod: pod.update(dnsConfig={"searches": ["evil.svc.cluster.local"]}),
    "dnsPolicy": lambda pod: pod.update(dnsPolicy="None"),
    "hostNetwork": lambda pod: pod.update(hostNetwork=True),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("change", SURROUNDINGS.values(), ids=SURROUNDINGS.keys())
@pytest.mark.attack(33)
def test_a_pod_with_its_own_name_resolution_breaks_the_rule(kind: str, change: Callable[[JsonObject], object]) -> None:
    known = context(PLACES, PINNED)
    manifest, pod = made(HUB, known, kind)
    change(pod)
    assert broken(manifest, known) == {"p0/sources": {"SourceNotFixed"}, "p1/pinned": {"SourceNotFixed"}}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("endpoint", "plain"), [("http://minio.models.svc:9000", True), (MINIO, False)])
@pytest.mark.attack(33)
def test_no_user_container_runs_before_the_loader_of_a_store_without_tls(kind: str, endpoint: str, plain: bool) -> None:
    """It shares the pod's network and resolv.conf."""
    known = replace(
        context(leading(endpoint, allow=["s3://models"])), sidecar_images=frozenset({"example.com/proxy:1"})
    )
    for image, expected in (("example.com/any:1", plain), ("example.com/proxy:1", False)):
        manifest, pod = made("s3://models/a.joblib", known, kind)
        pod["initContainers"].insert(0, {"name": "first", "image": image})
        assert broken(manifest, known) == ({"p0/s": {"SourceNotFixed"}} if expected else {})
    manifest, pod = made("s3://models/a.joblib", known, kind)
    pod["initContainers"].append({"name": "last", "image": "example.com/any:1"})
    assert broken(manifest, known) == {}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.attack(33)
def test_what_a_digest_pins_may_come_from_anywhere(kind: str) -> None:
    known = context(PINNED)
    manifest, pod = made("s3://models/a.joblib", known, kind, digest=DIGEST)
    bound(pod, known)
    assert broken(manifest, known) == {}
    manifest, pod = made(f"oci://ghcr.io/our/model@{DIGEST}", known, kind)
    bound(pod, known)
    assert broken(manifest, known) == {}, "the loader compares the digest with what came"


@pytest.mark.parametrize(
    ("uri", "rules"),
    [
        ("az://models/a.joblib", "{name: s, sources: {allow: ['az://models']}}"),
        ("http://models.example.com/a.joblib", "{name: s, sources: {allow: ['http://*.example.com']}}"),
        ("http://models.example.com/a.joblib", "{name: s, sources: {allow: ['http://*']}}"),
    ],
)
@pytest.mark.attack(33)
def test_a_place_without_a_public_endpoint_needs_a_store(uri: str, rules: str) -> None:
    known = context(rules)
    assert bindings(uri, known) == []
    for kind in KINDS:
        assert broken(made(uri, known, kind)[0], known) == {"p0/s": {"SourceNotFixed"}}


def test_the_operators_settings_bind_without_any_policy() -> None:
    store = Store("s3://models", MINIO, PEM)
    assert bindings("s3://models/a.joblib", context(stores=(store,))) == [store.argument]
    assert bindings("s3://other/a.joblib", context(stores=(store,))) == []
    assert bindings("s3://models/a.joblib", context(PLACES, stores=(store,))) == [store.argument]
    assert read_stores([{"place": "s3://models", "endpoint": MINIO, "ca": PEM}]) == (store,)


@pytest.mark.attack(33)
def test_two_policies_with_different_stores_both_apply() -> None:
    one = f"{{name: s, sources: {{allow: ['s3://models'], stores: [{{place: 's3://models', endpoint: '{MINIO}'}}]}}}}"
    other = one.replace(MINIO, "https://other.example.com")
    known = context(one, other)
    assert bindings("s3://models/a.joblib", known) == [f"s3://models {MINIO}"]
    for kind in KINDS:
        assert broken(made("s3://models/a.joblib", known, kind)[0], known) == {"p1/s": {"SourceNotFixed"}}


def test_a_policy_can_leave_the_endpoint_to_the_users_secret() -> None:
    known = context(PLACES.replace("}}", ", stores: [{place: 's3://models', endpoint: '*'}]}}"))
    assert bindings("s3://models/a.joblib", known) == []
    for kind in KINDS:
        assert broken(made("s3://models/a.joblib", known, kind)[0], known) == {}
    assert bindings(HUB, known) == ["hf://our-org -"]


@pytest.mark.parametrize(
    ("deny", "uri"),
    [
        ("s3://models/secret", f"{MINIO}/models/secret/a.joblib"),
        ("s3://models/secret", "https://MINIO.example.com:443/models/%73ecret/a.joblib"),
        (MINIO, "s3://models/a.joblib"),
        ("s3://models/secret", "https://models.MINIO.example.com/secret/a.joblib"),
        (MINIO, "https://models.minio.example.com/a.joblib"),
        ("https://models.minio.example.com", "s3://models/a.joblib"),
        ("https://models.minio.example.com", f"{MINIO}/models/a.joblib"),
        ("hf://bad-org", "https://hub.example.com/hf/Bad-Org/model/resolve/main/a.joblib"),
        ("oci://ghcr.io/bad", "https://mirror.example.com/v2/bad/model/blobs/a.joblib"),
    ],
)
@pytest.mark.attack(34)
def test_a_denial_includes_the_address_of_a_store(deny: str, uri: str) -> None:
    stores = (
        Store("s3://models", MINIO),
        Store("hf://*", "https://hub.example.com/hf"),
        Store("oci://ghcr.io", "https://mirror.example.com"),
    )
    known = context(json.dumps({"name": "s", "sources": {"deny": [deny]}}), stores=stores)
    for kind in KINDS:
        assert broken(made(uri, known, kind)[0], known) == {"p0/s": {"SourceNotAllowed"}}
    good = made("s3://models/public/a.joblib" if "models" in deny else f"{MINIO}/other/a.joblib", known)[0]
    assert (broken(good, known) == {}) is (deny not in (MINIO, "https://models.minio.example.com"))


@pytest.mark.parametrize(
    ("match", "stores"),
    [
        ("{namespaces: [ml]}", ["hf://our-org -"]),
        ("{namespaces: [other]}", []),
        ("{objectSelector: {matchLabels: {tier: gold}}}", ["hf://our-org -"]),
        ("{objectSelector: {matchLabels: {tier: lead}}}", []),
        ("{kinds: [Pod]}", ["hf://our-org -"]),
        ("{kinds: [InferenceService]}", []),
    ],
)
def test_only_a_policy_that_is_about_a_deployment_binds_its_loader(match: str, stores: list[str]) -> None:
    assert bindings(HUB, context(PLACES, match=match)) == stores


@pytest.mark.attack(33)
def test_kserves_loader_reads_its_endpoint_from_the_users_secret() -> None:
    manifest: JsonObject = {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": "k", "namespace": "ml"},
        "spec": {"predictor": {"model": {"modelFormat": {"name": "onnx"}, "storageUri": "s3://models/a.onnx"}}},
    }
    assert broken(manifest, context(PLACES)) == {"p0/sources": {"SourceNotFixed"}}
    anywhere = PLACES.replace("}}", ", stores: [{place: 's3://models', endpoint: '*'}]}}")
    assert broken(manifest, context(anywhere)) == {}


@pytest.mark.parametrize(
    "store",
    [
        "{place: models}", "{place: 's3://models', endpoint: 'ftp://x'}", "{place: 's3://models', endpoint: 'https://x/'}",
        "{place: 's3://models', endpoint: 'https://x/?y'}", "{place: 'https://a.example.com', endpoint: 'https://b'}",
        "{place: 'pvc://claim'}", "{place: 's3://models', ca: nothing}", "{place: 's3://models', port: 1}",
        "{endpoint: 'https://minio.example.com'}",
    ],
)  # fmt: skip
def test_a_policy_with_an_invalid_store_is_refused(store: str) -> None:
    with pytest.raises(PolicyError):
        context(f"{{name: s, sources: {{stores: [{store}]}}}}")
