"""Admission reviews: what is answered, and what no API server would have sent."""

import base64
import json
from typing import Any

import pytest

from serve_core.facts import LoaderFacts, PlatformFacts
from serve_core.names import SERVED_LABEL, SERVER_USERNAME
from serve_core.runtimes import Runtime
from serve_webhook import review
from serve_webhook.review import Answer, MalformedError, Request

RUNTIME: dict[str, Any] = {
    "apiVersion": "kubectl-serve.dev/v1alpha1",
    "kind": "ModelRuntime",
    "metadata": {"name": "sklearn"},
    "spec": {
        "formats": [{"name": "sklearn"}],
        "protocols": ["v2"],
        "container": {"image": "example.com/sklearn:1", "ports": [{"containerPort": 8080}]},
    },
}


def runtime() -> Runtime:
    from serve_core.runtimes import parse

    return parse(RUNTIME)


FACTS = PlatformFacts(
    loader=LoaderFacts("example.com/loader:1"),
    runtimes=(runtime(),),
    features={"kubernetes.podspec-init-containers": "enabled"},
)


def deployment(**annotations: str) -> dict[str, Any]:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": "iris",
            "namespace": "default",
            "annotations": {f"kubectl-serve.dev/{name}": value for name, value in annotations.items()},
        },
    }


def body(new: Any = None, *, operation: str = "CREATE", user: str = "jane", **request: Any) -> bytes:
    return json.dumps(
        {
            "apiVersion": "admission.k8s.io/v1",
            "kind": "AdmissionReview",
            "request": {
                "uid": "705ab4f5-6393-11e8-b7cc-42010a800002",
                "kind": {"group": "apps", "version": "v1", "kind": "Deployment"},
                "operation": operation,
                "namespace": "default",
                "name": "iris",
                "userInfo": {"username": user, "groups": ["system:authenticated"]},
                "object": new,
                **request,
            },
        }
    ).encode()


def complete(request: Request) -> Answer:
    return review.mutate(request, FACTS)


def respond(sent: bytes) -> dict[str, Any]:
    answer, _ = review.review(sent, complete)
    response: dict[str, Any] = json.loads(answer)["response"]
    return response


def test_an_annotated_deployment_is_completed_by_a_patch() -> None:
    response = respond(body(deployment(model="https://example.com/model.joblib")))
    assert response["allowed"], response
    assert response["uid"] == "705ab4f5-6393-11e8-b7cc-42010a800002"
    patch = json.loads(base64.b64decode(response["patch"]))
    assert response["patchType"] == "JSONPatch"
    assert any(operation["path"].startswith("/spec") for operation in patch)


def test_a_refusal_has_a_line_for_each_problem() -> None:
    response = respond(body(deployment(model="https://example.com/model.joblib", scale="many", scael="1")))
    assert not response["allowed"]
    assert response["status"]["code"] == 422
    lines = response["status"]["message"].splitlines()
    assert [line.split(":")[0] for line in lines] == ["UnknownAnnotation", "InvalidAnnotation"]


def test_our_own_writes_are_left_alone() -> None:
    response = respond(body(deployment(model="nonsense"), operation="UPDATE", user=SERVER_USERNAME))
    assert response["allowed"]
    assert "patch" not in response


