"""YAML of others: what stays small, and what is stopped before it grows."""

import pytest
from yaml import YAMLError

from kubectl_serve.errors import ServeError
from kubectl_serve.io import documents
from serve_core.base import yaml
from serve_core.context import istio
from support import cpu_time


def laughs(line: str) -> str:
    """Nine lines, each of which stands nine times for the one before it."""
    nine = ["&a0 {x: 1}", *(f"&a{i} {line.format(','.join([f'*a{i - 1}'] * 9))}" for i in range(1, 10))]
    return "".join(f"k{i}: {text}\n" for i, text in enumerate(nine))


BOMBS = {
    "aliases of aliases": laughs("[{}]"),
    "merge keys of merge keys": laughs("{{<<: [{}]}}"),
    "an alias in itself": "a: &a [1, *a]\n",
}


@pytest.mark.attack(21)
@pytest.mark.parametrize("text", BOMBS.values(), ids=BOMBS.keys())
def test_aliases_that_explode_are_stopped_before_they_do(text: str) -> None:
    with cpu_time.at_most(5):
        with pytest.raises(YAMLError, match="alias"):
            yaml.load(text)
        with pytest.raises(ServeError, match="alias"):
            list(documents.parse(text, "bomb.yaml"))
        assert istio._document(text) is None


@pytest.mark.attack(21)
def test_no_tag_makes_an_object_of_python() -> None:
    with pytest.raises(YAMLError):
        yaml.load("!!python/object/apply:os.getcwd []")


def test_aliases_are_understood_as_people_use_them() -> None:
    text = "base: &base {cpu: 1, memory: 1Gi}\na: {<<: *base, cpu: 2}\nb: [*base, *base]\nc: 'a & b * c'\n"
    base = {"cpu": 1, "memory": "1Gi"}
    assert yaml.load(text.encode()) == {"base": base, "a": base | {"cpu": 2}, "b": [base, base], "c": "a & b * c"}


def test_what_stands_for_much_may_be_said_a_few_times() -> None:
    """The bound is on what aliases add, whatever the text itself says."""
    many = "a: &a [" + "x," * (yaml.MAX_ALIASED - 10) + "]\n"
    yaml.check_aliases(many + "b: *a\n")
    with pytest.raises(YAMLError, match="more than 100,000 values"):
        yaml.check_aliases(many + "b: [*a, *a]\n")
