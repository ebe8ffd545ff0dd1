"""Admission reviews: answers, and requests that no API server sends."""

import base64
import json
import socket
import tracemalloc
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_core.api.models import SCHEMES
from serve_core.api.runtimes import Runtime
from serve_core.base import bounded_json, overlay
from serve_core.base.bounded_json import JsonError
from serve_core.base.bounds import MAX_ANNOTATION_BYTES
from serve_core.base.constants import SERVED_LABEL, SERVER_USERNAME
from serve_core.base.reasons import MAX_PROBLEMS, Diagnostic
from serve_core.context.cluster import ClusterContext, LoaderConfig
from serve_webhook.admission import parsing, review, validation
from serve_webhook.admission.review import AdmissionRequest, AdmissionResponse, MalformedError

NOW = datetime(2026, 11, 18, tzinfo=UTC)
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
    from serve_core.api.runtimes import parse

    return parse(RUNTIME)


FACTS = ClusterContext(
    loader=LoaderConfig("example.com/loader:1"),
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


def complete(request: AdmissionRequest) -> AdmissionResponse:
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
    assert (response["status"]["code"], response["status"]["reason"]) == (422, "Invalid")
    lines = response["status"]["message"].splitlines()
    assert [line.split(":")[0] for line in lines] == ["UnknownAnnotation", "InvalidAnnotation"]


@pytest.mark.attack(5)
def test_only_the_servers_own_writes_are_not_completed() -> None:
    response = respond(body(deployment(model="nonsense"), operation="UPDATE", user=SERVER_USERNAME))
    assert response["allowed"]
    assert "patch" not in response
    for user in (
        "system:serviceaccount:evil:kubectl-serve",
        "system:serviceaccount:kubectl-serve:default",
        "kubectl-serve",
    ):
        assert not respond(body(deployment(model="nonsense"), operation="UPDATE", user=user))["allowed"]


def test_what_is_being_deleted_is_left_alone() -> None:
    going = deployment(model="nonsense")
    going["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert respond(body(going, operation="UPDATE"))["allowed"]


@pytest.mark.attack(9)
def test_a_defect_is_a_refusal_that_says_so(caplog: pytest.LogCaptureFixture) -> None:
    def broken(_: AdmissionRequest) -> AdmissionResponse:
        raise KeyError("oops")

    answer, decision = review.review(body(deployment()), broken)
    status = json.loads(answer)["response"]["status"]
    assert (decision, status["code"], status["reason"]) == ("error", 500, "InternalError")
    assert "KeyError" in caplog.text


def parked() -> dict[str, Any]:
    found = deployment(model="https://example.com/model.joblib")
    found["metadata"]["labels"] = {SERVED_LABEL: "true"}
    return found


def scaling(replicas: int, user: str = "jane") -> AdmissionRequest:
    sent = json.loads(body({"kind": "Scale", "spec": {"replicas": replicas}}, operation="UPDATE", user=user))
    return review.AdmissionReview.model_validate(sent).request


def test_scaling_a_parked_deployment_is_answered_with_the_annotation_to_use() -> None:
    answer = review.scale(scaling(3), parked())
    assert (answer.code, answer.reason) == (403, "Forbidden")
    (problem,) = answer.problems
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
def test_other_scaling_is_allowed(request_: AdmissionRequest, target: dict[str, Any] | None) -> None:
    assert review.scale(request_, target) == AdmissionResponse()


@pytest.mark.attack(5)
def test_a_label_alone_parks_nothing() -> None:
    forged = deployment()
    forged["metadata"]["labels"] = {SERVED_LABEL: "true"}
    assert not review.is_parked(forged)


def test_long_warnings_are_cut_to_what_is_shown() -> None:
    long = deployment(model="https://example.com/model.joblib")
    long["spec"] = {"minReadySeconds": 30, "strategy": {"type": "Recreate"}}
    warnings = respond(body(long))["warnings"]
    assert len(warnings) == 2
    assert all(len(warning) <= review.MAX_WARNING for warning in warnings)
    # "A: b: " stands before them.
    of = [Diagnostic("b", "A", "a" * length) for length in (250, 251)]
    assert review.shortened(of) == ("A: b: " + "a" * 250, "A: b: " + "a" * 249 + "…")


GOOD = body(deployment() | {"spec": {"paused": "HERE"}})


def holding(value: bytes) -> bytes:
    """A review that would be answered if it were not for this one value."""
    return GOOD.replace(b'"HERE"', value)


NOT_JSON, TOO_DEEP, NO_REVIEW = "not JSON", "more than 100 levels deep", "not an AdmissionReview"
HOSTILE = {
    "empty": (b"", NOT_JSON),
    "cut off": (GOOD[:-1], NOT_JSON),
    "not UTF-8": (holding(b'"\xff"'), NOT_JSON),
    "duplicate names": (holding(b'{"kind": "A", "kind": "B"}'), "a name occurs twice"),
    "NaN": (holding(b"NaN"), "NaN and Infinity"),
    "Infinity": (holding(b"-Infinity"), "NaN and Infinity"),
    "a float past the end": (holding(b"1e999"), "a number is too large"),
    "an integer of 5000 digits": (holding(b"9" * 5000), "a number is too large"),
    "half a surrogate pair": (holding(rb'"\ud800"'), "half of a surrogate pair"),
    "half a surrogate pair in a name": (holding(rb'{"\udfff": 1}'), "half of a surrogate pair"),
    "40,000 lists deep": (holding(b"[" * 40_000 + b"]" * 40_000), TOO_DEEP),
    "100,000 lists deep": (holding(b"[" * 100_000 + b"]" * 100_000), "more than 50,000 objects"),
    "200 objects deep": (holding(b'{"a":' * 200 + b"1" + b"}" * 200), TOO_DEEP),
    "300 objects deep": (holding(b'{"a":' * 300 + b"1" + b"}" * 300), TOO_DEEP),
    "a list": (b"[]", NO_REVIEW),
    "a number": (b"1", NO_REVIEW),
    "another kind": (b'{"apiVersion": "v1", "kind": "Pod"}', NO_REVIEW),
    "an older version": (GOOD.replace(b"admission.k8s.io/v1", b"admission.k8s.io/v1beta1"), "apiVersion"),
    "no uid": (GOOD.replace(b"705ab4f5-6393-11e8-b7cc-42010a800002", b""), "request.uid"),
    "an uid that is a number": (GOOD.replace(b'"705ab4f5-6393-11e8-b7cc-42010a800002"', b"7"), "request.uid"),
    "an object that is a list": (body([1, 2]), "request.object"),
    "another operation": (body(operation="PATCH"), "request.operation"),
    "a namespace with a line break": (body(namespace="a\nERROR forged"), "request.namespace"),
}


def test_the_review_that_is_spoilt_below_would_be_answered() -> None:
    assert respond(GOOD)["allowed"]


def as_go_writes(sent: bytes) -> bytes:
    return sent.replace(b": ", b":").replace(b", ", b",") + b"\n"


@pytest.mark.attack(8, 9)
@pytest.mark.parametrize("written", [bytes, as_go_writes])
@pytest.mark.parametrize(("sent", "why"), HOSTILE.values(), ids=HOSTILE.keys())
def test_what_no_api_server_sends_is_malformed(sent: bytes, why: str, written: Callable[[bytes], bytes]) -> None:
    with pytest.raises(MalformedError, match=why):
        review.review(written(sent), complete)


NUMBERS = st.sampled_from(["0", "-0", "1.0", "-0.0", "1e3", "0.1", "1e400", "9007199254740993", "9" * 25, "NaN"])
STRINGS = st.sampled_from(["a", "", "<&>", "\u00e9", "\u2028", "\x7f", "\x00", '":', "\\", '\\"', "\ud800"]).map(
    json.dumps
)
TEXTS = st.recursive(
    NUMBERS | STRINGS | st.sampled_from(["null", "true"]),
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda parts: f"[{','.join(parts)}]")
        | st.lists(st.tuples(STRINGS, inner), max_size=3).map(
            lambda pairs: "{" + ",".join(f"{name}:{value}" for name, value in pairs) + "}"
        )
    ),
    max_leaves=8,
)


