"""On two nodes: replicas are spread, move when a node is drained, and are missed only until Kubernetes notices when a
node dies. `scripts/test nodes` runs these tests on a cluster of their own."""

import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.client import HTTPException

import pytest

from cluster.api_server import ApiServer
from cluster.support import (
    PREFIX,
    SERVER,
    Answer,
    Ingress,
    Json,
    Namespace,
    Store,
    Trained,
    constant_requests,
    deployment,
    eventually,
    label_of_service,
)
from cluster.test_under_load import COMPLETED, judged, load  # noqa: F401 - a fixture
from support.paths import ROOT

pytestmark = pytest.mark.nodes

IRIS = "s3://models/iris/model.joblib"
CLUSTER = Namespace("default")
UNNOTICED = 75
"""Seconds until Kubernetes notices a dead node: the controller manager's --node-monitor-grace-period (50 s), some for
the next check, and for endpoints and rules to follow."""
LEASE = "kubectl-serve"
EXPIRY = 25
"""Seconds until the lease of a dead leader (15 s) is expired and another replica has it, on a busy machine."""
LIMIT = 5
"""Seconds that the API server waits for a webhook."""
RULES = 3
"""Seconds until the endpoints are in every node's rules, and in the activator."""


@dataclass(frozen=True)
class Nodes:
    """The first has the control plane, the ingress and Knative; the second can be drained and stopped."""

    first: str
    second: str

    def cluster(self, verb: str) -> None:
        command = [str(ROOT / "scripts/cluster"), verb, "--name", self.first, self.second]
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="session")
def nodes() -> Nodes:
    found = {node["metadata"]["name"]: node["metadata"]["labels"] for node in CLUSTER.list("nodes")}
    first, second = sorted(found, key=lambda name: "localcluster/control-plane" not in found[name])
    return Nodes(first, second)


@contextmanager
def cordoned(node: str) -> Iterator[None]:
    CLUSTER.kubectl("cordon", node)
    try:
        yield
    finally:
        CLUSTER.kubectl("uncordon", node)


@contextmanager
def drained(node: str) -> Iterator[None]:
    # Knative's activator connects through a Service while its probes of pods are slow. Then these connections last, and
    # a pod that gets requests on them ends only after its grace period of 300 s.
    patience = ("--skip-wait-for-delete-timeout=60", "--timeout=4m")
    try:
        CLUSTER.kubectl("drain", node, "--ignore-daemonsets", "--delete-emptydir-data", *patience)
        yield
    finally:
        CLUSTER.kubectl("uncordon", node)


@pytest.fixture(scope="session")
def steady_store(nodes: Nodes, request: pytest.FixtureRequest) -> Store:
    """The store on the first node: it keeps its files in its pod."""
    with cordoned(nodes.second):
        store: Store = request.getfixturevalue("store")
    return store


def nodes_of(namespace: Namespace, selector: str = "") -> list[str]:
    """The nodes of the ready pods."""
    return [pod["spec"]["nodeName"] for pod in namespace.list("pods", selector) if is_ready_pod(pod)]


def is_ready_pod(pod: Json) -> bool:
    conditions = {each["type"]: each["status"] for each in pod["status"].get("conditions", [])}
    return "deletionTimestamp" not in pod["metadata"] and conditions.get("Ready") == "True"


def roll_out() -> None:
    SERVER.kubectl("rollout", "restart", "deployment/kubectl-serve")
    SERVER.kubectl("rollout", "status", "deployment/kubectl-serve", "--timeout=2m")
    eventually(lambda: len(SERVER.list("pods")) == 2, 60, "the earlier replicas are gone")


def test_the_servers_replicas_are_on_different_nodes_after_each_rollout(nodes: Nodes) -> None:
    for _ in range(3):
        roll_out()
        assert sorted(nodes_of(SERVER)) == [nodes.first, nodes.second]


def test_a_drain_moves_the_server_without_a_lost_review(nodes: Nodes, judged: Namespace) -> None:  # noqa: F811
    """Both replicas are on the node. The disruption budget lets one go at a time."""
    with cordoned(nodes.first):
        roll_out()
    assert nodes_of(SERVER) == [nodes.second] * 2
    with load(judged) as reviews, drained(nodes.second):
        eventually(lambda: nodes_of(SERVER) == [nodes.first] * 2, 60, "the replicas are on the other node")
    reviews.are_all_answered()
    roll_out()


