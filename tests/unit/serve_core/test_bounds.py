"""Sizes first: what an object may have, and that nothing which reads a text takes more than linear time."""

import contextlib
import functools
import re
from collections.abc import Callable
from typing import Any

import pytest

import model_uri
import serve_core
from serve_core.admission.decide import judge, render_stored
from serve_core.api import annotations, models, serving_spec
from serve_core.base import bounds
from serve_core.base.json import JsonObject
from serve_core.base.reasons import MAX_PROBLEMS, Diagnostic, capped, diagnostic
from serve_core.context.cluster import ClusterContext, LoaderConfig
from serve_core.context.services import ServiceSummary
from serve_core.syntax import duration, image_reference, quantity
from serve_core.syntax.glob import matches, may_begin
from support.growth import alphabet, families, patterns, superlinear

FACTS = ClusterContext(LoaderConfig("loader:1"))


def deployment(**more: Any) -> JsonObject:
    notes = {"kubectl-serve.dev/model": "s3://models/a.joblib"}
    pod = {"containers": [{"name": "server", "image": "example.com/server:1", "ports": [{"containerPort": 8080}]}]}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "iris", "annotations": notes},
        "spec": {"template": {"spec": pod}, **more},
    }


TOO_LARGE: dict[str, Any] = {
    "more than 5,000 values": [0] * 5_000,
    "more than 5,000 values in it": [[] for _ in range(5_000)],
    "more than 5,000": {f"k{number}": 1 for number in range(5_000)},
    "more than 512 KiB": "a" * (512 * 1024),
    "names and texts have more than 512 KiB": {"k" * (512 * 1024): 1},
    "texts have more than 512 KiB": ["a" * 600] * 1000,
    "more than 64 bits": [10**30],
    "a number in it has more than 64 bits": -(10**5000),
}


@pytest.mark.parametrize("why", TOO_LARGE)
@pytest.mark.attack(22)
def test_an_object_beyond_the_bounds_is_refused_whoever_reads_it(why: str) -> None:
    large = deployment(paused=TOO_LARGE[why])
    for verdict in (judge(large, FACTS), render_stored(large, FACTS)):
        (found,) = verdict.problems
        assert (found.code, found.path) == ("TooLarge", "metadata")
        assert why in found.message
        assert "ConfigMap" in found.hint


@pytest.mark.parametrize("place", ["metadata", "spec.template.metadata"])
@pytest.mark.attack(22)
def test_no_object_has_so_many_labels_that_each_write_of_it_is_slow(place: str) -> None:
    many = deployment()
    at = many["metadata"] if place == "metadata" else many["spec"]["template"].setdefault("metadata", {})
    at["labels"] = {f"l{number}": "x" for number in range(250)}
    assert bounds.fault(many) is None
    at["labels"]["more"] = "x"
    (found,) = judge(many, FACTS).problems
    assert found.code == "TooLarge"
    assert "more than 250 labels" in found.message


def aliased(levels: int) -> list[Any]:
    """What a few lines of YAML's aliases stand for."""
    made: list[Any] = ["lol"]
    for _ in range(levels):
        made = [made] * 9
    return made


@pytest.mark.attack(21, 22)
def test_what_aliases_stand_for_counts_as_often_as_it_stands_there() -> None:
    (found,) = judge(deployment(paused=aliased(40)), FACTS).problems
    assert found.code == "TooLarge"


@pytest.mark.attack(22)
def test_managed_fields_count_for_nothing() -> None:
    large = deployment()
    fields: JsonObject = {"f:a": "a" * 2**20}
    for _ in range(5000):
        fields = {"f:a": fields}
    large["metadata"]["managedFields"] = [{"manager": "a", "fieldsV1": fields}]
    assert not judge(large, FACTS).refused


def test_an_object_as_large_as_they_get_is_let_through() -> None:
    """Sixty variables in each of twenty containers, and annotations as long as Kubernetes takes them."""
    made = deployment()
    made["metadata"]["annotations"]["kubectl.kubernetes.io/last-applied-configuration"] = "a" * 240 * 1024
    for index in range(20):
        variables = [{"name": f"A{number}", "value": "a" * 80} for number in range(60)]
        made["spec"]["template"]["spec"]["containers"].append(
            {"name": f"side-{index}", "image": "example.com/side:1", "env": variables}
        )
    assert bounds.fault(made) is None