@given(text=TEXTS, raw=st.booleans())
def test_the_fast_parser_reads_what_the_careful_one_reads(text: str, raw: bool) -> None:
    if raw:
        text = text.replace("\\u00e9", "\u00e9").replace("\\u007f", "\x7f")

    def outcome(parse: Callable[[bytes], Any]) -> str:
        try:
            return repr(parse(text.encode() + b"\n"))
        except JsonError as error:
            return str(error)

    assert outcome(parsing.parse) == outcome(partial(bounded_json.parse, strict=True))


def test_who_set_which_field_is_not_even_looked_at() -> None:
    """Managed fields are half of an object, nested as deep as it is."""
    new = deployment(model="https://example.com/model.joblib")
    plain, _ = review.review(body(new), complete)
    new["metadata"]["managedFields"] = [
        {"manager": "kubectl", "fieldsV1": json.loads('{"f:a":' * 200 + "{}" + "}" * 200)}
    ]
    assert review.review(body(new), complete)[0] == plain


MANAGED = '"managedFields":[{"fieldsV1":%s}]'


@pytest.mark.parametrize(
    "fields",
    [
        "{}",
        '{"f:a":{}}',
        r'{"k:{\"name\":\"]\"}":{}}',
        r'{"v:\"\\\\\"":{},"v:[1]":{}}',
        '{"f:a":' * 3000 + "{}" + "}" * 3000,
        "{" + ",".join(f'"f:{number}":{{}}' for number in range(60_000)) + "}",
    ],
    ids=["nothing", "one", "a bracket in a key", "backslashes", "3,000 levels", "60,000 values"],
)
@pytest.mark.attack(10, 22)
def test_managed_fields_as_the_api_server_writes_them_are_not_parsed(fields: str) -> None:
    managed = MANAGED % fields
    sent = (
        f'{{"request":{{"object":{{"metadata":{{{managed},"name":"a"}}}},"oldObject":{{"metadata":{{{managed}}}}}}}}}'
    )
    assert parsing.parse(sent.encode()) == {
        "request": {"object": {"metadata": {"name": "a"}}, "oldObject": {"metadata": {}}}
    }


