"""Istio on a real cluster: its API accepts our objects, and a captured pod still gets its model.

There is no istiod: the resources come from the Go module of its API, its configuration from a real installation, and
the capture of traffic from a CNI plugin that writes Istio's rules.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path

import pytest

from cluster.support import (
    LOADED,
    PREFIX,
    PYTHON_IMAGE,
    SERVER,
    Ingress,
    Json,
    Namespace,
    Trained,
    condition,
    deployment,
    diagnose,
    eventually,
    obey,
)
from support.istio_installation import control_plane
from support.paths import ROOT

ISTIO = Namespace("istio-system")
ISTIO_API = "istio.io/api@v1.29.2"
GOLDEN = ROOT / "tests/golden/admission"
GUARDS = ("peerauthentication", "requestauthentication", "authorizationpolicy", "telemetry")
SOON = 15.0
"""Seconds within which a cause has to be on the Deployment."""


def _go() -> str:
    cache = Path(os.environ.get("XDG_CACHE_HOME", "")) if os.environ.get("XDG_CACHE_HOME") else Path.home() / ".cache"
    found = shutil.which("go") or next(cache.glob("kubectl-serve/go-*/lib/python*/site-packages/go/bin/go"), None)
    assert found, "the local cluster was built by Go, so there should be one"
    return str(found)


@pytest.fixture(scope="module")
def definitions(ingress: Ingress, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Istio's CustomResourceDefinitions."""
    downloaded = subprocess.run(
        [_go(), "mod", "download", "-json", ISTIO_API],
        cwd=tmp_path_factory.mktemp("go"),
        env=os.environ | {"GOFLAGS": "-mod=mod"},
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    file = Path(json.loads(downloaded.stdout)["Dir"]) / "kubernetes/customresourcedefinitions.gen.yaml"
    everywhere = Namespace("default")
    everywhere.kubectl("apply", "--server-side", "-f", str(file))
    everywhere.kubectl("wait", "--for=condition=Established", "crd/authorizationpolicies.security.istio.io")
    yield
    everywhere.kubectl("delete", "--wait=false", "-f", str(file))


def install(*, version: str, cni: bool) -> None:
    """What an installation of Istio leaves in the cluster, as far as it is read."""
    objects: list[Json] = []
    plane = control_plane(version=version, cni=cni)
    for injector in plane["injectors"]:
        head = {"apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration"}
        objects.append(head | injector | {"webhooks": []})
    for each in plane["config_maps"]:
        metadata = each["metadata"] | {"namespace": ISTIO.name}
        objects.append({"apiVersion": "v1", "kind": "ConfigMap"} | each | {"metadata": metadata})
    ISTIO.apply(*objects)


@contextmanager
def istio(version: str = "1.29.2", *, cni: bool = False) -> Iterator[None]:
    """An installation of Istio, with Knative in its mesh, that the server has seen."""
    ISTIO.kubectl("create", "namespace", ISTIO.name)
    ISTIO.kubectl("apply", "-k", str(ROOT / "manifests/istio"))
    install(version=version, cni=cni)
    ISTIO.kubectl("label", "namespace", "knative-serving", "istio-injection=enabled", "--overwrite")
    try:
        yield
    finally:
        ISTIO.kubectl("label", "namespace", "knative-serving", "istio-injection-")
        ISTIO.kubectl("delete", "mutatingwebhookconfiguration", "istio-sidecar-injector")
        ISTIO.kubectl("delete", "namespace", ISTIO.name)


@pytest.fixture(scope="module")
def mesh(definitions: None) -> Iterator[None]:
    with istio():
        yield


@pytest.fixture
def team(empty: Namespace, mesh: None) -> Namespace:
    """A namespace of the mesh."""
    empty.kubectl("label", "namespace", empty.name, "istio-injection=enabled")
    eventually(lambda: sees_the_mesh(empty), 60, "the server sees Istio")
    return empty


def sees_the_mesh(namespace: Namespace, key: str = "sidecar.istio.io/nativeSidecar") -> bool:
    """Whether the server completes a Deployment for the mesh, asked by a dry run."""
    model = deployment("probe", "https://example.com/iris.joblib")
    made = json.loads(namespace.apply(model, flags=("--dry-run=server", "-o", "json")))
    return key in json.dumps(made["spec"]["template"])


def guards(namespace: Namespace) -> dict[str, Json]:
    return {kind: found[0] for kind in GUARDS if (found := namespace.list(kind, f"{PREFIX}deployment=iris"))}


def written(case: str) -> Json:
    """The Deployment of a golden case."""
    import yaml

    found: Json = yaml.safe_load((GOLDEN / case / "input.yaml").read_text())
    return found


def annotations(case: str) -> dict[str, str]:
    """What a golden case asks for."""
    notes = written(case)["metadata"]["annotations"]
    return {key.removeprefix(PREFIX): value for key, value in notes.items() if key != f"{PREFIX}model"}


def reviewed(case: str) -> dict[str, Json]:
    """The specs that were reviewed, by kind."""
    import yaml

    documents = yaml.safe_load_all((GOLDEN / case / "extras.yaml").read_text())
    return {each["kind"].lower(): each["spec"] for each in documents if "istio" in each["apiVersion"]}


# --- The capture of a pod's traffic


@pytest.fixture
def captured(empty: Namespace) -> Iterator[None]:
    """The node's network captures the pods of the test's namespace, as Istio's does."""
    state = Path(os.environ["KUBECONFIG"]).parent
    plugin, chain = state / "cni-plugins/capture", state / "config/cni/10-ptp.conflist"
    before = chain.read_text()
    document = json.loads(before)
    document["plugins"].append({"type": "capture", "namespace": empty.name})
    with ExitStack() as undo:
        shutil.copy2(Path(__file__).parent / "capture.py", plugin)
        undo.callback(plugin.unlink)
        plugin.chmod(0o755)
        undo.callback(chain.write_text, before)
        chain.write_text(json.dumps(document))
        eventually(lambda: is_captured(empty), 60, "the node has read its network's configuration again")
        yield


def is_captured(namespace: Namespace) -> bool:
    """Whether a new pod cannot reach anything by TCP."""
    probe = "import socket; socket.create_connection(('kubernetes.default.svc', 443), 5)"
    security = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "runAsNonRoot": True}
    pod = {
        "restartPolicy": "Never",
        "containers": [
            {
                "name": "probe",
                "image": PYTHON_IMAGE,
                "command": ["/opt/mlserver/bin/python", "-c", probe],
                "securityContext": security | {"seccompProfile": {"type": "RuntimeDefault"}},
            }
        ],
    }
    namespace.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "probe"}, "spec": pod})
    ended = namespace.watch("pod", "probe", lambda found: found["status"]["phase"] in ("Succeeded", "Failed"))
    namespace.kubectl("delete", "pod", "probe", "--now")
    return bool(ended["status"]["phase"] == "Failed")


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


