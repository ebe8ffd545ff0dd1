"""What policies compare: quantities, images, sources, names and expressions."""

import fnmatch
import re
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

import model_uri
from serve_core.policy import expressions
from serve_core.policy.expressions import ExpressionError, Values
from serve_core.policy.matching import selects
from serve_core.policy.v1alpha1 import Selector
from serve_core.syntax import image_reference, quantity
from serve_core.syntax.glob import matches, may_begin
from serve_core.syntax.image_reference import Image
from support import cpu_time


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1", 1), (4, 4), ("0.5", Fraction(1, 2)), (0.5, Fraction(1, 2)), (".5", Fraction(1, 2)), ("5.", 5),
        ("500m", Fraction(1, 2)), ("100n", Fraction(1, 10**7)), ("1Ki", 1024), ("1.5Gi", 1536 * 2**20), ("2k", 2000),
        ("1E", 10**18), ("1e3", 1000), ("1E3", 1000), ("12e-1", Fraction(6, 5)), ("-1", -1), ("+1", 1), ("1Ei", 2**60),
    ],
)  # fmt: skip
def test_quantities_are_what_kubernetes_takes_them_for(text: object, number: object) -> None:
    assert quantity.parse(text) == number


@pytest.mark.parametrize(
    "text",
    ["", " 1", "1 ", "1K", "1GI", "1gi", "1e", "1e999", "0x1", "1,5", "NaN", "inf", "--1", "١", "1" * 200, True, None],
)
def test_an_invalid_quantity_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="not a quantity"):
        quantity.parse(text)


@given(st.fractions(min_value=0, max_value=2**62).map(lambda f: Fraction(round(f * 1000), 1000)))
def test_a_quantity_that_is_written_is_read_again(number: Fraction) -> None:
    assert quantity.parse(quantity.text(number)) == number


DIGEST = "sha256:" + "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"


@pytest.mark.parametrize(
    ("text", "image"),
    [
        ("python", Image("docker.io", ("library", "python"))),
        ("python:3.11", Image("docker.io", ("library", "python"), "3.11")),
        ("index.docker.io/python", Image("docker.io", ("library", "python"))),
        ("ml/server", Image("docker.io", ("ml", "server"))),
        ("ghcr.io/ml/server:1", Image("ghcr.io", ("ml", "server"), "1")),
        ("GHCR.io/ml/server", Image("ghcr.io", ("ml", "server"))),
        ("ghcr.io:443/ml/server", Image("ghcr.io", ("ml", "server"))),
        ("registry.hub.docker.com/ml/server", Image("docker.io", ("ml", "server"))),
        ("127.1:5000/server", Image("127.0.0.1:5000", ("server",))),
        ("[::FFFF:7f00:1]:5000/server", Image("127.0.0.1:5000", ("server",))),
        ("localhost/server", Image("localhost", ("server",))),
        ("Localhost/server", Image("localhost", ("server",))),
        ("host:443/server", Image("host:443", ("server",))),
        ("host:5000/server:1", Image("host:5000", ("server",), "1")),
        (f"ghcr.io/ml/server:1@{DIGEST}", Image("ghcr.io", ("ml", "server"), "1", DIGEST)),
    ],
)
@pytest.mark.attack(13)
def test_images_are_read_as_the_runtime_does(text: str, image: Image) -> None:
    assert image_reference.parse(text) == image


@pytest.mark.parametrize(
    "text", ["", "a b", "-a", "a/../b", "a//b", "a:", "a@sha256:1", "https://a/b", "a\n", "ａ", "A/b/", "a" * 600]
)
@pytest.mark.attack(12)
def test_an_invalid_image_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not an image reference"):
        image_reference.parse(text)