@pytest.mark.parametrize(
    "text",
    [r'{"a":"\"managedFields\":[","b":1}', r'{"a\"managedFields":["x"],"b":1}', r'{"a":",\"managedFields\":[1]"}'],
)
@pytest.mark.attack(8, 22)
def test_what_only_looks_like_managed_fields_stays(text: str) -> None:
    assert parsing.parse(text.encode()) == json.loads(text)


@pytest.mark.parametrize("inner", ["[[1]]", '["a",[2],"b"]', "[", '["'])
@pytest.mark.attack(8, 9)
def test_managed_fields_with_lists_in_them_hide_nothing(inner: str) -> None:
    """The API server has none; what would be left of such a review is no JSON."""
    with pytest.raises(JsonError, match="not JSON"):
        parsing.parse(f'{{"object":{{"managedFields":{inner},"spec":1}}}}'.encode())


@pytest.mark.parametrize("value", ["[" * 200 + "]" * 200, "9" * 50, "[" + "{}," * 60_000 + "{}]", "1e999"])
@pytest.mark.attack(9, 10, 22)
def test_what_cannot_be_parsed_is_refused_where_the_api_server_asks(value: str) -> None:
    """HTTP 400 would be as good as a yes where a webhook fails open."""
    head = '{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1","request":{"uid":"u-1"'
    answered, decision = review.review(f'{head},"object":{{"spec":{value}}}}}}}'.encode(), complete)
    assert (json.loads(answered)["response"]["uid"], decision) == ("u-1", "refused")


@pytest.mark.attack(17)
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


