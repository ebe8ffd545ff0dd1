"""The chart, ``kubectl serve install`` and kustomize make the same objects, and each value has an effect."""

import base64
import json
import re
import subprocess
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from charting import values
from kubectl_serve.install import manifests
from serve_core.base.json import JsonObject
from serve_webhook import settings
from serve_webhook.certs.authority import SERVER_NAMES
from support.dashboards import asked
from support.paths import ROOT
from support.programs import program
from unit.serve_core.test_runtimes import faults_by_the_restricted_standard
from unit.serve_webhook.test_dashboards import ours

CHART = ROOT / "manifests/chart"
KEPT = {"helm.sh/resource-policy": "keep"}
OPERATOR = ("--api-versions", "monitoring.coreos.com/v1")
POLICIES = ("--api-versions", "kubectl-serve.dev/v1alpha1/ServingPolicy")

Key = tuple[str, str, str]


def render(changes: JsonObject | None = None, *flags: str) -> list[JsonObject]:
    """The objects of the chart with changed values, and those of its tests."""
    done = run(changes, *flags)
    assert done.returncode == 0, done.stderr
    return [each for each in yaml.safe_load_all(done.stdout) if each]


def refusal(changes: JsonObject, *flags: str) -> str:
    done = run(changes, *flags)
    assert done.returncode != 0
    return done.stderr


def run(changes: JsonObject | None = None, *flags: str) -> subprocess.CompletedProcess[str]:
    return helm_template(json.dumps(changes or {}), *flags)


@cache
def helm_template(changes: str, *flags: str) -> subprocess.CompletedProcess[str]:
    command = [program("helm"), "template", "kubectl-serve", str(CHART), "--values", "-", *flags]
    return subprocess.run(command, input=changes, capture_output=True, text=True, check=False)


def key(each: JsonObject) -> Key:
    return each["kind"], each["metadata"].get("namespace", ""), each["metadata"]["name"]


def is_test(each: JsonObject) -> bool:
    return "helm.sh/hook" in each["metadata"].get("annotations", {})


def by_key(objects: Iterable[JsonObject]) -> dict[Key, JsonObject]:
    """What is compared: without what only Helm reads, and with the settings as the document that they are."""
    found = {}
    for each in objects:
        if is_test(each):
            continue
        if each["kind"] == "CustomResourceDefinition" and "annotations" in each["metadata"]:
            assert each["metadata"].pop("annotations") == KEPT
        if "settings.yaml" in (each.get("data") or {}):
            each["data"]["settings.yaml"] = yaml.safe_load(each["data"]["settings.yaml"])
        assert key(each) not in found
        found[key(each)] = each
    return found


def kustomized(folder: str) -> list[JsonObject]:
    command = [
        program("kustomize"),
        "build",
        "--load-restrictor=LoadRestrictionsNone",
        str(ROOT / "manifests" / folder),
    ]
    return list(yaml.safe_load_all(subprocess.run(command, check=True, capture_output=True, text=True).stdout))


def test_the_chart_install_and_kustomize_make_the_same_objects() -> None:
    installed = by_key(manifests.all_objects())
    assert by_key(render()) == installed
    assert by_key(kustomized("base")) == installed


def test_the_chart_takes_images_from_a_registry_as_install_does() -> None:
    image = {"registry": "registry.example.com/serving", "tag": "1.2.3"}
    assert by_key(render({"image": image})) == by_key(manifests.all_objects(image["registry"], image["tag"]))


def test_the_node_cache_is_the_same_from_the_chart_install_and_kustomize() -> None:
    installed = [*manifests.all_objects(), *manifests.cache_objects(manifests.CacheSettings())]
    assert by_key(render({"cache": {"enabled": True}})) == by_key(installed)
    assert by_key(kustomized("cache")) == by_key(manifests.cache_objects(manifests.CacheSettings()))


def test_the_node_cache_gets_the_same_settings_from_the_chart_and_install() -> None:
    wanted = manifests.CacheSettings(size="2Ti", path="/data/models", kubelet="/var/kubelet")
    changes = {"enabled": True, "size": wanted.size, "path": wanted.path, "kubelet": wanted.kubelet}
    alone = {"server": {"enabled": False}, "crds": {"enabled": False}, "cache": changes}
    assert by_key(render(alone)) == by_key(manifests.cache_objects(wanted))


