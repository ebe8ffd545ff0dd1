"""What Istio's sidecar does to a download, and what is set so that it succeeds."""

import json
from collections.abc import Mapping
from typing import Any
from unittest.mock import Mock

import pytest

from serve_core.admission.decide import Verdict, judge
from serve_core.api.annotations import MESH, MODEL
from serve_core.base.constants import LOADER_CONTAINER
from serve_core.base.json import JsonObject
from serve_core.base.patch import json_patch
from serve_core.base.reasons import CATALOGUE, Kind
from serve_core.context.cluster import ClusterContext, LoaderConfig
from serve_core.context.istio import IstioInstallation, Revision, detect
from serve_core.istio import injection
from support.istio_installation import VALUES, control_plane, installation, named

INJECTED = {"team-a": {"istio-injection": "enabled"}}
OLD = ["v1.33.2", "v1.28.9"]
NATIVE = "sidecar.istio.io/nativeSidecar"
CASES = json.loads((VALUES / "injection.json").read_text())["cases"]
MESH_CHOICES = {code for code, reason in CATALOGUE.items() if reason.kind is Kind.CHOICE} - {
    "RuntimeCustom",
    "ModelByLoader",
    "ModelFromClaim",
}


def deployment(
    model: str = "https://models.example.com/iris.joblib",
    labels: Mapping[str, str] | None = None,
    notes: Mapping[str, str] | None = None,
    namespace: str = "team-a",
    pod: Mapping[str, Any] | None = None,
    **own: str,
) -> JsonObject:
    container: JsonObject = {
        "name": "app",
        "image": "example.com/app:1",
        "args": ["/mnt/models"],
        "ports": [{"containerPort": 8080}],
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": "iris",
            "namespace": namespace,
            "annotations": {MODEL: model, **{f"kubectl-serve.dev/{key}": value for key, value in own.items()}},
        },
        "spec": {
            "selector": {"matchLabels": {"app": "iris"}},
            "template": {
                "metadata": {"labels": {"app": "iris", **(labels or {})}, "annotations": dict(notes or {})},
                "spec": {"containers": [container], **(pod or {})},
            },
        },
    }


def judged(context: IstioInstallation | None, document: JsonObject | None = None) -> Verdict:
    features = {"kubernetes.podspec-init-containers": "enabled", "kubernetes.podspec-hostnetwork": "enabled"}
    features["kubernetes.podspec-persistent-volume-claim"] = "enabled"
    return judge(document or deployment(), ClusterContext(LoaderConfig("example.com/loader:1"), (), features, context))


def template(verdict: Verdict) -> JsonObject:
    assert verdict.problems == ()
    assert verdict.service is not None
    found: JsonObject = verdict.service["spec"]["template"]
    return found


def loader_uid(verdict: Verdict) -> int | None:
    loaders = [c for c in template(verdict)["spec"].get("initContainers", []) if c["name"] == LOADER_CONTAINER]
    uid: int | None = loaders[0]["securityContext"].get("runAsUser") if loaders else None
    return uid


def said(verdict: Verdict) -> list[str]:
    return [str(choice) for choice in verdict.explanations if choice.code in MESH_CHOICES]


ENABLED = "MeshSidecar: a sidecar of Istio revision default, because the namespace's label istio-injection is enabled."
BEHIND = "LoaderBehindSidecar: a native sidecar, which starts before the loader, because "
PAST = (
    "LoaderPastSidecar: the loader runs as user 1337, so that Istio does not redirect its traffic"
    " to a sidecar that starts later: "
)
PAST_DNS = PAST.replace("traffic", "traffic and DNS lookups")
BEFORE = (
    "LoaderBeforeRedirect: the loader downloads before istio-init redirects traffic,"
    " without mTLS, because there is no native sidecar: "
)
AMBIENT = (
    "MeshAmbient: no sidecar, because the namespace is in ambient mode: the node's proxy carries the traffic, "
    "also the loader's."
)