KEY = "kubectl-serve.dev/"
MANY: dict[str, Callable[[], JsonObject]] = {
    "unknown annotations": lambda: {"metadata": {"annotations": {f"{KEY}u{index}": "" for index in range(4_000)}}},
    "annotations that are numbers": lambda: {"metadata": {"annotations": dict.fromkeys(map(str, range(4_000)), 1)}},
    "variables that are numbers": lambda: {"spec": {"template": {"spec": {"containers": [
        {"name": "server", "image": "a", "env": [1] * 4_000}]}}}},
    "fields that Knative has not": lambda: {"spec": {"template": {"spec": {"containers": [
        {"name": "server", "image": "example.com/a:1", **{f"f{index}": 1 for index in range(4_000)}}]}}}},
    "variables with fields that Knative has not": lambda: {"spec": {"template": {"spec": {"containers": [
        {"name": "server", "image": "example.com/a:1", "env": [{"name": f"A{i}", "b": 1} for i in range(1_500)]}]}}}},
    "containers without an image": lambda: {"spec": {"template": {"spec": {"containers": [
        {"name": "model-server", "image": "a/b:1"}, *({"name": f"c{index}"} for index in range(2_000))]}}}},
    "volumes that nobody mounts": lambda: {"spec": {"template": {"spec": {"volumes": [
        {"name": f"v{index}", "secret": {}} for index in range(1_200)], "containers": [
        {"name": "server", "image": "example.com/a:1"}]}}}},
    "keys that Knative does not know": lambda: {"spec": {"template": {"metadata": {"annotations": {
        f"autoscaling.knative.dev/k{index}": "" for index in range(4_000)}}, "spec": {"containers": [
        {"name": "server", "image": "example.com/a:1"}]}}}},
}  # fmt: skip