def test_what_is_for_istio_is_the_same_from_the_chart_install_and_kustomize() -> None:
    alone = {"server": {"enabled": False}, "crds": {"enabled": False}, "istio": {"enabled": True}}
    assert by_key(render(alone)) == by_key(manifests.istio_objects()) == by_key(kustomized("istio"))


def test_everything_can_be_switched_off() -> None:
    assert render({"server": {"enabled": False}, "crds": {"enabled": False}}) == []


def test_the_definitions_can_be_a_release_of_their_own() -> None:
    kinds = {each["kind"] for each in render({"server": {"enabled": False}})}
    assert kinds == {"CustomResourceDefinition"}
    others = {each["kind"] for each in render({"crds": {"enabled": False}})}
    assert not kinds & others


def test_uninstalling_keeps_the_definitions() -> None:
    definitions = [each for each in render() if each["kind"] == "CustomResourceDefinition"]
    assert len(definitions) == 3
    assert all(each["metadata"]["annotations"] == KEPT for each in definitions)


def test_a_release_in_the_servers_namespace_leaves_that_to_helm() -> None:
    kinds = [each["kind"] for each in render({}, "--namespace", "kubectl-serve")]
    assert "Namespace" not in kinds
    assert "Namespace" in [each["kind"] for each in render({}, "--namespace", "serving")]


def test_without_the_catalogue_the_server_starts_without_runtimes(tmp_path: Path) -> None:
    found = by_key(render({"runtimes": {"enabled": False}}))
    for name in (manifests.RUNTIMES_CONFIG_MAP, manifests.SERVERS_CONFIG_MAP):
        assert not found["ConfigMap", "kubectl-serve", name]["data"]


def test_helm_finds_nothing_to_improve() -> None:
    command = [program("helm"), "lint", "--strict", "--quiet", str(CHART)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


SAMPLES: dict[str, Any] = {
    "image.pullPolicy": "Always",
    "image.pullSecrets": ["pull"],
    "server.resources": {"requests": {"cpu": 3}},
    "server.tolerations": [],
    "server.topologySpreadConstraints": [],
    "cache.resources": {"requests": {"cpu": 3}},
    "cache.tolerations": [],
    "cache.size": "3Gi",
    "cache.path": "/data",
    "cache.kubelet": "/kubelet",
    "certificates.secret": "own",
    "certificates.authority": "PEM",
    "certificates.certManager.issuer.kind": "ClusterIssuer",
    "networkPolicy.apiServer": ["192.0.2.0/24"],
    "networkPolicy.apiServerPorts": [8443],
    "networkPolicy.metricsFrom": [{"podSelector": {}}],
    "settings.loader.allowNetworks": [],
    "settings.loader.image": "loader",
    "settings.loader.signingImage": "signing",
    "settings.callers": {"certificateAuthority": "PEM"},
    "settings.stores": [{"place": "s3://models"}],
    "settings.sidecarImages": ["proxy"],
    "policies.starter": ["no-pickle"],
}
"""Values by path that the schema allows and that are not the defaults; the others are made from the default."""
PARTS: JsonObject = {
    "cache": {"enabled": True},
    "istio": {"enabled": True},
    "networkPolicy": {"enabled": True},
    "monitoring": {part: {"enabled": True} for part in ("podMonitor", "serviceMonitor", "prometheusRule")},
}
"""All parts that are switched off by default and exclude no other."""


def leaves(schema: JsonObject, prefix: str = "") -> Iterable[tuple[str, JsonObject]]:
    for name, each in schema["properties"].items():
        if name == "global":
            continue
        if "properties" in each:
            yield from leaves(each, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", each


def sample(path: str, schema: JsonObject) -> Any:
    """A value that is not the default."""
    if path in SAMPLES:
        return SAMPLES[path]
    default: Any = merged(values.defaults(), PARTS)
    for name in path.split("."):
        default = default[name]
    match default:
        case bool():
            return not default
        case int():
            return default + 1
        case str():
            return "other"
        case list():
            return [{"key": "other"}]
    return {"other": "value"}


def at(path: str, value: Any) -> JsonObject:
    for name in reversed(path.split(".")):
        value = {name: value}
    found: JsonObject = value
    return found


def merged(one: JsonObject, other: JsonObject) -> JsonObject:
    both = {name: merged(one[name], other[name]) for name in one.keys() & other.keys() if isinstance(other[name], dict)}
    return {**one, **other, **both}


LEAVES = dict(leaves(values.schema()))


@pytest.mark.parametrize("path", LEAVES)
def test_every_value_has_an_effect(path: str) -> None:
    parts = PARTS
    if path.startswith("certificates.certManager.issuer."):
        parts = merged(PARTS, at("certificates.certManager", {"enabled": True, "issuer": {"name": "ours"}}))
    if path in ("certificates.secret", "certificates.authority"):
        parts = merged(PARTS, at("certificates", {"secret": "mine", "authority": "AUTHORITY"}))
    changed = render(merged(parts, at(path, sample(path, LEAVES[path]))), *POLICIES)
    assert changed != render(parts, *POLICIES)


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"replicas": 3}, "'replicas' not allowed"),
        ({"server": {"replica": 3}}, "'replica' not allowed"),
        ({"server": {"replicas": 0}}, "/server/replicas"),
        ({"settings": {"loader": {"imgae": "x"}}}, "'imgae' not allowed"),
        ({"settings": {"stores": [{"url": "x"}]}}, "/settings/stores/0"),
        ({"policies": {"starter": ["no-pickles"]}}, "/policies/starter/0"),
        ({"cache": {"size": "100"}}, "/cache/size"),
        ({"certificates": {"secret": "own"}}, "secret and authority belong together"),
        ({"certificates": {"secret": "own", "authority": "x", "certManager": {"enabled": True}}}, "set either secret"),
    ],
)
def test_a_wrong_value_is_refused_by_its_name(changes: JsonObject, part: str) -> None:
    assert part in refusal(changes)