# How the pod gets its proxy · what is set (nativeSidecar, the loader's uid) · why.
TABLE: dict[str, Any] = {
    "not injected": (
        {"namespaces": {"team-a": {}}},
        (None, None),
        ["MeshOutside: no sidecar, because neither the namespace nor the pods request one."],
    ),
    "injection switched off": (
        {"namespaces": {"team-a": {"istio-injection": "disabled"}}},
        (None, None),
        ["MeshOutside: no sidecar, because the namespace's label istio-injection is disabled."],
    ),
    "the label of ambient where that is not installed": (
        {"namespaces": {"team-a": {"istio.io/dataplane-mode": "ambient"}}},
        (None, None),
        ["MeshOutside: no sidecar, because neither the namespace nor the pods request one."],
    ),
    "native, from 1.24 on, with istio-init": (
        {"version": "1.24.0", "kubelets": ["v1.29.0"]},
        ("true", None),
        [
            ENABLED,
            BEHIND + "Istio is 1.24 and the oldest kubelet 1.29.",
        ],
    ),
    "native, with CNI": (
        {"cni": True},
        ("true", None),
        [
            ENABLED,
            BEHIND + "Istio is 1.29 and the oldest kubelet 1.33.",
        ],
    ),
    "native by installation, before the annotation existed": (
        {"version": "1.23.4", "cni": True, "values": {"pilot.env": {"ENABLE_NATIVE_SIDECARS": "true"}}},
        (None, None),
        [
            ENABLED,
            BEHIND + "Istio is installed with native sidecars.",
        ],
    ),
    "the installation says no to native, the pod says yes": (
        {"cni": True, "values": {"pilot.env": {"ENABLE_NATIVE_SIDECARS": "false"}}},
        ("true", None),
        [
            ENABLED,
            BEHIND + "Istio is 1.29 and the oldest kubelet 1.33.",
        ],
    ),
    "istio-init, an old kubelet among new ones": (
        {"kubelets": OLD},
        (None, None),
        [
            ENABLED,
            BEFORE + "a kubelet is 1.28, older than 1.29.",
        ],
    ),
    "istio-init, an old Istio": (
        {"version": "1.23.4"},
        (None, None),
        [
            ENABLED,
            BEFORE + "Istio is 1.23, older than 1.24.",
        ],
    ),
    "CNI, an old Istio": (
        {"version": "1.23.4", "cni": True},
        (None, 1337),
        [
            ENABLED,
            PAST + "Istio is 1.23, older than 1.24.",
        ],
    ),
    "CNI, as Istio's values said it before 1.22": (
        {"version": "1.21.6", "values": {"pilot": {}, "istio_cni": {"enabled": True, "chained": True}}},
        (None, 1337),
        [
            ENABLED,
            PAST + "Istio is 1.21, older than 1.24.",
        ],
    ),
    "CNI, an old kubelet": (
        {"cni": True, "kubelets": OLD},
        (None, 1337),
        [
            ENABLED,
            PAST + "a kubelet is 1.28, older than 1.29.",
        ],
    ),
    "CNI with DNS capture": (
        {
            "cni": True,
            "kubelets": OLD,
            "mesh": {"defaultConfig": {"proxyMetadata": {"ISTIO_META_DNS_CAPTURE": "true"}}},
        },
        (None, 1337),
        [
            ENABLED,
            PAST_DNS + "a kubelet is 1.28, older than 1.29.",
        ],
    ),
    "CNI, kubelets unknown": (
        {"cni": True, "kubelets": []},
        (None, 1337),
        [
            ENABLED,
            PAST + "the versions of the kubelets are unknown.",
        ],
    ),
    "CNI, a version that says nothing": (
        {"cni": True, "version": "latest"},
        (None, 1337),
        [
            ENABLED,
            PAST + "Istio's version is unknown.",
        ],
    ),
    "Istio's configuration cannot be read": (
        {"readable": False},
        (None, 1337),
        [
            ENABLED,
            PAST + "Istio's version is unknown.",
        ],
    ),
    "ambient": (
        {"ambient": True, "namespaces": {"team-a": {"istio.io/dataplane-mode": "ambient"}}},
        (None, None),
        [
            AMBIENT,
        ],
    ),
}


@pytest.mark.parametrize("cell", TABLE)
def test_every_way_to_get_a_proxy_has_its_setting_and_its_reason(cell: str) -> None:
    installed, expected, reasons = TABLE[cell]
    verdict = judged(installation(**{"namespaces": INJECTED, **installed}))
    notes = template(verdict)["metadata"].get("annotations", {})
    assert (notes.get(NATIVE), loader_uid(verdict)) == expected
    assert said(verdict) == reasons


def can_download(case: JsonObject) -> bool:
    """Whether a loader among these init containers reaches its store: the redirect without Envoy is the trap."""
    order = [container["name"] for container in case["initContainers"]]
    loader = order.index(LOADER_CONTAINER)
    redirected = case["cni"] or "istio-init" in order[:loader]
    envoy = any(
        c["name"] == "istio-proxy" and c.get("restartPolicy") == "Always" for c in case["initContainers"][:loader]
    )
    as_proxy = case["initContainers"][loader].get("runAsUser") == 1337
    return not redirected or envoy or as_proxy


