"""If auth or mesh requires a sidecar, no field of a pod may bypass it."""

import copy
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from serve_core.admission.decide import judge
from serve_core.base.json import JsonObject
from serve_core.context.cluster import ClusterContext
from serve_core.istio import sidecar
from serve_core.policy.evaluate import PolicyVerdict, judge_policies
from serve_core.subjects.build import subject_of
from support.istio_installation import control_plane, installation
from support.reviews import context_with

NOW = datetime(2026, 11, 18, tzinfo=UTC)
MESH = installation(
    namespaces={"ml": {"istio-injection": "enabled"}, "knative-serving": {"istio-injection": "enabled"}}
)
STRICT = "rules: [{name: mesh, mesh: {allow: [istio]}}]"
GUARDED = "rules: [{name: callers, auth: {allow: [mtls, jwt]}}]"
FEATURES = {
    f"kubernetes.{flag}": "enabled"
    for flag in (
        "podspec-init-containers", "podspec-hostnetwork", "podspec-hostpid", "podspec-shareprocessnamespace",
        "podspec-hostaliases", "podspec-dnspolicy", "podspec-dnsconfig", "podspec-securitycontext",
        "containerspec-addcapabilities", "podspec-volumes-emptydir",
    )
}  # fmt: skip


def context(*policies: str) -> ClusterContext:
    return replace(context_with(*policies), istio=MESH, features=FEATURES)


def noted(key: str, value: str) -> JsonObject:
    return {"metadata": {"annotations": {key: value}}}


def labelled(key: str, value: str) -> JsonObject:
    return {"metadata": {"labels": {key: value}}}


def server(**more: Any) -> JsonObject:
    return {
        "spec": {
            "containers": [
                {"name": "model-server", "image": "example.com/server:1", "ports": [{"containerPort": 8080}], **more}
            ]
        }
    }


def beside(key: str = "containers", **more: Any) -> JsonObject:
    made = server()
    made["spec"].setdefault(key, [])
    made["spec"][key] = [*made["spec"][key], {"name": "other", "image": "example.com/other:1", **more}]
    return made


def pod_with(**more: Any) -> JsonObject:
    made = server()
    made["spec"] |= more
    return made


def mounting(volume: str) -> JsonObject:
    made = server(volumeMounts=[{"name": volume, "mountPath": "/x"}])
    made["spec"]["volumes"] = [{"name": volume, "emptyDir": {}}]
    return made