def test_policies_are_refused_until_their_definition_is_in_the_cluster() -> None:
    chosen = {"policies": {"starter": ["no-pickle"]}}
    assert "does not have the CRD of policies yet" in refusal(chosen)
    (policy,) = [each for each in render(chosen, *POLICIES) if each["kind"] == "ServingPolicy"]
    (wanted,) = yaml.safe_load_all((ROOT / "manifests/policies/no-pickle.yaml").read_text())
    assert policy["spec"] == wanted["spec"]


def test_the_server_accepts_the_settings_of_the_values(tmp_path: Path) -> None:
    written = {
        "loader": {"allowNetworks": ["10.1.0.0/16"]},
        "stores": [{"place": "s3://models", "endpoint": "https://minio.example.com"}],
        "sidecarImages": ["registry.example.com/proxy:1"],
    }
    found = by_key(render({"settings": written}))["ConfigMap", "kubectl-serve", "kubectl-serve"]
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(found["data"]["settings.yaml"]))
    configuration = settings.load(tmp_path / "settings.yaml", tmp_path / "none")
    assert configuration.loader.allow_networks == ("10.1.0.0/16",)
    assert configuration.loader.image == manifests.default_context().loader.image
    assert [store.endpoint for store in configuration.stores] == ["https://minio.example.com"]
    assert configuration.sidecar_images == {"registry.example.com/proxy:1"}


def hooks(objects: Iterable[JsonObject]) -> list[JsonObject]:
    return [hook for each in objects if each["kind"].endswith("WebhookConfiguration") for hook in each["webhooks"]]


def server(objects: Iterable[JsonObject]) -> JsonObject:
    (found,) = [each for each in objects if each["kind"] == "Deployment"]
    return found


def assert_mounted(deployment: JsonObject, secret: str) -> None:
    """The server reads its certificate from a Secret."""
    pod = deployment["spec"]["template"]["spec"]
    (option,) = [each for each in pod["containers"][0]["args"] if each.startswith("--certificate=")]
    mounts = {each["mountPath"]: each["name"] for each in pod["containers"][0]["volumeMounts"]}
    volumes = {each["name"]: each for each in pod["volumes"]}
    assert volumes[mounts[option.partition("=")[2]]]["secret"] == {"secretName": secret}


def test_an_own_certificate_is_mounted_and_trusted_by_every_webhook() -> None:
    objects = render({"certificates": {"secret": "own", "authority": "PEM\n"}})
    assert_mounted(server(objects), "own")
    assert {base64.b64decode(hook["clientConfig"]["caBundle"]) for hook in hooks(objects)} == {b"PEM\n"}


def test_without_an_own_certificate_the_server_sets_the_bundle() -> None:
    assert all("caBundle" not in hook["clientConfig"] for hook in hooks(render()))


