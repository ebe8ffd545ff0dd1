"""Findings from a pod's status, as the kubelet writes it, and its loader's last output."""

import copy
import json
from datetime import UTC, datetime
from typing import Any

import pytest

from serve_core.api import loader_protocol
from serve_core.api.loader_protocol import NOTHING, LoaderOutput
from serve_webhook.cache import trimming
from serve_webhook.reconcile import pods
from support.replica_sets import of_revision, of_template

WAITING = {"waiting": {"reason": "PodInitializing"}}


def pod(
    *,
    state: dict[str, Any] | None = None,
    last: dict[str, Any] | None = None,
    server: dict[str, Any] | None = None,
    conditions: tuple[dict[str, Any], ...] = (),
    name: str = "iris-00001-x",
    **metadata: Any,
) -> dict[str, Any]:
    status = {"name": "model-loader", "state": state or {}, "lastState": last or {}}
    return {
        "metadata": {
            "name": name,
            "namespace": "models",
            **of_revision("iris-00001"),
            **metadata,
        },
        "status": {
            "conditions": list(conditions),
            "initContainerStatuses": [status] if state else [],
            "containerStatuses": [
                {"name": "queue-proxy", "state": {"running": {}} if server else WAITING},
                {"name": "model-server", "state": WAITING, **(server or {})},
            ],
        },
    }


def ended(exit_code: int, message: str = "", reason: str = "Error") -> dict[str, Any]:
    return {"terminated": {"exitCode": exit_code, "reason": reason, "message": message}}


def words(code: str, message: str = "what happened", hint: str = "what to do") -> str:
    return json.dumps({"code": code, "message": message, "hint": hint, "bytes": 0, "files": 0, "seconds": 1.0})


CRASHED = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}}
RUNNING = {"running": {"startedAt": "2026-01-01T00:00:00Z"}}
UNSCHEDULABLE = {
    "type": "PodScheduled",
    "status": "False",
    "reason": "Unschedulable",
    "message": "0/1 nodes are available: 1 Insufficient nvidia.com/gpu.",
}
RETRY = {"event": "retry", "code": "Unreachable", "message": "no route", "hint": "check", "attempt": 2}


