"""What Knative Serving takes and what it refuses, value by value: its own bounds, at their edges."""

import pytest

from serve_core.base.json import JsonObject
from serve_core.knative import initial_scale, limits
from serve_core.knative.fields import FieldMapping
from serve_core.syntax import image_reference

MOST = 2**31 - 1


def refused_places(**annotations: str) -> list[str]:
    """Of annotations below ``autoscaling.knative.dev/``, those that are refused."""
    mapping = FieldMapping({})
    limits.check_template_annotations({limits.AUTOSCALING + key: text for key, text in annotations.items()}, mapping)
    return [problem.path.partition(limits.AUTOSCALING)[2].rstrip("]") for problem in mapping.problems]


@pytest.mark.parametrize(
    ("key", "taken", "refused"),
    [
        ("min-scale", ["0", "+1", f"{MOST}"], ["", "-1", "1.0", " 1", "one", f"{MOST + 1}"]),
        ("max-scale", ["0", "7"], ["-1", "many"]),
        ("initial-scale", ["1"], ["0", "-1", "none"]),
        ("activation-scale", ["2"], ["1", "0"]),
        ("metric-aggregation-algorithm", ["", "linear", "weighted-exponential", "weightedExponential"], ["mean"]),
        ("target", ["0.01", "0.5", ".5", "5.", "1000"], ["0", "0.009", "-1", "1e3", "NaN", ""]),
        ("target-utilization-percentage", ["1", "70", "100"], ["0.9", "100.1"]),
        ("target-burst-capacity", ["-1", "0", "0.5", "200"], ["-2", "-0.5"]),
        ("window", ["6s", "1h", "1.5m", "60000ms", "1m30s"], ["5s", "3601s", "6.5s", "90", "6 s", "s", ".s", "1d"]),
        ("scale-down-delay", ["0", "0s", "1h"], ["-1s", "1h1s", "1.5s", "soon"]),
        ("scale-to-zero-pod-retention-period", ["0", "1.5s", "1h", "500us", "1µs"], ["-1ns", "1h1ns"]),
        ("panic-window-percentage", ["1", "100"], ["0", "101"]),
        ("panic-threshold-percentage", ["110", "1000"], ["109", "1001"]),
        ("class", ["kpa.autoscaling.knative.dev", "hpa.autoscaling.knative.dev", "keda.example.com"],
         ["lpa.autoscaling.knative.dev"]),
    ],
)  # fmt: skip
def test_an_annotation_of_the_autoscaler_has_bounds(key: str, taken: list[str], refused: list[str]) -> None:
    assert [text for text in (*taken, *refused) if refused_places(**{key: text})] == refused


@pytest.mark.parametrize(
    ("least", "most", "first", "refused"),
    [
        ("2", "2", "2", []),
        ("3", "2", "3", ["max-scale", "activation-scale"]),
        ("2", "0", "9", []),
        ("3", "9", "2", ["activation-scale"]),
        ("0", "2", "3", ["activation-scale"]),
    ],
)
def test_the_bounds_of_the_scale_have_to_fit_together(least: str, most: str, first: str, refused: list[str]) -> None:
    scale = {"min-scale": least, "max-scale": most, "activation-scale": first}
    assert refused_places(**scale) == refused


@pytest.mark.parametrize("written", ["0", "+0", "00"])
def test_a_model_begins_with_no_replica_where_the_cluster_allows_it(written: str) -> None:
    allowed, refused = FieldMapping({}), FieldMapping({})
    limits.check_template_annotations({limits.AUTOSCALING + "initial-scale": written}, allowed, allows_zero=True)
    limits.check_template_annotations({limits.AUTOSCALING + "initial-scale": written}, refused)
    assert not allowed.problems
    (problem,) = refused.problems
    assert "allow-zero-initial-scale" in str(problem)


ALLOWED = {"allow-zero-initial-scale": "true"}