@pytest.mark.parametrize("issuer", ["", "company"])
def test_cert_managers_certificate_is_for_the_service(issuer: str) -> None:
    objects = render({"certificates": {"certManager": {"enabled": True, "issuer": {"name": issuer}}}})
    found = {key(each)[::2]: each for each in objects}
    spec = found["Certificate", "kubectl-serve"]["spec"]
    assert spec["dnsNames"] == list(SERVER_NAMES)
    assert_mounted(server(objects), spec["secretName"])
    assert (("Issuer", spec["issuerRef"]["name"]) in found) is not bool(issuer)
    for each in objects:
        if each["kind"].endswith("WebhookConfiguration"):
            assert each["metadata"]["annotations"] == {"cert-manager.io/inject-ca-from": "kubectl-serve/kubectl-serve"}


def test_the_network_policies_select_the_pods_and_their_ports() -> None:
    objects = render(PARTS)
    pods = {
        each["metadata"]["name"]: each["spec"]["template"] for each in objects if "template" in each.get("spec", {})
    }
    policies = [each for each in objects if each["kind"] == "NetworkPolicy"]
    assert {each["metadata"]["name"] for each in policies} == pods.keys() == {"kubectl-serve", "kubectl-serve-cache"}
    for policy in policies:
        pod = pods[policy["metadata"]["name"]]
        assert policy["spec"]["podSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
        named = {port["name"] for port in pod["spec"]["containers"][0]["ports"]}
        assert {port["port"] for rule in policy["spec"]["ingress"] for port in rule["ports"]} == named


def test_the_monitors_select_the_pods_and_their_ports() -> None:
    objects = render(PARTS)
    pods = {
        each["metadata"]["name"]: each["spec"]["template"] for each in objects if "template" in each.get("spec", {})
    }
    monitors = {each["metadata"]["name"]: each["spec"] for each in objects if each["kind"] == "PodMonitor"}
    assert monitors.keys() == pods.keys()
    for name, spec in monitors.items():
        assert spec["selector"]["matchLabels"].items() <= pods[name]["metadata"]["labels"].items()
        ports = {port["name"] for port in pods[name]["spec"]["containers"][0]["ports"]}
        assert {each["port"] for each in spec["podMetricsEndpoints"]} <= ports


def alerts() -> dict[str, JsonObject]:
    (rule,) = [each for each in render(PARTS) if each["kind"] == "PrometheusRule"]
    return {each["alert"]: each for group in rule["spec"]["groups"] for each in group["rules"]}


def test_the_alerts_ask_for_metrics_that_exist() -> None:
    source = (ROOT / "webhook/model_cache/metrics.py").read_text()
    driver = {
        f"kubectl_serve_cache_{name}": set[str]() for name in re.findall(r'^ {8}\("(\w+)", "', source, re.MULTILINE)
    }
    known = ours() | driver
    for name, alert in alerts().items():
        metrics = re.findall(r"\bkubectl_serve_\w+", alert["expr"])
        assert metrics, name
        assert set(metrics) <= known.keys(), name
        for metric, labels in asked(alert["expr"]):
            assert labels - {"instance"} <= known[metric], name


def test_every_alert_says_what_is_wrong_and_what_it_means() -> None:
    for name, alert in alerts().items():
        assert alert["labels"]["severity"] in ("critical", "warning"), name
        assert alert["annotations"]["summary"].endswith("."), name
        assert len(alert["annotations"]["description"]) > 40, name
        written = set(re.findall(r"\$labels\.(\w+)", json.dumps(alert["annotations"])))
        assert written <= set(re.findall(r"by \((\w+)\)", alert["expr"])), name


def test_the_test_is_not_selected_as_a_replica_of_the_server() -> None:
    tests = [each for each in render() if is_test(each)]
    (pod,) = [each for each in tests if each["kind"] == "Pod"]
    (service,) = [each for each in render() if each["kind"] == "Service"]
    assert not service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()


def test_the_servers_namespace_admits_the_pods() -> None:
    objects = render()
    (pod,) = [each for each in objects if is_test(each) and each["kind"] == "Pod"]
    for spec in (pod["spec"], server(objects)["spec"]["template"]["spec"]):
        assert faults_by_the_restricted_standard(spec) == []


def test_every_alert_is_on_the_page_for_operators() -> None:
    page = (ROOT / "docs/operations.md").read_text()
    assert set(re.findall(r"`(KubectlServe\w+)`", page)) == alerts().keys()