@pytest.mark.parametrize(
    ("found", "line", "expected"),
    [
        pytest.param(pod(), {}, ("Unknown", "Loading", "containers to start"), id="just made"),
        pytest.param(pod(state=WAITING), {}, ("Unknown", "Loading", "containers to start"), id="being created"),
        pytest.param(pod(state=RUNNING), {}, ("Unknown", "Loading", "is downloading"), id="nothing said yet"),
        pytest.param(
            pod(state=RUNNING),
            {"event": "progress", "bytes": 3 << 20, "total": 12 << 20},
            ("Unknown", "Loading", "3.0 MiB of 12.0 MiB (25 %)"),
            id="progress",
        ),
        pytest.param(pod(state=RUNNING), RETRY, ("Unknown", "Unreachable", "No route. check"), id="retrying"),
        pytest.param(
            pod(state=RUNNING),
            RETRY | {"event": "failed"},
            ("False", "Unreachable", "No route. check"),
            id="about to end",
        ),
        pytest.param(
            pod(state=RUNNING, last=ended(11, words("NotFound"))),
            {},
            ("False", "NotFound", "what happened. what to do"),
            id="started again, the last failure is still what is known",
        ),
        pytest.param(
            pod(state=CRASHED, last=ended(10, words("Unauthorized"))),
            {},
            ("False", "Unauthorized", "what happened. what to do"),
            id="failed and waiting for its next turn",
        ),
        pytest.param(
            pod(state=ended(20, words("Interrupted"))), {}, ("Unknown", "Interrupted", "what happened"), id="stopped"
        ),
        pytest.param(
            pod(state=ended(137, reason="OOMKilled")), {}, ("False", "OutOfMemory", "model-loader"), id="out of memory"
        ),
        pytest.param(pod(state=ended(1, "Traceback")), {}, ("False", "LoaderCrashed", "Exit code 1"), id="crashed"),
        pytest.param(
            pod(state=ended(1, words("Internal"))), {}, ("False", "LoaderCrashed", "what happened"), id="a defect"
        ),
        pytest.param(
            pod(state={"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling image"}}),
            {},
            ("False", "ImagePullFailed", "Back-off pulling image"),
            id="no image",
        ),
        pytest.param(
            pod(state={"waiting": {"reason": "CreateContainerConfigError", "message": 'secret "s3" not found'}}),
            {},
            (
                "False",
                "SecretNotFound",
                "Secret s3 does not exist. Create it: `kubectl create secret generic s3 -n models ",
            ),
            id="a variable from a Secret that is not there",
        ),
        pytest.param(
            pod(state={"waiting": {"reason": "CreateContainerConfigError", "message": 'configmap "key" not found'}}),
            {},
            (
                "False",
                "ConfigMapNotFound",
                "ConfigMap key does not exist. Create it: `kubectl create configmap key -n models ",
            ),
            id="a ConfigMap that is not there",
        ),
        pytest.param(
            pod(state={"waiting": {"reason": "CreateContainerError", "message": "no such device"}}),
            {},
            ("Unknown", "NotStarted", "The kubelet keeps retrying. no such device"),
            id="cannot be started",
        ),
        pytest.param(
            pod(conditions=(UNSCHEDULABLE,)),
            {},
            ("False", "Unschedulable", "Insufficient nvidia.com/gpu"),
            id="no node",
        ),
        pytest.param(
            pod(state=ended(0, json.dumps({"code": "Loaded", "bytes": 2048, "files": 2, "seconds": 0.25}))),
            {},
            ("True", "Loaded", "2.0 KiB in 2 files in 0.2 s"),
            id="loaded",
        ),
        pytest.param(
            pod(state=ended(0, json.dumps({"code": "Loaded", "bytes": 8, "files": 2, "seconds": 1, "checked": 2}))),
            {},
            ("True", "Loaded", "in 1.0 s, 2 checked against the store's own checksum."),
            id="loaded and checked",
        ),
        pytest.param(
            pod(state=ended(0, json.dumps({"code": "Loaded", "bytes": 8, "seconds": 1, "signed": True}))),
            {},
            ("True", "Loaded", "in 1.0 s, its signature verified."),
            id="loaded and signed",
        ),
        pytest.param(
            pod(state=ended(0, json.dumps({"code": "Loaded", "runs_code": 2, "runs_code_first": "a\n.pkl"}))),
            {},
            ("True", "Loaded", 'is loaded. 2 files can run code when they are loaded, for example "a\\n.pkl".'),
            id="loaded, with files that run code",
        ),
        pytest.param(
            pod(state=ended(0, json.dumps({"code": "Loaded", "runs_code": "2", "runs_code_first": None}))),
            {},
            ("True", "Loaded", "is loaded."),
            id="loaded, with words that are not the loader's",
        ),
        pytest.param(
            pod(state=ended(0, json.dumps({"code": "Loaded", "skipped": 3, "skipped_bytes": 9, "skipped_first": "a"}))),
            {},
            (
                "True",
                "Loaded",
                'is loaded. 3 files with copies of the weights (9 B) skipped, for example "a": kubectl-',
            ),
            id="loaded, without copies of the weights",
        ),
        pytest.param(pod(state=ended(0)), {}, ("True", "Loaded", "is loaded"), id="loaded, with nothing said"),
    ],
)
def test_how_far_the_loader_is(found: dict[str, Any], line: dict[str, Any], expected: tuple[str, str, str]) -> None:
    finding = pods.loader_finding(found, loader_protocol.from_object(line), "iris")
    assert (finding.status, finding.code) == expected[:2]
    assert expected[2].lower() in finding.message.lower()


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        pytest.param(pod(), None, id="nothing wrong"),
        pytest.param(pod(server={"state": RUNNING, "lastState": ended(1)}), None, id="up again"),
        pytest.param(
            pod(server={"name": "queue-proxy", "state": CRASHED, "lastState": ended(1)}),
            None,
            id="it is not the server",
        ),
        pytest.param(
            pod(server={"state": CRASHED, "lastState": ended(0)}), ("ServerCrashed", "exit code 0"), id="ends"
        ),
        pytest.param(
            pod(server={"state": CRASHED, "lastState": ended(3)}), ("ServerCrashed", "exit code 3"), id="crashes"
        ),
        pytest.param(
            pod(server={"state": CRASHED, "lastState": ended(137, reason="OOMKilled")}),
            ("OutOfMemory", "model-server"),
            id="out of memory",
        ),
        pytest.param(
            pod(server={"state": {"waiting": {"reason": "ErrImagePull", "message": "not found"}}}),
            ("ImagePullFailed", "not found"),
            id="no image",
        ),
        pytest.param(pod(conditions=(UNSCHEDULABLE,)), ("Unschedulable", "nvidia.com/gpu"), id="no node"),
        pytest.param(
            pod(
                server={
                    "state": {"waiting": {"reason": "CreateContainerConfigError", "message": 'secret "db" not found'}}
                }
            ),
            ("SecretNotFound", "kubectl create secret generic db -n models"),
            id="a variable from a Secret that is not there",
        ),
    ],
)
def test_what_keeps_the_server_from_serving(found: dict[str, Any], expected: tuple[str, str] | None) -> None:
    finding = pods.server_finding(found, "iris")
    assert (finding and finding.code) == (expected and expected[0])
    assert finding is None or expected is None or expected[1] in finding.message