def test_the_trap_is_among_the_real_cases() -> None:
    assert [can_download(case) for case in CASES].count(False) == 2


@pytest.mark.parametrize("cni", [False, True], ids=["istio-init", "CNI"])
@pytest.mark.parametrize(
    ("native", "kubelets"),
    [(None, ["v1.33.2"]), (None, ["v1.29.1"]), (None, OLD), (True, ["v1.29.1"]), (False, ["v1.33.2"]), (False, OLD)],
)
def test_what_is_set_ends_in_an_order_in_which_the_loader_can_download(
    cni: bool, native: bool | None, kubelets: list[str]
) -> None:
    """The containers' order is what the real injector made of each setting; ``native`` is the user's own wish."""
    notes = {} if native is None else {NATIVE: str(native).lower()}
    context = installation(cni=cni, kubelets=kubelets, namespaces=INJECTED)
    verdict = judged(context, deployment(notes=notes))
    word = template(verdict)["metadata"].get("annotations", {}).get(NATIVE)
    setting = (cni, {"true": True, "false": False, None: None}[word], loader_uid(verdict))
    found = [c for c in CASES if (c["cni"], c["nativeSidecarAnnotation"], c["loaderRunAsUser"]) == setting]
    assert len(found) == 1
    assert can_download(found[0])
    if word == "true":
        assert setting[2] is None, "behind a native sidecar the loader stays in the mesh"


def test_only_the_loader_runs_as_the_proxy() -> None:
    made = template(judged(installation(cni=True, kubelets=OLD, namespaces=INJECTED)))["spec"]
    assert "securityContext" not in made
    assert "runAsUser" not in made["containers"][0].get("securityContext", {})
    loader = made["initContainers"][0]["securityContext"]
    assert (loader["runAsUser"], loader["runAsNonRoot"]) == (1337, True)


def test_without_istio_nothing_is_set_and_nothing_said() -> None:
    verdict = judged(None)
    assert said(verdict) == []
    assert template(verdict)["metadata"] == {"labels": {"app": "iris", "kubectl-serve.dev/deployment": "iris"}}


def test_all_revisions_of_a_model_are_one_in_the_metrics() -> None:
    made = template(judged(installation(namespaces=INJECTED)))
    assert made["metadata"]["labels"]["service.istio.io/canonical-name"] == "iris"


def test_a_mounted_model_needs_nothing_for_its_loader() -> None:
    verdict = judged(installation(cni=True, kubelets=OLD, namespaces=INJECTED), deployment("pvc://models/iris"))
    assert said(verdict) == [ENABLED]


def test_openshift_has_no_user_1337() -> None:
    openshift = {"global.platform": "openshift"}
    for values in (openshift, {"platform": "openshift"}):
        blocked = judged(installation(cni=True, kubelets=OLD, namespaces=INJECTED, values=values))
        assert [problem.code for problem in blocked.problems] == ["LoaderBlocked"]
    native = judged(installation(cni=True, namespaces=INJECTED, values=openshift))
    assert template(native)["metadata"]["annotations"] == {NATIVE: "true"}
    multus = {"pilot.cni.enabled": True, "pilot.cni.provider": "multus"}
    blocked = judged(installation(cni=True, kubelets=OLD, namespaces=INJECTED, values=multus))
    assert [problem.code for problem in blocked.problems] == ["LoaderBlocked"]
    before_1_22 = {"pilot": {}, "istio_cni": {"enabled": True, "chained": False}}
    blocked = judged(installation(version="1.21.6", namespaces=INJECTED, values=before_1_22))
    assert [problem.code for problem in blocked.problems] == ["LoaderBlocked"]