def test_a_model_with_a_replica_on_each_node_answers_while_one_is_drained(
    nodes: Nodes, steady_store: Store, namespace: Namespace, ingress: Ingress, iris: Trained
) -> None:
    namespace.apply(deployment("iris", IRIS, scale="2", credentials="store"))
    served = namespace.wait_ready("iris")
    assert sorted(nodes_of(namespace, label_of_service(served))) == [nodes.first, nodes.second]
    answers_while_drained(nodes, namespace, served, 2, lambda: ingress.predict(served, iris.rows, seconds=20))


def test_a_disruption_budget_lets_one_replica_go_at_a_time(
    nodes: Nodes, steady_store: Store, namespace: Namespace, ingress: Ingress, iris: Trained
) -> None:
    """All replicas are on the drained node, and no request waits for a new one. docs/admission.md shows the budget."""
    namespace.apply(
        {
            "apiVersion": "policy/v1",
            "kind": "PodDisruptionBudget",
            "metadata": {"name": "iris"},
            "spec": {"maxUnavailable": 1, "selector": {"matchLabels": {f"{PREFIX}deployment": "iris"}}},
        }
    )
    served = on_second(nodes, namespace, "2")
    answers_while_drained(nodes, namespace, served, 2, lambda: ingress.predict(served, iris.rows, seconds=20))


def test_the_only_replica_on_a_drained_node_is_replaced_while_requests_wait(
    nodes: Nodes, steady_store: Store, namespace: Namespace, ingress: Ingress, iris: Trained
) -> None:
    """They wait in Knative's activator."""
    served = on_second(nodes, namespace, "1..2")
    answers_while_drained(nodes, namespace, served, 1, lambda: ingress.predict(served, iris.rows, seconds=240))


def on_second(nodes: Nodes, namespace: Namespace, scale: str) -> Json:
    """A model with all replicas on the second node."""
    with cordoned(nodes.first):
        namespace.apply(deployment("iris", IRIS, scale=scale, credentials="store"))
        served = namespace.wait_ready("iris")
    assert set(nodes_of(namespace, label_of_service(served))) == {nodes.second}
    return served


def answers_while_drained(
    nodes: Nodes, namespace: Namespace, served: Json, replicas: int, send: Callable[[], Answer]
) -> None:
    """Drain the second node, and require that no request fails until all replicas are on the first."""
    pods = label_of_service(served)
    with constant_requests(send) as requests:
        eventually(lambda: len(requests.answers) > 50, 60, "there is load")
        with drained(nodes.second):
            eventually(lambda: nodes_of(namespace, pods) == [nodes.first] * replicas, 240, "the replicas have moved")
            seen = len(requests.answers)
            eventually(lambda: len(requests.answers) > seen + 50, 60, "there is load")
    assert not requests.failed, f"{len(requests.failed)} of {len(requests.answers)}: {requests.failed[:5]}"


# --- A node that dies


@dataclass(frozen=True)
class Outcome:
    """A request: its start and end in seconds after the node died, and why it failed."""

    sent: float
    ended: float
    error: str


@dataclass
class Death:
    """What happened after a node died."""

    noticed: float = 0.0
    """Seconds until Kubernetes removed its replicas from the endpoints of the server's Service."""
    led: float = 0.0
    """Seconds until a replica on the other node was the leader."""
    reviews: list[Outcome] = field(default_factory=list)
    predictions: list[Outcome] = field(default_factory=list)


def explained(what: str, outcomes: list[Outcome]) -> str:
    failed = [each for each in outcomes if each.error]
    last = max((each.ended for each in failed), default=0)
    lines = [f"{each.sent:6.1f} to {each.ended:6.1f} s: {each.error}" for each in failed[:20]]
    after = len([each for each in outcomes if each.sent > 0])
    return "\n".join([f"{what}: {len(failed)} of {after} failed, the last one after {last:.0f} s", *lines])


@contextmanager
def recorded(
    send: Callable[[], Answer], into: list[Outcome], clients: int, since: Callable[[], float]
) -> Iterator[None]:
    """Send requests from several clients while the block runs."""

    def timed() -> Answer:
        sent = since()
        try:
            answer = send()
        except (OSError, HTTPException) as error:
            into.append(Outcome(sent, since(), repr(error)))
            raise
        into.append(
            Outcome(sent, since(), "" if answer.status in (200, 201) else f"{answer.status} {answer.body[:200]}")
        )
        return answer

    with constant_requests(timed, clients):
        yield