def test_what_is_being_deleted_is_left_alone() -> None:
    going = deployment(model="nonsense")
    going["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert respond(body(going, operation="UPDATE"))["allowed"]


def test_a_defect_is_a_refusal_that_says_so(caplog: pytest.LogCaptureFixture) -> None:
    def broken(_: Request) -> Answer:
        raise KeyError("oops")

    answer, decision = review.review(body(deployment()), broken)
    status = json.loads(answer)["response"]["status"]
    assert (decision, status["code"], status["reason"]) == ("error", 500, "InternalError")
    assert "KeyError" in caplog.text


def parked() -> dict[str, Any]:
    found = deployment(model="https://example.com/model.joblib")
    found["metadata"]["labels"] = {SERVED_LABEL: "true"}
    return found


def scaling(replicas: int, user: str = "jane") -> Request:
    sent = json.loads(body({"kind": "Scale", "spec": {"replicas": replicas}}, operation="UPDATE", user=user))
    return review.AdmissionReview.model_validate(sent).request


def test_scaling_a_parked_deployment_is_answered_with_the_annotation_to_use() -> None:
    (problem,) = review.scale(scaling(3), parked()).problems
    assert problem.startswith("Parked: spec.replicas: ")
    assert "kubectl-serve.dev/scale" in problem


@pytest.mark.parametrize(
    ("request_", "target"),
    [
        pytest.param(scaling(3), None, id="unknown"),
        pytest.param(scaling(3), deployment(), id="plain"),
        pytest.param(scaling(0), parked(), id="to zero"),
        pytest.param(scaling(3, SERVER_USERNAME), parked(), id="by us"),
    ],
)
def test_other_scaling_is_allowed(request_: Request, target: dict[str, Any] | None) -> None:
    assert review.scale(request_, target) == Answer()


def test_a_label_alone_parks_nothing() -> None:
    forged = deployment()
    forged["metadata"]["labels"] = {SERVED_LABEL: "true"}
    assert not review.is_parked(forged)


def test_long_warnings_are_cut_to_what_is_shown() -> None:
    long = deployment(model="https://example.com/model.joblib")
    long["spec"] = {"minReadySeconds": 30, "strategy": {"type": "Recreate"}}
    warnings = respond(body(long))["warnings"]
    assert len(warnings) == 2
    assert all(len(warning) <= review.LONGEST_WARNING for warning in warnings)


HOSTILE = {
    "empty": b"",
    "not JSON": b"{",
    "not UTF-8": b'{"\xff": 1}',
    "duplicate names": b'{"kind": "A", "kind": "B"}',
    "NaN": b'{"a": NaN}',
    "Infinity": b'{"a": -Infinity}',
    "a float past the end": b'{"a": 1e999}',
    "an integer of 5000 digits": b'{"a": ' + b"9" * 5000 + b"}",
    "half a surrogate pair": rb'{"a": "\ud800"}',
    "half a surrogate pair in a name": rb'{"\udfff": 1}',
    "100,000 lists deep": b"[" * 100_000 + b"]" * 100_000,
    "200 objects deep": b'{"a":' * 200 + b"1" + b"}" * 200,
    "a list": b"[]",
    "a number": b"1",
    "another kind": b'{"apiVersion": "v1", "kind": "Pod"}',
    "an older version": body().replace(b"admission.k8s.io/v1", b"admission.k8s.io/v1beta1"),
    "no uid": body().replace(b"705ab4f5-6393-11e8-b7cc-42010a800002", b""),
    "an uid that is a number": body().replace(b'"705ab4f5-6393-11e8-b7cc-42010a800002"', b"7"),
    "an object that is a list": body([1, 2]),
    "another operation": body(operation="PATCH"),
}


@pytest.mark.parametrize("sent", HOSTILE.values(), ids=HOSTILE.keys())
def test_what_no_api_server_sends_is_malformed(sent: bytes) -> None:
    with pytest.raises(MalformedError):
        review.review(sent, complete)


def test_a_malformed_request_repeats_nothing_of_what_was_sent() -> None:
    with pytest.raises(MalformedError) as caught:
        review.review(body(operation="s3cr3t"), complete)
    assert "s3cr3t" not in str(caught.value)


ODD_OBJECTS: dict[str, Any] = {
    "no metadata": {"apiVersion": "apps/v1", "kind": "Deployment"},
    "metadata that is a list": {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": []},
    "annotations that are numbers": deployment() | {"metadata": {"name": "a", "annotations": {"b": 1}}},
    "containers that are text": deployment(model="https://e.com/m.joblib")
    | {"spec": {"template": {"spec": {"containers": "x"}}}},
    "90 objects deep": deployment() | {"spec": json.loads('{"a":' * 90 + "1" + "}" * 90)},
    "a name with a slash and a tilde": deployment(**{"a/~b": "1"}),
    "a right-to-left mark in the URI": deployment(model="https://example.com/\u202emodel.joblib"),
}


@pytest.mark.parametrize("new", ODD_OBJECTS.values(), ids=ODD_OBJECTS.keys())
def test_odd_objects_are_answered_without_a_defect(new: Any) -> None:
    _, decision = review.review(body(new), complete)
    assert decision in ("allowed", "completed", "refused")


def test_a_refusal_of_thousands_of_lines_is_cut_short() -> None:
    unknown = {f"unknown-{index}": "" for index in range(1000)}
    answered, _ = review.review(body(deployment(**unknown)), complete)
    lines = json.loads(answered)["response"]["status"]["message"].splitlines()
    assert len(lines) == review.MOST_PROBLEMS + 1
    assert lines[-1] == "and 900 more like these"


def test_more_than_can_be_judged_in_time_is_refused_not_left_to_a_time_out() -> None:
    """Where a webhook fails open, a time-out would be a way round every policy."""
    pod = {"containers": [{"name": "server", "env": [{} for _ in range(60_000)]}]}
    new = deployment(model="s3://models/a.joblib") | {"spec": {"template": {"spec": pod}}}
    request = {"uid": "u-1", "operation": "CREATE", "userInfo": {}, "object": new}
    sent = {"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "request": request}
    answered, decision = review.review(json.dumps(sent, separators=(",", ":")).encode(), complete)
    response = json.loads(answered)["response"]
    assert (response["uid"], decision) == ("u-1", "refused")
    assert "more than 50,000 objects" in response["status"]["message"]