@pytest.mark.parametrize("what", MANY)
@pytest.mark.attack(11, 22)
def test_no_more_problems_are_made_than_are_said(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each would take time and memory, and the answer would be cut in the end."""
    made = 0

    def counted(made_one: Diagnostic, *values: str) -> None:
        nonlocal made
        made += 1
        original(made_one, *values)

    original = Diagnostic.__init__
    monkeypatch.setattr(Diagnostic, "__init__", counted)
    changes = MANY[what]()
    whole = deployment() | {key: value for key, value in changes.items() if key == "spec"}
    whole["metadata"]["annotations"] |= changes.get("metadata", {}).get("annotations", {})
    assert judge(whole, FACTS).refused
    assert MAX_PROBLEMS < made <= MAX_PROBLEMS + 10


@pytest.mark.attack(11, 22)
def test_services_of_thousands_of_ports_make_no_more_problems() -> None:
    """Anybody can make Services that select the pods."""
    ports = tuple("http" for _ in range(15_000))
    services = {"": {f"s{index}": ServiceSummary("", {"app": "iris"}, ports) for index in range(24)}}
    running = deployment(selector={"matchLabels": {"app": "iris"}})
    running["spec"]["template"]["spec"]["containers"][0]["ports"] = [{"name": "http", "containerPort": 80}]
    previous = {**running, "metadata": {"name": "iris"}}
    found = judge(running, ClusterContext(LoaderConfig("loader:1"), services=services), previous).problems
    assert MAX_PROBLEMS < len(found) <= MAX_PROBLEMS + 10


@pytest.mark.attack(11, 22)
def test_whatever_fills_a_message_is_cut() -> None:
    told = diagnostic("UnknownScheme", "p" * 2**20, scheme="s" * 2**20, allowed=["a" * 2**20], meant="")
    assert len(str(told)) < 5_000
    assert len(capped(told for _ in iter(int, 1))) == MAX_PROBLEMS + 1  # of endlessly many


@pytest.mark.parametrize("key", [each.key for each in annotations.USER if each.key != annotations.MODEL])
@pytest.mark.attack(22)
def test_an_annotation_is_not_looked_at_beyond_its_longest_value(key: str) -> None:
    found = serving_spec.read({annotations.MODEL: "s3://models/a.joblib", key: "1" * (annotations.MAX_LENGTH + 1)})[1]
    assert ("TooLarge", annotations.path_of(key)) in [(each.code, each.path) for each in found]


# --- Linear time


PATTERNS = patterns(serve_core) | patterns(model_uri)


def test_every_pattern_of_the_core_is_found() -> None:
    """In a module, in a table, closed over by a function, and where it is used without being kept."""
    assert {
        "serve_core.api.models._SPACE",
        "serve_core.syntax.quantity._QUANTITY",
        "model_uri.schemes.SCHEMES[s3][rule]",
    } <= set(PATTERNS)
    assert any(place.startswith("serve_core.api.annotations.USER[") for place in PATTERNS)
    assert any(place.startswith("serve_core.syntax.image_reference:") for place in PATTERNS)
    assert len(PATTERNS) > 50


def applied(pattern: re.Pattern[Any], method: str, text: str) -> None:
    said = text if isinstance(pattern.pattern, str) else text.encode()
    getattr(pattern, method)(*([said[:0]] if method.startswith("sub") else []), said)


@pytest.mark.parametrize("place", PATTERNS)
@pytest.mark.attack(18, 22)
def test_every_pattern_takes_linear_time(place: str) -> None:
    pattern, methods = PATTERNS[place]
    for method in methods:
        for made in families(alphabet(pattern.pattern)):
            act = functools.partial(applied, pattern, method)
            assert not superlinear(act, made), (method, made(20))


@pytest.mark.parametrize("expression", ["[0-9]+[0-9]*x", "(a+)+b", "(a|a)*b", "[^/@]*@"])
def test_a_pattern_that_tracks_back_would_be_seen(expression: str) -> None:
    pattern = re.compile(expression)
    method = pattern.search if "@" in expression else pattern.fullmatch
    assert any(superlinear(method, made) for made in families(alphabet(expression) + "0b"))


STARTS = (
    "",
    "s3://models/",
    "https://a/",
    "https://a",
    "oci://ghcr.io/",
    "hf://a/b@",
    "pvc://a/",
    "sha256:",
    "1e",
    "a=",
)


def swallowed(parse: Callable[[str], object]) -> Callable[[str], object]:
    def act(text: str) -> None:
        with contextlib.suppress(ValueError):
            parse(text)

    return act


MODEL = {annotations.MODEL: "s3://models/a.joblib"}


def read_one(key: str, text: str) -> object:
    return serving_spec.read({**MODEL, key: text})


PARSERS: dict[str, Callable[[str], object]] = {
    "models.parse": lambda text: models.parse(text, ""),
    "models.parse_all": lambda text: models.parse_all(text, ""),
    "model_uri.without_secrets": model_uri.without_secrets,
    "quantities.parse": swallowed(quantity.parse),
    "images.parse": swallowed(image_reference.parse),
    "images.parse_repository": swallowed(image_reference.parse_repository.__wrapped__),
    "model_uri.parse": swallowed(model_uri.parse),
    "model_uri.parse_model": swallowed(model_uri.parse_model),
    "model_uri.parse_place": swallowed(model_uri.parse_place.__wrapped__),
    "images.is_readable_by_knative": image_reference.is_readable_by_knative,
    "durations.parse": swallowed(duration.parse),
    "patterns.matches": lambda text: matches(text, "*a*b*c"),
    "patterns.matches of a pattern": lambda text: matches("abc" * 100, text + "*"),
    "patterns.may_begin": lambda text: may_begin(text, "a"),
    "annotations.read of a key": lambda text: serving_spec.read({**MODEL, KEY + text: ""}),
    **{f"annotations.read of {each.name}": functools.partial(read_one, each.key) for each in annotations.USER},
}


@pytest.mark.parametrize("parser", PARSERS)
@pytest.mark.attack(18, 22)
def test_every_parser_takes_linear_time(parser: str) -> None:
    for made in families("a9@/.:- \t%", STARTS if "annotations" not in parser else ("",)):
        assert not superlinear(PARSERS[parser], made), made(20)