@pytest.mark.parametrize(
    ("template", "autoscaler", "expected"),
    [
        ({}, {}, False),
        ({}, ALLOWED, False),
        ({}, ALLOWED | {"initial-scale": "0"}, True),
        ({}, {"initial-scale": "0"}, False),
        ({"initial-scale": "0"}, ALLOWED, True),
        ({"initial-scale": "0"}, {}, False),
        ({"initial-scale": "1"}, ALLOWED | {"initial-scale": "0"}, False),
        ({"initial-scale": "0", "min-scale": "1"}, ALLOWED, False),
        ({"initial-scale": "0", "min-scale": "0"}, ALLOWED | {"min-scale": "1"}, True),
        ({"initial-scale": "0"}, ALLOWED | {"min-scale": "1"}, False),
        ({"initial-scale": "0", "class": "hpa.autoscaling.knative.dev"}, ALLOWED, False),
        ({"initial-scale": "none"}, ALLOWED, False),
    ],
    ids=str,
)
def test_a_revision_is_ready_without_a_pod_where_nothing_asks_for_one(
    template: dict[str, str], autoscaler: dict[str, str], expected: bool
) -> None:
    annotations = {limits.AUTOSCALING + key: value for key, value in template.items()}
    assert initial_scale.is_zero(annotations, autoscaler) is expected


def test_any_metric_goes_with_another_class_than_knatives_own() -> None:
    assert refused_places(metric="cpu") == ["metric"]
    assert refused_places(**{"metric": "cpu", "class": "kpa.autoscaling.knative.dev"}) == ["metric"]
    assert refused_places(**{"metric": "cpu", "class": "hpa.autoscaling.knative.dev"}) == []
    assert refused_places(metric="") == ["metric"], "no metric is not the default one"


DIGEST = "sha256:" + "0" * 64


@pytest.mark.parametrize(
    ("reference", "read"),
    [
        ("python", True), ("ab", True), ("a", False), ("", False), ("Python", False), ("org/name_1.x-y:v1.0_a-b", True),
        ("ghcr.io/org/name", True), ("GHCR.io/org/name", True), ("ghcr.io/a", False), ("ghcr.io/Org/name", False),
        ("localhost:5000/name:1", True), ("registry:5000/name", True), ("[::1]:5000/name", True), ("a_b:5/name", True),
        ("host:port/name", False), ("name:", False), ("name:" + "1" * 128, True), ("name:" + "1" * 129, False),
        ("name:1@" + DIGEST, True), ("name@" + DIGEST, True), ("name@sha256:0", False), ("name@" + DIGEST + "0", False),
        ("n" * 255, True), ("n" * 256, False), ("name with space", False),
    ],
)  # fmt: skip
def test_an_image_is_read_as_go_containerregistry_reads_it(reference: str, read: bool) -> None:
    assert image_reference.is_readable_by_knative(reference) is read


def container_faults(*, is_server: bool = True, **container: object) -> list[str]:
    mapping = FieldMapping({})
    found: JsonObject = {"name": "app", "image": "example.com/app:1", **container}
    limits.check_container(found, "c", is_server=is_server, mapping=mapping)
    return [problem.path.removeprefix("c.") for problem in mapping.problems]


def test_names_variables_and_ports_of_knatives_own_are_refused() -> None:
    assert container_faults(name="queue-proxy") == ["name"]
    for name in ("K_SERVICE", "K_CONFIGURATION", "K_REVISION", "PORT"):
        assert container_faults(env=[{"name": name}]) == [f"env[{name}]"]
    assert container_faults(env=[{"name": "PORT"}], is_server=False) == []
    for port in (8008, 8012, 8013, 8022, 9090, 9091):
        assert container_faults(ports=[{"containerPort": 80}, {"containerPort": port}]) == ["ports[1].containerPort"]


def test_a_mount_is_compared_as_the_path_that_it_means() -> None:
    def faults(*paths: str) -> list[str]:
        return container_faults(volumeMounts=[{"name": "v", "mountPath": path} for path in paths])

    assert faults("/a", "/a/b", "/dev/shm") == []
    for reserved in ("/", "//", "/dev", "/dev/", "/x/../dev", "/dev/log"):
        assert faults(reserved) == ["volumeMounts[0].mountPath"]
    assert faults("a") == ["volumeMounts[0].mountPath"], "not absolute"
    assert faults("/a", "/a/") == faults("/a", "//a") == faults("/a", "/b/../a") == ["volumeMounts[1].mountPath"]