def leader() -> str:
    """The leader's node; empty while no running replica leads."""
    holder = SERVER.get("lease", LEASE)["spec"].get("holderIdentity")
    return next((pod["spec"]["nodeName"] for pod in SERVER.list("pods") if pod["metadata"]["name"] == holder), "")


def lead_from(node: str) -> None:
    """Make the replica on a node the leader: the leader resigns when it ends."""

    def leads() -> bool:
        if leader() == node:
            return True
        SERVER.kubectl("delete", "pod", SERVER.get("lease", LEASE)["spec"]["holderIdentity"])
        SERVER.kubectl("rollout", "status", "deployment/kubectl-serve", "--timeout=2m")
        return False

    eventually(leads, 120, f"the replica on {node} leads")


@pytest.fixture(scope="module")
def death(nodes: Nodes, steady_store: Store, ingress: Ingress, iris: Trained) -> Iterator[Death]:
    """The second node dies, with the leader, while Deployments are reviewed and a model on both nodes answers."""
    namespace, found = Namespace("kubectl-serve-tests"), Death()
    path = f"/apis/apps/v1/namespaces/{namespace.name}/deployments"
    roll_out()
    lead_from(nodes.second)
    assert sorted(nodes_of(SERVER)) == [nodes.first, nodes.second]
    namespace.apply(deployment("spread", IRIS, scale="2", credentials="store"))
    served = namespace.wait_ready("spread")
    assert sorted(nodes_of(namespace, label_of_service(served))) == [nodes.first, nodes.second]
    died = float("inf")
    connections: dict[int, ApiServer] = {}

    def since() -> float:
        return time.monotonic() - died

    def review() -> Answer:
        mine = threading.get_ident()
        if mine not in connections:
            connections[mine] = opened.enter_context(ApiServer())
        status, body = connections[mine].dry_run(path, COMPLETED)
        return Answer(status, str(body.get("message", "")))

    def predict() -> Answer:
        return ingress.predict(served, iris.rows[:1], seconds=15)

    def is_noticed() -> bool:
        slices = SERVER.list("endpointslices", "kubernetes.io/service-name=kubectl-serve")
        ready = [each for one in slices for each in one["endpoints"] or [] if each["conditions"].get("ready")]
        return [each["nodeName"] for each in ready] == [nodes.first]

    try:
        with (
            ExitStack() as opened,
            recorded(review, found.reviews, 4, since),
            recorded(predict, found.predictions, 3, since),
        ):
            eventually(lambda: min(len(found.reviews), len(found.predictions)) > 100, 60, "there is load")
            died = time.monotonic()
            nodes.cluster("stop-node")
            eventually(lambda: leader() == nodes.first, 60, "the other replica leads")
            found.led = since()
            eventually(is_noticed, UNNOTICED, "the endpoints are without the node")
            found.noticed = since()
            eventually(lambda: since() > found.noticed + 15, 30, "there is load after that")
    finally:
        nodes.cluster("start-node")
    found.reviews = [each for each in found.reviews if each.sent > -LIMIT]
    found.predictions = [each for each in found.predictions if each.sent > -LIMIT]
    print(f"noticed after {found.noticed:.0f} s; the other replica leads after {found.led:.0f} s")
    print(explained("reviews", found.reviews), explained("predictions", found.predictions), sep="\n")
    yield found
    namespace.kubectl("delete", "deployment", "spread")
    roll_out()


def test_admission_goes_on_when_a_node_dies(death: Death) -> None:
    """Until Kubernetes notices, a review that is sent to the dead replica fails after the webhook's time limit. The
    other replica answers meanwhile, and after that none fails."""
    failed = [each for each in death.reviews if each.error]
    assert not [each for each in failed if each.sent > death.noticed + RULES], explained("reviews", failed)
    assert all("failed calling webhook" in each.error for each in failed), explained("reviews", failed)
    assert [each for each in death.reviews if not each.error and 0 < each.sent < death.noticed]


def test_the_other_replica_leads_when_the_leaders_node_dies(death: Death) -> None:
    assert death.led < EXPIRY


def test_a_dead_nodes_model_answers_from_the_other(death: Death) -> None:
    failed = [each for each in death.predictions if each.error]
    assert not [each for each in failed if each.sent > death.noticed + RULES], explained("predictions", failed)
    assert [each for each in death.predictions if not each.error and 0 < each.sent < death.noticed]