TRAFFIC, SIDECAR = "traffic.sidecar.istio.io/", "sidecar.istio.io/"
WAYS: dict[str, JsonObject] = {
    "ports that it does not see": noted(f"{TRAFFIC}excludeInboundPorts", "8012,8013,8080"),
    "a port of its own": server(ports=[{"containerPort": 15090}]),
    "a port of its own beside the server": beside(ports=[{"containerPort": 15021}]),
    "only some ports that it sees": noted(f"{TRAFFIC}includeInboundPorts", "9999"),
    "no ports that it sees": noted(f"{TRAFFIC}includeInboundPorts", ""),
    "networks that it does not see": noted(f"{TRAFFIC}excludeOutboundIPRanges", "0.0.0.0/0"),
    "networks that alone it sees": noted(f"{TRAFFIC}includeOutboundIPRanges", "10.0.0.1/32"),
    "interfaces that it does not see": noted(f"{TRAFFIC}excludeInterfaces", "eth0"),
    "interfaces as if from inside": noted(f"{TRAFFIC}kubevirtInterfaces", "eth0"),
    "interfaces as if from inside, the newer key": noted("istio.io/reroute-virtual-interfaces", "eth0"),
    "the port of its own readiness": noted("status.sidecar.istio.io/port", "8012"),
    "no redirect": noted(f"{SIDECAR}interceptionMode", "NONE"),
    "another program": noted(f"{SIDECAR}proxyImage", "evil.example/proxy:1"),
    "another configuration to begin with": noted(f"{SIDECAR}bootstrapOverride", "mine"),
    "another control plane": noted(f"{SIDECAR}discoveryAddress", "evil.example:15012"),
    "a volume in it": noted(f"{SIDECAR}userVolume", '[{"name": "v"}]'),
    "a volume mounted in it": noted(f"{SIDECAR}userVolumeMount", '[{"name": "v"}]'),
    "its configuration": noted("proxy.istio.io/config", "discoveryAddress: evil.example:15012"),
    "its configuration, beside what is harmless": noted(
        "proxy.istio.io/config", "holdApplicationUntilProxyStarts: true\ninterceptionMode: NONE"
    ),
    "its configuration, in one line": noted("proxy.istio.io/config", "{interceptionMode: NONE}"),
    "what it is laid over": noted("proxy.istio.io/overrides", '{"containers": []}'),
    "that it is there already": noted(f"{SIDECAR}status", "{}"),
    "another template": noted("inject.istio.io/templates", "grpc-agent"),
    "a level of its log that is more": noted(f"{SIDECAR}logLevel", "info\n    image: evil.example/proxy:1"),
    "a component's level that is more": noted(f"{SIDECAR}componentLogLevel", 'misc:info"]\n    image: "evil.example/p'),
    "a wait that is more": noted(
        "readiness.status.sidecar.istio.io/periodSeconds", "5\n    securityContext: {runAsUser: 0}"
    ),
    "statistics that are more": noted(f"{SIDECAR}statsInclusionPrefixes", 'a"}}, "admin": {"x": "'),
    "resources that are more": noted(f"{SIDECAR}proxyCPU", '50m"\n    image: "evil.example/proxy:1'),
    "variables of its own": noted("apm.datadoghq.com/env", '{"ISTIO_BOOTSTRAP_OVERRIDE": "/mine"}'),
    "the node's proxy, past it": noted("ambient.istio.io/bypass-inbound-capture", "true"),
    "a program with debugging rights": noted(f"{SIDECAR}enableCoreDump", "true"),
    "a key of a later version": noted(f"{SIDECAR}whatever", "1"),
    "a key of a new domain": noted("new.istio.io/whatever", "1"),
    "another network": noted("v1.multus-cni.io/default-network", "plain"),
    "ambient instead": labelled("istio.io/dataplane-mode", "ambient"),
    "no TLS for those who call": labelled("security.istio.io/tlsMode", "disabled"),
    "another network's gateway": labelled("topology.istio.io/network", "far"),
    "a container laid over it": beside(name="istio-proxy"),
    "an init container laid over the redirect's": beside("initContainers", name="istio-init"),
    "an init container laid over the check of the redirect": beside("initContainers", name="istio-validation"),
    "the sidecar's user": server(securityContext={"runAsUser": 1337}),
    "the sidecar's group": server(securityContext={"runAsGroup": 1337}),
    "the sidecar's user for all": pod_with(securityContext={"runAsUser": 1337}),
    "the sidecar's user beside the server": beside(securityContext={"runAsUser": 1337}),
    "the sidecar's user in what runs before": beside("initContainers", securityContext={"runAsUser": 1337}),
    "rights over the network": server(securityContext={"capabilities": {"add": ["NET_ADMIN"]}}),
    "rights over the network, in other letters": beside(securityContext={"capabilities": {"add": ["cap_net_admin"]}}),
    "all rights": beside("initContainers", securityContext={"capabilities": {"add": ["ALL"]}}),
    "its processes": pod_with(shareProcessNamespace=True),
    "the node's processes": pod_with(hostPID=True),
    "its control plane's name, for itself": pod_with(hostnameOverride="istiod.istio-system.svc"),
    "its control plane's name": pod_with(hostAliases=[{"ip": "10.0.0.9", "hostnames": ["istiod.istio-system.svc"]}]),
    "its control plane's name by DNS": pod_with(dnsPolicy="None", dnsConfig={"nameservers": ["10.0.0.9"]}),
    "its control plane's name by a search": pod_with(dnsConfig={"searches": ["evil.example"]}),
    "its volume": mounting("istio-envoy"),
    "its socket": mounting("workload-socket"),
}
HARMLESS: dict[str, JsonObject] = {
    "nothing": server(),
    "resources of the sidecar": noted(f"{SIDECAR}proxyCPU", "50m"),
    "its log": noted(f"{SIDECAR}logLevel", "debug"),
    "its statistics": noted(f"{SIDECAR}statsInclusionPrefixes", "cluster"),
    "how it starts and ends": noted(
        "proxy.istio.io/config", "holdApplicationUntilProxyStarts: true\nterminationDrainDuration: 30s\n"
    ),
    "a native sidecar": noted(f"{SIDECAR}nativeSidecar", "true"),
    "its wish to have one": labelled(f"{SIDECAR}inject", "true"),
    "a low port": server(securityContext={"capabilities": {"add": ["NET_BIND_SERVICE"], "drop": ["ALL"]}}),
    "a user of its own": server(securityContext={"runAsUser": 1000}),
    "how often DNS is asked": pod_with(dnsConfig={"options": [{"name": "ndots", "value": "2"}]}),
    "a key of another domain": noted("notistio.io/whatever", "1"),
}


