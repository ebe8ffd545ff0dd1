"""Refusals and their messages."""

import json

from cluster.support import Json, Namespace, deployment
from serve_core.base.reasons import CATALOGUE, Kind

IRIS = "s3://models/iris/model.joblib"

BAD: Json = deployment("iris", "ftp://models/iris.joblib", scale="5..1", modle="x", window="1ms")


CODES = [f"{reason.code}: " for reason in CATALOGUE.values() if reason.kind is Kind.REFUSAL]


def problems_said(text: str) -> list[str]:
    """The lines that name an annotation, without what the program around them says."""
    return sorted(line[line.index(code) :] for line in text.splitlines() for code in CODES if code in line)


def test_a_bad_annotation_is_refused_by_apply_and_by_render_in_the_same_words(empty: Namespace) -> None:
    applied = empty.refusal(BAD)
    rendered = empty.run("kubectl", "serve", "render", "-f", "-", stdin=json.dumps(BAD), check=False)

    assert rendered.returncode == 1
    assert rendered.stdout == ""
    assert len(problems_said(applied)) == 4, applied
    assert problems_said(applied) == problems_said(rendered.stderr)
    assert "Did you mean kubectl-serve.dev/mode" in applied


def test_create_says_the_same_of_its_flags(empty: Namespace) -> None:
    created = empty.run("kubectl", "serve", "create", "iris", "--model", "ftp://models/iris", check=False)
    assert created.returncode == 1
    (applied,) = problems_said(empty.refusal(deployment("iris", "ftp://models/iris")))
    assert problems_said(created.stderr) == [
        applied.replace("metadata.annotations[kubectl-serve.dev/model]", "--model")
    ]


def test_scaling_a_parked_deployment_is_answered(namespace: Namespace) -> None:
    namespace.apply(deployment("iris", IRIS, credentials="store"))
    scaled = namespace.run("kubectl", "scale", "deployment/iris", "--replicas=3", check=False)
    assert scaled.returncode != 0
    assert "Parked" in scaled.stderr
    assert "kubectl-serve.dev/scale" in scaled.stderr
    assert namespace.get("deployment", "iris")["spec"]["replicas"] == 0


def test_a_knative_service_of_another_owner_is_not_changed(namespace: Namespace) -> None:
    container = {"image": "dev.local/kubectl-serve/versitygw:1.8.0", "args": ["--port", ":8080", "posix", "/tmp"]}
    taken: Json = {
        "apiVersion": "serving.knative.dev/v1",
        "kind": "Service",
        "metadata": {"name": "iris"},
        "spec": {"template": {"spec": {"containers": [container]}}},
    }
    namespace.apply(taken)
    before = namespace.get("services.serving.knative.dev", "iris")["spec"]
    namespace.apply(deployment("iris", IRIS, credentials="store"))
    namespace.kubectl(
        "wait", "deployment/iris", "--timeout=30s",
        "--for=jsonpath={.status.conditions[?(@.type=='kubectl-serve.dev/Ready')].reason}=NameTaken",
    )  # fmt: skip
    assert namespace.get("services.serving.knative.dev", "iris")["spec"] == before