@pytest.mark.parametrize(
    ("of_namespace", "of_pod", "revision"),
    [
        ({"istio-injection": "enabled"}, {}, "default"),
        ({"istio-injection": "enabled", "istio.io/rev": "canary"}, {}, "default"),
        ({"istio-injection": "disabled", "istio.io/rev": "canary"}, {}, None),
        ({"istio-injection": "disabled"}, {"sidecar.istio.io/inject": "true"}, None),
        ({"istio-injection": "enabled"}, {"sidecar.istio.io/inject": "false"}, None),
        ({"istio.io/rev": "canary"}, {}, "canary"),
        ({"istio.io/rev": "prod"}, {}, "canary"),
        ({"istio.io/rev": "gone"}, {}, None),
        ({"istio.io/rev": "canary"}, {"istio.io/rev": "default"}, "canary"),
        ({}, {"istio.io/rev": "canary"}, "canary"),
        ({}, {"istio.io/rev": "prod", "sidecar.istio.io/inject": "true"}, "canary"),
        ({}, {"sidecar.istio.io/inject": "true"}, "default"),
        ({}, {}, None),
    ],
)
def test_who_is_injected_by_which_revision(
    of_namespace: dict[str, str], of_pod: dict[str, str], revision: str | None
) -> None:
    planes = control_plane(), control_plane(version="1.30.0", revision="canary", tags=("prod",))
    context = installation(*planes, namespaces={"team-a": of_namespace})
    verdict = judged(context, deployment(labels=of_pod))
    sidecar = [str(choice) for choice in verdict.explanations if choice.code == "MeshSidecar"]
    assert [line.split("revision ")[1].split(",")[0] for line in sidecar] == ([revision] if revision else [])


def test_the_annotation_never_injects_but_can_prevent_it() -> None:
    context = installation(namespaces={"team-a": {}, "team-b": {"istio-injection": "enabled"}})
    asking = judged(context, deployment(notes={"sidecar.istio.io/inject": "true"}))
    refusing = judged(context, deployment(notes={"sidecar.istio.io/inject": "false"}, namespace="team-b"))
    assert [line.split(":")[0] for line in said(asking) + said(refusing)] == ["MeshOutside", "MeshOutside"]


@pytest.mark.parametrize(
    ("said", "inside"),
    [
        ("", True),
        ("true", True),
        ("On", True),
        ("Yes", True),
        ("y", True),
        ("False", False),
        ("off", False),
        ("x", False),
    ],
)
def test_a_pod_says_no_by_whatever_is_no_yes(said: str, inside: bool) -> None:
    context = installation(namespaces=INJECTED)
    wish = {"sidecar.istio.io/inject": said}
    for document in (deployment(labels=wish), deployment(notes=wish)):
        verdict = judged(context, document)
        assert any(choice.code == "MeshSidecar" for choice in verdict.explanations) is inside


def test_a_pod_on_the_nodes_network_gets_no_sidecar() -> None:
    verdict = judged(installation(namespaces=INJECTED), deployment(pod={"hostNetwork": True}))
    assert said(verdict) == ["MeshOutside: no sidecar, because the pods use the node's network."]


def test_mesh_istio_asks_for_the_sidecar_where_the_namespace_does_not() -> None:
    made = template(judged(installation(namespaces={"team-a": {}}), deployment(mesh="istio")))
    assert made["metadata"]["labels"]["sidecar.istio.io/inject"] == "true"
    only_canary = installation(control_plane(revision="canary"), namespaces={"team-a": {}})
    made = template(judged(only_canary, deployment(mesh="istio")))
    assert made["metadata"]["labels"]["istio.io/rev"] == "canary"
    assert "sidecar.istio.io/inject" not in made["metadata"]["labels"]


@pytest.mark.parametrize(
    ("context", "document", "code"),
    [
        (None, deployment(mesh="istio"), "MeshMissing"),
        (
            installation(namespaces={"team-a": {"istio-injection": "disabled"}}),
            deployment(mesh="istio"),
            "MeshForbidden",
        ),
        (installation(namespaces={"team-a": {"istio.io/rev": "gone"}}), deployment(mesh="istio"), "MeshForbidden"),
        (
            installation(control_plane(revision="a"), control_plane(revision="b")),
            deployment(mesh="istio"),
            "MeshRevisionAmbiguous",
        ),
        (
            installation(),
            deployment(mesh="istio", labels={"sidecar.istio.io/inject": "false"}),
            "ConflictingAnnotations",
        ),
        (
            installation(),
            deployment(mesh="istio", labels={"sidecar.istio.io/inject": "True"}),
            "ConflictingAnnotations",
        ),
        (installation(), deployment(mesh="none", labels={"sidecar.istio.io/inject": "true"}), "ConflictingAnnotations"),
        (
            installation(namespaces=INJECTED),
            deployment(notes={"sidecar.istio.io/rewriteAppHTTPProbers": "false"}),
            "ProbesBlocked",
        ),
        (installation(namespaces=INJECTED), deployment(notes={NATIVE: "yes"}), "InvalidAnnotation"),
        (
            installation(namespaces=INJECTED),
            deployment(notes={"sidecar.istio.io/proxyMemory": "plenty"}),
            "InvalidAnnotation",
        ),
    ],
)
def test_what_cannot_be_is_refused(context: IstioInstallation | None, document: JsonObject, code: str) -> None:
    assert [problem.code for problem in judged(context, document).problems] == [code]