def merged(template: JsonObject, more: JsonObject) -> JsonObject:
    made = copy.deepcopy(template)
    for key, value in more.items():
        made[key] = merged(made[key], value) if isinstance(value, dict) and isinstance(made.get(key), dict) else value
    return made


def deployment(template: JsonObject, **notes: str) -> JsonObject:
    notes = {"model": "s3://models/a.onnx", "runtime": "custom"} | notes
    metadata: JsonObject = {"name": "iris", "namespace": "ml"}
    metadata["annotations"] = {f"kubectl-serve.dev/{key}": value for key, value in notes.items()}
    spec = {"template": merged(server(), template)}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec}


def by_hand(kind: str, template: JsonObject) -> JsonObject:
    template = merged(server(), template)
    if kind == "Deployment":
        completed = judge(deployment(template), context()).deployment
        return completed or deployment(template)
    if kind in ("Service", "Configuration"):
        made: JsonObject = {"apiVersion": "serving.knative.dev/v1", "kind": kind, "spec": {"template": template}}
    elif kind == "Revision":
        made = {"apiVersion": "serving.knative.dev/v1", "kind": kind, **template}
    elif kind == "InferenceService":
        part = template["spec"] | template.get("metadata", {})
        whole = {"model": {"modelFormat": {"name": "onnx"}}}
        made = {"apiVersion": "serving.kserve.io/v1beta1", "kind": kind}
        made["spec"] = {"predictor": whole, "transformer": part}
    else:
        loading = [{"name": "model-loader", "image": "example.com/loader:1", "args": ["--", "s3://models/a"]}]
        template["spec"]["initContainers"] = [*loading, *template["spec"].get("initContainers", [])]
        made = {"apiVersion": "v1", "kind": "Pod", **template}
    return made | {"metadata": made.get("metadata", {}) | {"name": "made", "namespace": "ml"}}


def bypasses(template: JsonObject) -> list[str]:
    return [bypass.path for bypass in sidecar.bypasses(template, "", context().known_loaders)]


def verdict(manifest: JsonObject, *policies: str) -> PolicyVerdict:
    known = context(*policies)
    subject = subject_of(manifest, known)
    assert subject is not None
    return judge_policies(subject, known.policies, (), NOW)


KINDS = ("Deployment", "Service", "Configuration", "Revision", "InferenceService")


@pytest.mark.attack(29)
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
@pytest.mark.parametrize("kind", KINDS)
def test_a_rule_on_the_mesh_finds_every_bypass_of_the_sidecar(kind: str, way: JsonObject) -> None:
    assert {found.code for found in verdict(by_hand(kind, way), STRICT).problems} == {"SidecarNotKept"}


@pytest.mark.attack(29)
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
def test_auth_is_refused_where_the_sidecar_can_be_bypassed(way: JsonObject) -> None:
    made = judge(deployment(way, auth="mtls"), context())
    assert {found.code for found in made.problems} & {"PastSidecar", "InvalidAnnotation"}
    assert made.service is None
    assert "PastSidecar" not in {found.code for found in judge(deployment(way), context()).problems}, "without auth"


@pytest.mark.parametrize("more", HARMLESS.values(), ids=HARMLESS.keys())
@pytest.mark.parametrize("kind", [*KINDS, "Pod"])
def test_harmless_settings_break_no_rule(kind: str, more: JsonObject) -> None:
    assert not verdict(by_hand(kind, more), STRICT).denied
    if kind == "Deployment":
        guarded = judge(deployment(more, auth="mtls"), context(STRICT, GUARDED))
        assert not guarded.problems
        assert guarded.deployment is not None
        assert not verdict(guarded.deployment, STRICT, GUARDED).denied