@pytest.mark.parametrize("text", ["Host/server", "HOST/ml/server:1"])
@pytest.mark.attack(13)
def test_a_registry_without_a_dot_or_port_is_no_name_at_docker_hub(text: str) -> None:
    """Container runtimes take an upper-case name for a host. In lower case, it would be a name at Docker Hub."""
    with pytest.raises(ValueError, match="not a host name"):
        image_reference.parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "", "models", "S3://models", "s3:/models", "s3://models/a/../b", "s3://models/a/%2e%2e/b", "s3://models//a",
        "s3://models/a%2fb", "s3://models/%252e", "s3://user@models/a", "hf://qwen@evil/qwen3", "https://models:x/a", "https://host/a?b",
        "https://host/a#b", "https://host\\@evil/a", "https://ho%73t/a", "https://höst/a", "https://host\u202e/a",
        "s3://mod els/a", "s3://models/a\n", "s3://models/a\x00", "https://$(HOST)/a", "s3://models/$(NAME)", "s3://models/é",
        "s3://models/%00", "s3://models/a%0ab", "s3://models/%e2%80%ae", "https://[::1/a", "https:///a", f"oci://ghcr.io/ml/iris@{DIGEST[:-1]}",
    ],
)  # fmt: skip
@pytest.mark.attack(12)
def test_an_ambiguous_source_is_not_compared(text: str) -> None:
    with pytest.raises(ValueError, match=r"^(it|\")"):
        model_uri.parse(text)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("https://Models.Example.com/a", "https://models.example.com:443/a/"),
        ("https://models.example.com./a", "https://models.example.com/a"),
        ("http://models.example.com:80/a", "http://models.example.com/a"),
        ("s3://models/%61", "s3://models/a"),
    ],
)
@pytest.mark.attack(12)
def test_two_spellings_of_one_place_are_one_source(one: str, other: str) -> None:
    assert model_uri.parse(one) == model_uri.parse(other)


@pytest.mark.parametrize(
    ("place", "source", "inside"),
    [
        ("s3://models", "s3://models/a", True),
        ("s3://models/a", "s3://models/a", True),
        ("s3://models/a", "s3://models/ab", False),
        ("s3://*", "s3://anything/a", True),
        ("https://*.example.com", "https://a.b.example.com/x", True),
        ("https://*.example.com", "https://example.com/x", False),
        ("https://*.example.com", "https://evil-example.com/x", False),
        ("https://*.example.com", "http://a.example.com/x", False),
        ("s3://models", "gs://models/a", False),
        ("https://example.com", "https://example.com:8443/x", False),
        ("https://example.com:8443", "https://example.com/x", False),
        ("https://[::1]/a", "https://[::1]/a/b", True),
        ("oci://ghcr.io/ml", f"oci://ghcr.io/ml/iris@{DIGEST}", True),
        ("hf://qwen", "hf://qwen/qwen3@main", True),
        ("file:///srv", "file:///srv/model", True),
    ],
)
@pytest.mark.attack(13)
def test_a_place_holds_what_is_below_it(place: str, source: str, inside: bool) -> None:
    assert model_uri.parse_place(place).holds(model_uri.parse(source)) is inside


@pytest.mark.parametrize(
    ("text", "immutable"),
    [
        (f"oci://ghcr.io/ml/iris@{DIGEST}", True),
        (f"oci://ghcr.io/ml/iris:1@{DIGEST}", True),
        ("oci://ghcr.io/ml/iris:1", False),
        ("hf://qwen/qwen3@" + "0a" * 20, True),
        ("hf://qwen/qwen3:" + "0a" * 20 + "/model.gguf", True),
        ("hf://qwen/qwen3@main", False),
        ("hf://qwen/qwen3@" + "0a" * 21, False),
        (f"https://example.com/iris@{DIGEST}", False),
        (f"s3://models/iris@{DIGEST}", False),
    ],
)
def test_immutable_uris_are_recognised(text: str, immutable: bool) -> None:
    assert model_uri.parse(text).is_immutable is immutable


@pytest.mark.parametrize(
    ("requirement", "selected"),
    [
        ({"operator": "In", "values": ["prod", "test"]}, ["prod"]),
        ({"operator": "NotIn", "values": ["prod", "test"]}, ["dev", None]),
        ({"operator": "Exists"}, ["prod", "dev"]),
        ({"operator": "DoesNotExist"}, [None]),
    ],
)
def test_labels_are_selected_as_kubernetes_does(requirement: dict[str, object], selected: list[str | None]) -> None:
    selector = TypeAdapter(Selector).validate_python({"matchExpressions": [{"key": "tier"} | requirement]})
    labels: list[dict[str, str]] = [{"tier": "prod"}, {"tier": "dev"}, {}]
    assert [each.get("tier") for each in labels if selects(selector, each)] == selected