IMAGE = "registry.example.com/models/iris:1"


def waiting(reason: str, message: str) -> dict[str, Any]:
    return {"state": {"waiting": {"reason": reason, "message": message}}}


@pytest.mark.parametrize(
    ("found", "warning", "expected"),
    [
        (pod(), "", ("Unknown", "PullingModel", "the node pulls")),
        (pod(server={"state": RUNNING}), "", ("True", "ModelPulled", "")),
        (pod(server={"state": CRASHED, "lastState": ended(3)}), "", ("True", "ModelPulled", "")),
        (
            pod(server=waiting("ErrImagePull", f'failed to pull and unpack image "{IMAGE}": 401 Unauthorized')),
            "",
            ("False", "ModelNotPulled", "401 Unauthorized"),
        ),
        (
            pod(server=waiting("ImagePullBackOff", f'Back-off pulling image "{IMAGE}"')),
            "",
            ("False", "ModelNotPulled", "kubernetes.io/dockerconfigjson"),
        ),
        (
            pod(server=waiting("ErrImagePull", 'failed to pull image "example.com/server:1"')),
            "",
            ("False", "ImagePullFailed", "example.com/server:1"),
        ),
        (
            pod(
                server=waiting(
                    "CreateContainerError", 'ImageVolumeMountFailed: failed to ensure image subpath "models"'
                )
            ),
            "",
            ("False", "ModelNotMounted", "/models"),
        ),
        (
            pod(server=waiting("CreateContainerConfigError", 'secret "db" not found')),
            "",
            ("False", "SecretNotFound", "db"),
        ),
        (pod(), "no space left on device", ("Unknown", "NotStarted", "no space left on device")),
        (pod(conditions=(UNSCHEDULABLE,)), "", ("False", "Unschedulable", "nvidia.com/gpu")),
    ],
)
def test_the_state_of_a_model_that_is_an_image(
    found: dict[str, Any], warning: str, expected: tuple[str, str, str]
) -> None:
    status, code, message = expected
    finding = pods.image_finding(trimming.pod(found), "model-server", IMAGE, warning)
    assert (finding.status, finding.code) == (status, code)
    assert message.lower() in finding.message.lower()


def test_other_init_containers_say_nothing_of_the_model() -> None:
    found = pod(state=RUNNING)
    found["status"]["initContainerStatuses"].insert(0, {"name": "istio-init", "state": ended(0)})
    assert pods.loader_finding(found, NOTHING, "iris").code == "Loading"
    assert pods.loader_is_running(found)