@pytest.mark.attack(29)
@pytest.mark.parametrize(
    "way",
    [
        noted(f"{TRAFFIC}excludeInboundPorts", "8012"),
        noted(f"{SIDECAR}interceptionMode", "NONE"),
        noted("status.sidecar.istio.io/port", "8012"),
        server(securityContext={"runAsUser": 1337}),
        beside(securityContext={"capabilities": {"add": ["NET_ADMIN"]}}),
    ],
    ids=str,
)
def test_a_pod_with_the_loader_is_judged_by_the_same(way: JsonObject) -> None:
    assert {found.code for found in verdict(by_hand("Pod", way), STRICT).problems} == {"SidecarNotKept"}


def test_an_injected_pod_does_not_bypass_the_sidecar() -> None:
    """As Istio 1.29.2 writes it with its node agent."""
    made = by_hand("Pod", {
        "metadata": {
            "annotations": {
                "istio.io/rev": "default", f"{SIDECAR}status": "{}", f"{SIDECAR}interceptionMode": "REDIRECT",
                f"{TRAFFIC}excludeInboundPorts": "15020", f"{TRAFFIC}includeInboundPorts": "*",
                f"{TRAFFIC}includeOutboundIPRanges": "*", "prometheus.io/port": "15020",
            },
            "labels": {"security.istio.io/tlsMode": "istio", "service.istio.io/canonical-name": "iris"},
        },
    })  # fmt: skip
    proxy = {"securityContext": {"runAsUser": 1337, "runAsGroup": 1337, "privileged": False}, "image": "istio/proxy"}
    made["spec"]["containers"].append(proxy | {"name": "istio-proxy"})
    rights = {"securityContext": {"capabilities": {"add": ["NET_ADMIN", "NET_RAW"]}, "runAsUser": 0}}
    made["spec"]["initContainers"].append(rights | {"name": "istio-init", "image": "istio/proxy"})
    made["spec"]["volumes"] = [{"name": "istio-envoy", "emptyDir": {"medium": "Memory"}}]
    assert not verdict(made, STRICT).denied


def test_exclusions_of_the_installation_break_no_rule() -> None:
    settings = {"global.proxy.excludeInboundPorts": "9999", "global.proxy.includeIPRanges": "10.0.0.0/8"}
    known = replace(context(STRICT), istio=installation(control_plane(values=settings), namespaces=MESH.namespaces))

    def denied(key: str, value: str, kind: str = "Pod") -> bool:
        subject = subject_of(by_hand(kind, noted(f"{TRAFFIC}{key}", value)), known)
        assert subject is not None
        return judge_policies(subject, known.policies, (), NOW).denied

    assert not denied("excludeInboundPorts", "9999,15020")
    assert not denied("includeOutboundIPRanges", "10.0.0.0/8")
    assert denied("excludeInboundPorts", "9999,15020,8012")
    assert denied("excludeInboundPorts", "15020")
    assert denied("excludeInboundPorts", "9999,15020", "Service"), "a template has none of it from the injector"


@pytest.mark.attack(29)
def test_a_rule_that_allows_no_sidecar_allows_a_bypass() -> None:
    past = by_hand("Service", noted(f"{TRAFFIC}excludeInboundPorts", "8012"))
    assert not verdict(past, "rules: [{name: r, mesh: {allow: [istio, none]}}]").denied
    assert verdict(past, "rules: [{name: r, mesh: {deny: [istio]}}]").problems[0].code == "ValueNotAllowed"
    assert verdict(past, "rules: [{name: r, mesh: {deny: [none]}}]").denied


@pytest.mark.attack(29)
@pytest.mark.parametrize(
    "part",
    [
        {"annotations": {f"{SIDECAR}inject": "false"}},
        {"labels": {f"{SIDECAR}inject": "false"}},
        {"hostNetwork": True},
    ],
    ids=str,
)
def test_a_part_of_an_inference_service_without_a_sidecar_is_a_model_without_one(part: JsonObject) -> None:
    made = by_hand("InferenceService", {})
    made["spec"]["predictor"] |= part
    assert [found.code for found in verdict(made, STRICT).problems] == ["ValueNotAllowed"]