def loader_started(namespace: Namespace) -> datetime:
    """When the loader of the first pod began."""
    pods = namespace.list("pod", "serving.knative.dev/revision=iris-00001")
    status = pods[0]["status"]["initContainerStatuses"][0]
    runs = [status["state"].get("running"), status["state"].get("terminated"), status["lastState"].get("terminated")]
    return min(moment(run["startedAt"]) for run in runs if run)


def test_a_captured_loader_fails_with_its_cause_and_succeeds_once_completed_for_the_mesh(
    empty: Namespace, web: str, captured: None, ingress: Ingress, iris: Trained
) -> None:
    # The web server's own pod is there before the capture. Istio comes when the model is served already. This is the
    # annotation by which a pod says that it was injected.
    labels = {"app": "iris"}
    pod = {"metadata": {"labels": labels, "annotations": {"sidecar.istio.io/status": "{}"}}}
    model = deployment("iris", f"{web}/model.joblib", {"selector": {"matchLabels": labels}, "template": pod})
    empty.apply(model)
    failed = empty.watch(
        "deployment", "iris", lambda found: condition(found, LOADED).get("reason") not in {None, "Loading"}
    )
    cause = condition(failed, LOADED)
    seconds = (moment(cause["lastUpdateTime"]) - loader_started(empty)).total_seconds()
    print(f"{cause} after {seconds:.1f} s")
    assert cause["reason"] == "SidecarStartsLater"
    assert "set kubectl-serve.dev/mesh to none" in cause["message"]
    assert seconds < SOON

    empty.kubectl("label", "namespace", empty.name, "istio-injection=enabled")
    with istio("1.23.4", cni=True):
        eventually(lambda: sees_the_mesh(empty, '"runAsUser": 1337'), 60, "the server sees Istio")
        empty.kubectl("annotate", "deployment", "iris", "team=a")
        found = empty.wait_ready("iris", 240)
        loader = found["spec"]["template"]["spec"]["initContainers"][0]
        assert loader["securityContext"]["runAsUser"] == 1337
        pods = empty.list("pod", "serving.knative.dev/service=iris")
        users = [c.get("securityContext", {}).get("runAsUser") for pod in pods for c in pod["spec"]["containers"]]
        assert 1337 not in users, "the server stays in the mesh, and reads what the loader's user wrote"
        assert ingress.predict(found, iris.rows).predicted == iris.answers


# --- Who may call

MODEL = "https://models.example.com/iris.joblib"
CASES = sorted(path.parent.name for case in ("auth-*", "mesh-*") for path in GOLDEN.glob(f"{case}/extras.yaml"))