def test_the_last_line_skips_what_is_not_the_loaders() -> None:
    log = '{"event": "plan", "bytes": 1}\n{"event": "retry", "code": "Stalled"}\nTraceback:\n[1]\n{'
    assert pods.last_output(log) == LoaderOutput(event="retry", code="Stalled")
    assert pods.last_output("") == NOTHING


def test_only_pods_that_stay_count_oldest_first() -> None:
    young = pod(name="young", creationTimestamp="2026-01-02T00:00:00Z")
    old = pod(name="old", creationTimestamp="2026-01-01T00:00:00Z")
    going = pod(name="going", deletionTimestamp="2026-01-02T00:00:00Z")
    other = pod(name="other", **of_revision("iris-00002"))
    assert [p["metadata"]["name"] for p in pods.of_revision([young, going, other, old], "iris-00001")] == [
        "old",
        "young",
    ]


OWNER = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "iris-00001-deployment-5d8f", "controller": True}


@pytest.mark.attack(24)
@pytest.mark.parametrize(
    "owners",
    [
        None, [], [{}], [OWNER | {"controller": False}], [OWNER | {"kind": "Job"}],
        [OWNER | {"apiVersion": "batch/v1"}],
        [OWNER | {"name": "iris-00001-deployment-other"}], [OWNER | {"name": "mine-deployment-5d8f"}],
        [OWNER | {"name": "iris-5d8f"}], [OWNER | {"name": 7}], [OWNER | {"name": None}],
    ],
)  # fmt: skip
def test_a_pod_that_no_replica_set_of_the_model_has_made_is_not_believed(owners: Any) -> None:
    liar = pod(state=ended(0, words("Loaded"))) | {}
    liar["metadata"]["ownerReferences"] = owners
    for found in (liar, trimming.pod(liar | {"metadata": {**liar["metadata"], "resourceVersion": "1"}})):
        assert pods.of_revision([found], "iris-00001") == []
        found["metadata"]["labels"] = of_template("5d8f")["labels"]
        assert (owners and owners[0].get("name") == "iris-5d8f") or pods.of_template([found]) == []


@pytest.mark.attack(24)
def test_a_long_name_is_cut_by_knative_and_its_pods_are_known_all_the_same() -> None:
    revision = "a" * 40 + "-00001"
    made = pod(**of_revision(revision))
    made["metadata"]["ownerReferences"][0]["name"] = revision[:20] + "0" * 32 + "-deployment-5d8f"
    assert pods.of_revision([made], revision) == [made]


SHAPES: list[Any] = [None, 7, "x", [], {}, [None, 7, "x", [], {}], {"a": {}}, [{"name": [], "state": 7, "type": {}}]]
PLACES = [
    ("spec",), ("status",), ("spec", "initContainers"), ("status", "conditions"), ("status", "initContainerStatuses"),
    ("status", "containerStatuses"), ("metadata", "labels"), ("metadata", "annotations"),
    ("metadata", "ownerReferences"), ("metadata", "creationTimestamp"), ("status", "initContainerStatuses", 0, "state"),
    ("status", "initContainerStatuses", 0, "state", "terminated"), ("status", "conditions", 0, "lastTransitionTime"),
    ("status", "initContainerStatuses", 0, "state", "terminated", "message"), ("status", "conditions", 0, "message"),
    ("status", "initContainerStatuses", 0, "state", "terminated", "exitCode"),
    ("status", "containerStatuses", 0, "name"),
    ("status", "containerStatuses", 1, "lastState"), ("status", "containerStatuses", 1, "state", "waiting"),
]  # fmt: skip