@pytest.mark.attack(29)
def test_labels_that_istio_ignores_give_no_sidecar() -> None:
    selector = [{"matchExpressions": [{"key": "batch", "operator": "Exists"}]}]
    plane = control_plane(values={"sidecarInjectorWebhook.neverInjectSelector": selector})
    passing = installation(plane, namespaces={"ml": {"istio-injection": "enabled"}})
    assert passing.injects("ml", {"metadata": {}})
    assert not passing.injects("ml", labelled("batch", "1"))
    assert passing.injects("ml", merged(labelled("batch", "1"), labelled(f"{SIDECAR}inject", "true")))


def test_labels_by_which_istio_injects_are_enough() -> None:
    values = {"global.proxy.autoInject": "disabled"}
    values |= {"sidecarInjectorWebhook.alwaysInjectSelector": [{"matchLabels": {"team": "a"}}]}  # type: ignore[dict-item]
    plane = control_plane(values=values)
    asked = installation(plane, namespaces={"ml": {"istio-injection": "enabled"}})
    assert not asked.injects("ml", {"metadata": {}})
    assert asked.injects("ml", labelled("team", "a"))


@pytest.mark.attack(29)
@pytest.mark.parametrize(
    ("key", "mode"), [("kubectl-serve.dev/deployment", "deployment"), ("serving.knative.dev/service", "knative")]
)
def test_a_label_that_excludes_pods_from_their_access_policies_is_refused(key: str, mode: str) -> None:
    made = judge(deployment(labelled(key, "other"), auth="mtls", mode=mode), context())
    assert [(found.code, found.path) for found in made.problems] == [
        ("PastSidecar", f"spec.template.metadata.labels[{key}]")
    ]
    for right in ({}, labelled(key, "iris")):
        assert not judge(deployment(right, auth="mtls", mode=mode), context()).problems


@pytest.mark.attack(29)
def test_a_rule_on_auth_does_not_ask_pods_who_may_call() -> None:
    past = by_hand("Pod", noted(f"{TRAFFIC}excludeInboundPorts", "8012"))
    assert not verdict(past, GUARDED).denied
    assert verdict(past, GUARDED, STRICT).denied


def test_a_bounded_number_of_bypasses_is_reported() -> None:
    many = {"metadata": {"annotations": {f"{SIDECAR}{i}": "x" for i in range(10_000)}}}
    assert len(bypasses(many)) == sidecar.MOST


def test_the_loaders_user_does_not_bypass_the_sidecar() -> None:
    cni = installation(control_plane(cni=True, version="1.20.0"), namespaces=MESH.namespaces)
    made = judge(deployment({}, auth="mtls"), replace(context(STRICT), istio=cni))
    assert not made.problems
    assert made.deployment is not None
    (loader,) = made.deployment["spec"]["template"]["spec"]["initContainers"]
    assert loader["securityContext"]["runAsUser"] == 1337
    assert not bypasses(made.deployment["spec"]["template"])
    assert not verdict(made.deployment, STRICT).denied

    for more in ({"restartPolicy": "Always"}, {"command": ["sh"]}, {"image": "evil.example/model-loader:1"}):
        other = copy.deepcopy(made.deployment["spec"]["template"])
        other["spec"]["initContainers"][0] |= more
        assert bypasses(other) == ["spec.initContainers[0].securityContext.runAsUser"]


@pytest.mark.attack(29)
def test_another_container_with_the_loaders_name_and_user_is_a_bypass() -> None:
    user = {"securityContext": {"runAsUser": 1337}}
    for key in ("initContainers", "containers", "ephemeralContainers"):
        assert bypasses(beside(key, name="model-loader", **user))


def test_a_malformed_pod_is_no_error() -> None:
    for strange in ({"metadata": 1, "spec": []}, {"spec": {"containers": [1, {"securityContext": 3}], "volumes": "x"}}):
        assert bypasses(strange) == []


@pytest.mark.attack(29)
@pytest.mark.parametrize("port", ["15020", "15021", "15090"])
def test_a_port_that_the_sidecar_does_not_see_cannot_be_annotated(port: str) -> None:
    made = judge(deployment({}, port=port), context()).deployment
    assert made is not None
    assert {found.code for found in verdict(made, STRICT).problems} == {"SidecarNotKept"}


@pytest.mark.attack(9)
@pytest.mark.parametrize("ports", [[{"containerPort": []}], [{"containerPort": {}}, 5, None, {}], {"a": 1}, "15090"])
def test_ports_of_any_type_are_read(ports: object) -> None:
    assert bypasses(server(ports=ports)) == []
