"""Standard Kubernetes tools still work: applying the same manifest again changes nothing."""

import json

from cluster.support import Json, Namespace, deployment

MODEL = deployment("iris", "s3://models/iris/model.joblib", credentials="store", scale="0..3")


def state(namespace: Namespace) -> tuple[int, int, str, list[str]]:
    """Both generations, the Knative Service's version, and the revisions."""
    served: Json = namespace.get("deployment", "iris")
    service: Json = namespace.get("services.serving.knative.dev", "iris")
    revisions = sorted(revision["metadata"]["name"] for revision in namespace.list("revisions.serving.knative.dev"))
    metadata = service["metadata"]
    return served["metadata"]["generation"], metadata["generation"], metadata["resourceVersion"], revisions


def test_applying_twice_changes_nothing(namespace: Namespace) -> None:
    namespace.apply(MODEL)
    namespace.wait_ready("iris")
    before = state(namespace)

    assert "unchanged" in namespace.apply(MODEL)
    assert namespace.run("kubectl", "diff", "-f", "-", stdin=json.dumps(MODEL)).stdout == ""
    namespace.apply(MODEL, flags=("--server-side", "--force-conflicts"))
    namespace.apply(MODEL, flags=("--server-side",))
    server_side = namespace.run("kubectl", "diff", "--server-side", "-f", "-", stdin=json.dumps(MODEL))
    assert server_side.stdout == ""
    assert state(namespace) == before

    # kubectl replace writes an annotation of its own: the Deployment has a new generation, what it becomes has not.
    namespace.kubectl("replace", "-f", "-", stdin=json.dumps(namespace.get("deployment", "iris")))
    namespace.wait_ready("iris")
    assert state(namespace)[1:] == before[1:]


def test_ten_times_the_same_by_every_way_of_applying_moves_nothing(namespace: Namespace) -> None:
    namespace.apply(MODEL)
    namespace.wait_ready("iris")
    before = state(namespace)[1:]
    for _ in range(10):
        namespace.apply(MODEL)
        namespace.apply(MODEL, flags=("--server-side", "--force-conflicts"))
        namespace.kubectl("replace", "-f", "-", stdin=json.dumps(MODEL))
        assert state(namespace)[1:] == before
    namespace.wait_ready("iris")
    assert state(namespace)[1:] == before


def test_server_side_apply_alone_is_enough(namespace: Namespace) -> None:
    namespace.apply(MODEL, flags=("--server-side",))
    namespace.wait_ready("iris")
    before = state(namespace)
    namespace.apply(MODEL, flags=("--server-side",))
    assert state(namespace) == before


def test_a_dry_run_shows_the_completed_deployment_and_makes_nothing(namespace: Namespace) -> None:
    shown = namespace.apply(MODEL, flags=("--dry-run=server", "-o", "yaml"))
    assert "model-loader" in shown
    assert namespace.list("deployments") == []


def test_a_new_scale_is_a_new_revision_of_the_same_model(namespace: Namespace) -> None:
    namespace.apply(MODEL)
    namespace.wait_ready("iris")
    namespace.kubectl("annotate", "deployment", "iris", "--overwrite", "kubectl-serve.dev/scale=1..2")
    namespace.wait_ready("iris")
    revision = namespace.get("revisions.serving.knative.dev", "iris-00002")
    assert revision["metadata"]["annotations"]["autoscaling.knative.dev/min-scale"] == "1"
    assert revision["metadata"]["annotations"]["autoscaling.knative.dev/max-scale"] == "2"