def test_mesh_istio_asks_where_istio_injects_only_who_asks() -> None:
    reluctant = installation(namespaces=INJECTED, values={"global.proxy.autoInject": "disabled"})
    assert "sidecar.istio.io/inject" not in template(judged(reluctant))["metadata"]["labels"]
    made = template(judged(reluctant, deployment(mesh="istio")))
    assert made["metadata"]["labels"]["sidecar.istio.io/inject"] == "true"


def test_mesh_istio_asks_the_only_revision_in_full_if_istio_injects_only_pods_that_ask() -> None:
    reluctant = installation(revision="canary", values={"global.proxy.autoInject": "disabled"})
    labels = template(judged(reluctant, deployment(mesh="istio")))["metadata"]["labels"]
    assert (labels["istio.io/rev"], labels["sidecar.istio.io/inject"]) == ("canary", "true")


OWN_LABEL = {"matchExpressions": [{"key": "kubectl-serve.dev/deployment", "operator": "Exists"}]}
NEVER = {"sidecarInjectorWebhook.neverInjectSelector": [OWN_LABEL]}


def test_a_label_that_completion_sets_decides_about_the_sidecar_before_it_is_set() -> None:
    verdict = judged(installation(namespaces=INJECTED, values=NEVER))
    assert said(verdict) == ["MeshOutside: no sidecar, because Istio's neverInjectSelector matches the pods."]
    assert loader_uid(verdict) is None


def test_a_pod_that_asks_for_a_revision_and_still_gets_no_sidecar_is_refused() -> None:
    never = installation(revision="canary", values=NEVER)
    assert [problem.code for problem in judged(never, deployment(mesh="istio")).problems] == ["MeshForbidden"]


@pytest.mark.parametrize("auth", ["none", "mtls"])
def test_the_mesh_is_decided_once(auth: str, monkeypatch: pytest.MonkeyPatch) -> None:
    decide = Mock(side_effect=injection.decide)
    monkeypatch.setattr(injection, "decide", decide)
    namespaces = INJECTED | {"knative-serving": {"istio-injection": "enabled"}}
    verdict = judged(installation(namespaces=namespaces), deployment(auth=auth, telemetry="access-log"))
    assert (verdict.problems, decide.call_count) == ((), 1)


def test_mesh_none_keeps_the_pods_out() -> None:
    made = template(judged(installation(namespaces=INJECTED), deployment(mesh="none")))
    assert made["metadata"]["labels"]["sidecar.istio.io/inject"] == "false"
    ambient = installation(ambient=True, namespaces={"team-a": {"istio.io/dataplane-mode": "ambient"}})
    made = template(judged(ambient, deployment(mesh="none")))
    assert made["metadata"]["labels"]["istio.io/dataplane-mode"] == "none"


PROXY = {"proxyCPU": "100m", "proxyCPULimit": "2000m", "proxyMemory": "128Mi", "proxyMemoryLimit": "1024Mi"}


@pytest.mark.parametrize("one", PROXY)
def test_one_of_the_proxys_resources_brings_the_other_three(one: str) -> None:
    verdict = judged(installation(namespaces=INJECTED), deployment(notes={f"sidecar.istio.io/{one}": "50m"}))
    notes = template(verdict)["metadata"]["annotations"]
    assert {key.rpartition("/")[2]: value for key, value in notes.items() if "proxy" in key} == PROXY | {one: "50m"}


def test_what_is_missing_of_an_installation_is_not_known() -> None:
    """The injector's values without the mesh's configuration, and a revision of which there is only a webhook."""
    plane = control_plane(cni=True)
    found = detect(injectors=plane["injectors"], config_maps=plane["config_maps"][:1])
    assert found is not None
    (revision,) = found.revisions
    assert (revision.cni, revision.registry_only, revision.trust_domain) == (True, False, "cluster.local")
    found = detect(injectors=plane["injectors"])
    assert found is not None
    assert found.revisions == (Revision("default"),)
    assert found.kubelet is None