@pytest.mark.parametrize("case", CASES)
def test_the_api_server_takes_every_guard_as_it_was_reviewed(team: Namespace, case: str) -> None:
    wanted = reviewed(case)
    if case == "auth-mtls-callers":  # whose mesh has another trust domain
        wanted = json.loads(json.dumps(wanted).replace("example.org", "cluster.local"))
    spec = {"spec": written(case)["spec"]} if "spec" in written(case) else {}
    team.apply(deployment("iris", MODEL, **annotations(case)) | spec)
    eventually(lambda: guards(team).keys() == wanted.keys(), 30, "every guard is there")
    found = guards(team)
    assert {kind: each["spec"] for kind, each in found.items()} == wanted
    uid = team.get("deployment", "iris")["metadata"]["uid"]
    for each in found.values():
        owner = each["metadata"]["ownerReferences"][0]
        assert (owner["uid"], owner["controller"]) == (uid, True)


def test_guards_follow_what_is_asked_and_go_with_it(team: Namespace) -> None:
    team.apply(deployment("iris", MODEL, **annotations("auth-jwt")))
    eventually(lambda: guards(team).keys() == set(GUARDS[1:3]), 30, "a token is asked for")
    team.apply(deployment("iris", MODEL, **annotations("auth-mtls")))
    eventually(lambda: guards(team).keys() == {GUARDS[0], GUARDS[2]}, 30, "mTLS is asked for")
    team.apply(deployment("iris", MODEL))
    eventually(lambda: not guards(team), 30, "nothing is asked for any more")
    team.apply(deployment("iris", MODEL, **annotations("auth-mtls")))
    eventually(lambda: len(guards(team)) == 2, 30, "the guards are back")
    team.kubectl("delete", "deployment", "iris")
    eventually(lambda: not guards(team), 30, "the garbage collector has been there")


def test_a_weakened_access_policy_is_restored(team: Namespace) -> None:
    team.apply(deployment("iris", MODEL, **annotations("auth-jwt")))
    eventually(lambda: len(guards(team)) == 2, 30, "the guards are there")
    everyone = json.dumps({"spec": {"rules": [{}]}})
    team.kubectl("patch", "authorizationpolicy", "iris", "--type=merge", "-p", everyone)
    wanted = reviewed("auth-jwt")["authorizationpolicy"]
    eventually(lambda: guards(team)["authorizationpolicy"]["spec"] == wanted, 30, "the policy is as it was")


def test_no_model_is_there_before_its_guards(team: Namespace) -> None:
    stranger = {
        "apiVersion": "security.istio.io/v1",
        "kind": "AuthorizationPolicy",
        "metadata": {"name": "iris"},
        "spec": {"action": "DENY"},
    }
    team.apply(stranger)
    team.apply(deployment("iris", MODEL, **annotations("auth-jwt")))
    team.watch("deployment", "iris", lambda found: condition(found, f"{PREFIX}Ready").get("reason") == "NameTaken", 30)
    assert team.list("ksvc") == []
    team.kubectl("delete", "authorizationpolicy", "iris")
    eventually(lambda: team.list("ksvc"), 60, "the model is there, guarded")
    assert len(guards(team)) == 2


def test_the_server_logs_istios_installation(team: Namespace) -> None:
    log = SERVER.kubectl("logs", "-l", "app.kubernetes.io/name=kubectl-serve", "--tail=200")
    assert "Istio: revisions default" in log


def test_the_doctor_finds_the_traps_of_a_strict_mesh_and_its_fixes_are_taken(team: Namespace) -> None:
    token = annotations("auth-jwt")
    team.apply(deployment("iris", MODEL, **token))
    everywhere = {"metadata": {"name": "strict", "namespace": ISTIO.name}}
    rules = {"jwtRules": [{"issuer": token["auth-issuer"]}]}
    ISTIO.apply(
        {"apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication", **everywhere}
        | {"spec": {"mtls": {"mode": "STRICT"}}},
        {"apiVersion": "security.istio.io/v1", "kind": "RequestAuthentication", **everywhere, "spec": rules},
    )
    knative = Namespace("knative-serving")
    traps = ("istio-knative-webhook", "istio-ingress", "istio-mesh-compatibility", "istio-tokens")
    try:
        code, found = diagnose()
        assert (code, {found[check]["verdict"] for check in traps}) == (1, {"failed"})
        for check in traps:
            obey(found[check]["fix"])
        _, found = diagnose()
        assert {found[check]["verdict"] for check in traps} == {"ok"}
    finally:
        ISTIO.kubectl("delete", "peerauthentication,requestauthentication", "strict")
        knative.kubectl("delete", "peerauthentication", "--all")
        for name, key in {
            "config-network": "mesh-compatibility-mode",
            "config-autoscaler": "target-burst-capacity",
        }.items():
            knative.kubectl("patch", "configmap", name, "--type=merge", "-p", json.dumps({"data": {key: None}}))
        readers = ("deployment/activator", "deployment/autoscaler")  # they read config-network when they start
        knative.kubectl("rollout", "restart", *readers)
        for reader in readers:
            knative.kubectl("rollout", "status", reader, "--timeout=2m")