@pytest.mark.attack(11)
def test_a_refusal_of_thousands_of_lines_is_cut_short() -> None:
    unknown = {f"unknown-{index}": "" for index in range(1000)}
    answered, _ = review.review(body(deployment(**unknown)), complete)
    lines = json.loads(answered)["response"]["status"]["message"].splitlines()
    assert len(lines) == MAX_PROBLEMS + 1
    assert lines[-1] == "and more like these"


@pytest.mark.attack(10, 18)
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


@pytest.mark.attack(9, 10)
@pytest.mark.parametrize("filler", ['"a":1', "[]", "1.5", '"xy"'])
def test_millions_of_small_values_are_not_even_parsed(filler: str) -> None:
    """8 MiB of them would take as many as 300 MiB: more than the server is given."""
    many = "[" + ",".join(["{" + filler + "}" if ":" in filler else filler] * 300_000) + "]"
    head = '{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1","request":{"uid":"u-1"'
    tracemalloc.start()
    try:
        with pytest.raises(MalformedError, match="more than"):
            review.review(f'{{"a":{many}}}'.encode(), complete)
        answered, decision = review.review(f'{head},"object":{{"a":{many}}}}}}}'.encode(), complete)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (json.loads(answered)["response"]["uid"], decision) == ("u-1", "refused")
    assert peak < 2 * 2**20 + 4 * len(many)


def described(size: int) -> bytes:
    new = deployment(model="https://example.com/model.joblib")
    new["metadata"]["annotations"]["note"] = "n" * size
    return body(new)


def test_what_is_not_even_parsed_is_answered_whatever_its_uid_is_made_of() -> None:
    head = b'{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1","request":{"uid":"u-\xff"'
    answered, decision = review.review(head + b',"object":[' + b"{}," * (parsing.MAX_OBJECTS + 1) + b"{}]}}", complete)
    assert (json.loads(answered)["response"]["uid"], decision) == ("u-\ufffd", "refused")


@pytest.mark.attack(11)
def test_annotations_that_would_grow_beyond_their_bound_are_refused_by_us() -> None:
    assert "patch" in respond(described(MAX_ANNOTATION_BYTES - 8 * 1024))
    response = respond(described(MAX_ANNOTATION_BYTES - 100))
    assert response["status"]["message"].startswith("TooLarge: metadata.annotations: ")
    assert "256 KiB" in response["status"]["message"]


def forged(number: int, step: int, width: int) -> bytes:
    """A record that claims for us every ``step``-th after the first of so many variables of a user's own container."""
    variables = [{"name": f"A{index}", "value": "v" * width} for index in range(number)]
    place = "/spec/template/spec/containers/name=own/env/name="
    record = {f"{place}{each['name']}": overlay.digest(each) for each in variables[1::step]}
    new = deployment(model="https://example.com/model.joblib", filled=json.dumps(record))
    containers = [{"name": "own", "image": "example.com/own:1", "ports": [{"containerPort": 8080}], "env": variables}]
    return body(new | {"spec": {"template": {"spec": {"containers": containers}}}})


@pytest.mark.attack(11)
@pytest.mark.parametrize(("number", "step", "width"), [(10_500, 1, 1), (4_000, 2, 600)], ids=["operations", "bytes"])
def test_a_patch_that_an_object_makes_grow_is_refused(
    number: int, step: int, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve_core.base.bounds.MAX_ANNOTATION_BYTES", 2**30)
    assert "patch" in respond(forged(number // 20, step, width))
    assert respond(forged(number, step, width))["status"]["message"].startswith("TooLarge: metadata: ")


@pytest.mark.attack(14)
@pytest.mark.parametrize("scheme", sorted(SCHEMES.keys() - {"pvc"}))
def test_no_address_is_asked_for_where_a_model_is(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    for name in ("getaddrinfo", "gethostbyname", "create_connection", "socket"):
        monkeypatch.setattr(socket, name, lambda *arguments, **_: asked.append(arguments))
    new = deployment(model=SCHEMES[scheme], format="sklearn")
    assert respond(body(new))["allowed"]
    review.review(body(new), lambda asked: validation.validate(asked, FACTS, (), NOW, lambda *_: None))
    assert asked == []