@pytest.mark.attack(24)
@pytest.mark.parametrize("path", PLACES, ids=lambda path: ".".join(map(str, path)))
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_of_whatever_shape_a_pod_is_what_is_kept_of_it_can_be_read(path: tuple[Any, ...], shape: Any) -> None:
    made = pod(state=ended(11, words("NotFound")), conditions=(SCHEDULED,), server={"state": CRASHED})
    liar = copy.deepcopy(made)
    liar["spec"] = {"initContainers": [{"name": "model-loader"}]}
    node = liar
    for step in path[:-1]:
        node = node[step]
    node[path[-1]] = shape
    kept = trimming.pod(liar)
    for said in (pods.loader_finding(kept, NOTHING, "iris"), pods.server_finding(kept, "iris")):
        assert said is None or len(said.message) < 4 * pods.MAX_DETAIL
    pods.waiting_since(kept), pods.loader_result(kept), pods.model_size(kept, NOTHING), pods.loader_is_running(kept)
    assert len(pods.of_revision([kept], "iris-00001") + pods.of_template([kept])) <= 1
    assert len(json.dumps(kept)) < 5000


@pytest.mark.attack(25)
def test_of_a_huge_pod_little_is_kept() -> None:
    huge = pod(state=ended(1, "x" * 10**6), resourceVersion="1")
    huge["metadata"]["labels"] |= {f"l{n}": "x" * 63 for n in range(5000)}
    huge["status"]["containerStatuses"] *= 5000
    huge["status"]["conditions"] = [{**UNSCHEDULABLE, "message": "x" * 10**6}] * 1000
    huge["spec"] = {"initContainers": [{"name": "x" * 10**5}] * 1000}
    assert len(json.dumps(trimming.pod(huge))) < 10**6


def test_of_a_deployments_own_pods_those_of_the_newest_template_count() -> None:
    def own(name: str, template: str, day: int, **more: Any) -> dict[str, Any]:
        return pod(name=name, **of_template(template), creationTimestamp=f"2026-01-0{day}", **more)

    before, first, second = own("before", "a", 1), own("first", "b", 2), own("second", "b", 3)
    going, knatives = own("going", "c", 4, deletionTimestamp="2026-01-05"), pod(creationTimestamp="2026-01-06")
    assert pods.of_template([second, knatives, going, before, first]) == [first, second]
    assert pods.of_template([knatives]) == []


def test_a_trimmed_pod_gives_the_same_findings() -> None:
    whole = pod(state=ended(11, words("NotFound")), namespace="default", uid="1", resourceVersion="5")
    whole["spec"] = {
        "initContainers": [{"name": "model-loader", "image": "x" * 1000}],
        "containers": [{"name": "y" * 999}],
    }
    trimmed = trimming.pod(whole)
    assert pods.loader_finding(trimmed, NOTHING, "iris") == pods.loader_finding(whole, NOTHING, "iris")
    assert len(json.dumps(trimmed)) < 1000


def test_what_a_loader_says_is_bounded() -> None:
    finding = pods.loader_finding(pod(state=ended(11, words("NotFound", "x" * 10_000))), NOTHING, "iris")
    assert len(finding.message) <= pods.MAX_DETAIL


def injected(*init: str, uid: int | None = None) -> dict[str, Any]:
    """A pod that Istio has seen to, with its loader running among ``init``."""
    found = pod(state=RUNNING, annotations={"sidecar.istio.io/status": "{}"})
    ours = {"name": "model-loader", "securityContext": {"runAsUser": uid}}
    return trimming.pod(
        found | {"spec": {"initContainers": [ours if n == "model-loader" else {"name": n} for n in init]}}
    )


@pytest.mark.parametrize(
    ("found", "code"),
    [
        (injected("istio-validation", "model-loader"), "SidecarStartsLater"),
        (injected("istio-validation", "model-loader", uid=1337), "Unreachable"),
        (injected("istio-validation", "istio-proxy", "model-loader"), "Unreachable"),
        (injected("model-loader", "istio-init"), "Unreachable"),
        (trimming.pod(pod(state=RUNNING)), "Unreachable"),
    ],
    ids=["captured", "as the proxy", "behind a native sidecar", "before the redirect", "no mesh"],
)
def test_a_loader_that_istio_cuts_off_is_reported(found: dict[str, Any], code: str) -> None:
    said = pods.loader_finding(found, loader_protocol.from_object(RETRY), "iris")
    assert (said.status, said.code) == ("Unknown", code)
    assert "no route" in said.message, "the loader's message is included"