@pytest.mark.attack(13)
@pytest.mark.parametrize(
    ("image", "repository", "inside"),
    [
        ("registry.io/org/a:1", "registry.io/org", True),
        ("registry.io/org-evil/a:1", "registry.io/org", False),
        ("registry.io.evil.example/org/a", "registry.io/org", False),
        ("evil.example/registry.io/org/a", "registry.io/org", False),
        ("registry.io:5000/org/a", "registry.io/org", False),
        ("org/a", "docker.io/org", True),
        ("org/a", "registry.io/org", False),
        ("python", "docker.io/library", True),
        (f"registry.io/org/a:1@{DIGEST}", "registry.io/org/a", True),
    ],
)
def test_an_image_is_below_a_repository_by_whole_segments(image: str, repository: str, inside: bool) -> None:
    assert (
        image_reference.is_below(image_reference.parse(image), image_reference.parse_repository(repository)) is inside
    )


@given(st.text("ab.*", max_size=12), st.text("ab.*", max_size=8))
def test_patterns_mean_what_fnmatch_means(name: str, pattern: str) -> None:
    assert matches(name, pattern) == (re.fullmatch(fnmatch.translate(pattern), name) is not None)


@pytest.mark.attack(18)
@given(st.text("ab", max_size=4), st.text("ab", max_size=4), st.text("ab*", max_size=6))
def test_a_prefix_rules_a_pattern_out_only_if_no_name_with_it_could_match(prefix: str, rest: str, pattern: str) -> None:
    assert may_begin(pattern, prefix) or not matches(prefix + rest, pattern)


@pytest.mark.parametrize(("pattern", "prefix"), [("PYTHONPATH", "APP_"), ("HF_*", "APP_"), ("A", "AB")])
def test_a_prefix_rules_out_what_begins_otherwise(pattern: str, prefix: str) -> None:
    assert not may_begin(pattern, prefix)


def test_a_pattern_of_many_stars_is_cheap() -> None:
    with cpu_time.at_most(1):
        assert not matches("a" * 100_000, "*a" * 100 + "b")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("object.items.all(x, object.items.all(y, x + y >= 0))", "Iteration budget exceeded"),
        ("(" * 100 + "true" + ")" * 100, "recursion"),
        ("true || " * 300 + "true", "longer than 2048 characters"),
    ],
)
@pytest.mark.attack(18)
def test_an_expression_that_would_cost_too_much_is_stopped(text: str, why: str) -> None:
    with cpu_time.at_most(1), pytest.raises(ExpressionError, match=why):
        expressions.holds(text, Values(object={"items": list(range(20_000))}, subject={}))


@pytest.mark.attack(18)
def test_an_expression_sees_no_object_larger_than_512_kib() -> None:
    with pytest.raises(ExpressionError, match="larger than 512 KiB"):
        expressions.holds("true", Values(object={"a": "a" * 600_000}, subject={}))


@pytest.mark.attack(18)
def test_a_regular_expression_takes_linear_time() -> None:
    values = Values(object={"a": "a" * 100_000 + "!"}, subject={})
    with cpu_time.at_most(1):
        assert not expressions.holds("object.a.matches('^(a+)+$')", values)


@pytest.mark.parametrize("value", ["a\x00b", {"k\x00": 1}, "\ud800", 2**80])
def test_values_that_the_binding_changes_are_not_judged(value: object) -> None:
    with pytest.raises(ExpressionError):
        expressions.holds("object.a == 'a'", Values(object={"a": value}, subject={}))


def test_a_backslash_before_the_letters_of_a_nul_is_no_nul() -> None:
    assert expressions.holds("object.a != ''", Values(object={"a": "\\u0000"}, subject={}))