def test_probes_are_rewritten_although_the_installation_does_not() -> None:
    context = installation(namespaces=INJECTED, values={"sidecarInjectorWebhook.rewriteAppHTTPProbe": False})
    notes = template(judged(context))["metadata"]["annotations"]
    assert notes["sidecar.istio.io/rewriteAppHTTPProbers"] == "true"


REGISTRY_ONLY = {"outboundTrafficPolicy": {"mode": "REGISTRY_ONLY"}}


def entry(host: str, namespace: str = "mesh", export_to: list[str] | None = None) -> JsonObject:
    spec: JsonObject = {"hosts": [host], **({"exportTo": export_to} if export_to else {})}
    return {"metadata": {"name": "store", "namespace": namespace}, "spec": spec}


@pytest.mark.parametrize(
    ("model", "entries", "codes"),
    [
        ("https://models.example.com/iris.joblib", [], ["StoreNotRegistered"]),
        ("https://models.example.com/iris.joblib", [entry("models.example.com")], []),
        ("https://models.example.com/iris.joblib", [entry("*.example.com")], []),
        ("https://models.example.com/iris.joblib", [entry("example.com")], ["StoreNotRegistered"]),
        ("https://models.example.com/iris.joblib", [entry("*.example.com", export_to=["."])], ["StoreNotRegistered"]),
        ("https://models.example.com/iris.joblib", [entry("*.example.com", "team-a", ["."])], []),
        ("https://models.example.com/iris.joblib", [entry("*.example.com", export_to=["team-a"])], []),
        ("http://store.mesh.svc.cluster.local/iris.joblib", [], []),
        ("http://store.team-a/iris.joblib", [], []),
        ("http://store/iris.joblib", [], []),
        ("http://198.51.100.7/iris.joblib", [], ["StoreNotRegistered"]),
        ("s3://models/iris.joblib", [], ["StoreMayBeUnregistered"]),
        ("pvc://models/iris.joblib", [], []),
    ],
)
def test_a_mesh_of_registered_hosts_has_to_know_the_store(
    model: str, entries: list[JsonObject], codes: list[str]
) -> None:
    verdict = judged(installation(namespaces=INJECTED, mesh=REGISTRY_ONLY, service_entries=entries), deployment(model))
    assert [found.code for found in (*verdict.problems, *verdict.warnings)] == codes


def test_a_loader_that_goes_past_the_sidecar_needs_no_registry() -> None:
    assert judged(installation(namespaces=INJECTED, mesh=REGISTRY_ONLY, kubelets=OLD, cni=True)).problems == ()


def test_no_trace_of_istio_is_no_istio() -> None:
    assert detect(namespaces=[named("team-a", {"istio-injection": "enabled"})]) is None


def test_what_cannot_be_read_is_not_known() -> None:
    broken = named("istio-sidecar-injector", data={"values": "{", "config": ""})
    context = detect(config_maps=[broken], nodes=[named("a", status={"nodeInfo": {"kubeletVersion": "unknown"}})])
    assert context is not None
    assert context.revisions == (Revision("default"),)
    assert context.kubelet is None


def test_a_native_sidecar_of_the_users_own_stays_one() -> None:
    """A typed copy of the pod that does not know ``restartPolicy`` would make it a container to wait for."""
    own = {"name": "tunnel", "image": "example.com/tunnel:1", "restartPolicy": "Always", "aFieldToCome": {"a": 1}}
    document = deployment(mode="deployment", pod={"initContainers": [own]})
    verdict = judged(installation(namespaces=INJECTED), document)
    assert verdict.problems == ()
    assert verdict.deployment is not None
    found = verdict.deployment["spec"]["template"]["spec"]["initContainers"]
    assert [container["name"] for container in found] == [LOADER_CONTAINER, "tunnel"]
    assert found[1] == own
    at = "/spec/template/spec/initContainers/"
    touched = [each for each in json_patch(document, verdict.deployment) if each["path"].startswith(at)]
    assert [(each["op"], each["path"]) for each in touched] == [("add", at + "0")], "the loader is put before it"


def test_giving_the_deployment_back_takes_the_mesh_settings_with_it() -> None:
    document = deployment(mesh="none")
    parked = judged(installation(namespaces=INJECTED), document).deployment
    assert parked is not None
    for key in (MODEL, MESH):
        del parked["metadata"]["annotations"][key]
    given_back = judged(installation(namespaces=INJECTED), parked).deployment
    assert given_back is not None
    assert given_back["spec"]["template"]["metadata"]["labels"] == {"app": "iris"}