@pytest.mark.parametrize(
    ("found", "end"),
    [
        (pod(state=ended(0, words("Loaded"))), ("Loaded", 1.0)),
        (pod(state=ended(11, words("NotFound"))), ("NotFound", 1.0)),
        (pod(state=ended(0, words("Anything"))), None),
        (pod(state=ended(137)), None),
        (pod(state=RUNNING), None),
    ],
)
def test_how_a_loader_ended_and_how_long_it_took(found: dict[str, Any], end: tuple[str, float] | None) -> None:
    assert pods.loader_result(found) == end


SCHEDULED = {"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}
NO_SECRET = 'MountVolume.SetUp failed for volume "credentials" : secret "store" not found'
NO_DEVICE = 'MountVolume.SetUp failed for volume "model" : rpc error: code = Internal'


@pytest.mark.parametrize(
    ("found", "waits"),
    [
        pytest.param(pod(state=WAITING, conditions=(SCHEDULED,)), True, id="on its node, and nothing runs"),
        pytest.param(pod(conditions=(SCHEDULED,)), True, id="the kubelet has not said anything"),
        pytest.param(pod(state=WAITING, conditions=(UNSCHEDULABLE,)), False, id="on no node"),
        pytest.param(pod(state=WAITING), False, id="not scheduled yet"),
        pytest.param(pod(state=RUNNING, conditions=(SCHEDULED,)), False, id="the loader runs"),
        pytest.param(pod(state=CRASHED, last=ended(1), conditions=(SCHEDULED,)), False, id="the loader has run"),
        pytest.param(pod(conditions=(SCHEDULED,), server={"state": RUNNING}), False, id="the server runs"),
        pytest.param(
            pod(state={"waiting": {"reason": "ImagePullBackOff"}}, conditions=(SCHEDULED,)), False, id="it says why"
        ),
    ],
)
def test_a_pod_waits_when_its_node_has_started_nothing_of_it(found: dict[str, Any], waits: bool) -> None:
    since = datetime(2026, 1, 1, tzinfo=UTC) if waits else None
    assert pods.waiting_since(found) == since
    assert pods.waiting_since(trimming.pod(found)) == since


def event(note: str, kind: str = "Warning", second: int = 0) -> dict[str, Any]:
    return {"type": kind, "note": note, "deprecatedLastTimestamp": f"2026-01-01T00:00:{second:02}Z"}


@pytest.mark.parametrize(
    ("events", "note"),
    [
        ([], ""),
        ([event("old", second=1), event("new", second=2), event("older")], "new"),
        ([event("old"), event("Pulling image", "Normal", second=2)], ""),
        ([event("once"), {**event("again"), "series": {"lastObservedTime": "2026-01-01T00:00:09.1Z"}}], "again"),
    ],
)
def test_only_the_newest_event_of_a_pod_counts(events: list[dict[str, Any]], note: str) -> None:
    assert pods.warning(pods.newest_event(events)) == note


@pytest.mark.parametrize(
    ("warning", "expected"),
    [
        (NO_SECRET, ("False", "SecretNotFound", "`kubectl create secret generic store -n models ")),
        (NO_DEVICE, ("Unknown", "NotStarted", NO_DEVICE)),
    ],
)
def test_the_nodes_warning_about_a_pod_is_reported(warning: str, expected: tuple[str, str, str]) -> None:
    waiting = pod(state=WAITING, conditions=(SCHEDULED,))
    for found in (
        pods.loader_finding(waiting, NOTHING, "iris", warning),
        pods.server_finding(waiting, "iris", warning),
    ):
        assert found is not None
        assert (found.status, found.code) == expected[:2]
        assert expected[2] in found.message
