"""The token that a container takes for the hub from a Secret, whatever its key and variable are called."""

from typing import Any

import pytest

from serve_core.workload import hub_access
from serve_core.workload.hub_access import SecretKey


def variable(name: str, /, **reference: Any) -> dict[str, Any]:
    return {"name": name, "valueFrom": {"secretKeyRef": reference}}


@pytest.mark.parametrize(
    "name", ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_TOKEN", "HUGGINGFACEHUB_API_TOKEN"]
)
def test_a_token_is_found_under_any_key(name: str) -> None:
    container = {"env": [{"name": "A", "value": "b"}, variable(name, name="hub", key="my.token")]}
    assert hub_access.token(container) == SecretKey("hub", "my.token")


def test_the_librarys_own_variable_comes_first() -> None:
    env = [variable("HUGGINGFACE_TOKEN", name="a", key="a"), variable("HF_TOKEN", name="b", key="b", optional=True)]
    assert hub_access.token({"env": env}) == SecretKey("b", "b", True)


@pytest.mark.parametrize(
    "env",
    [
        [],
        None,
        "HF_TOKEN",
        [1, {}, {"name": "HF_TOKEN"}],
        [{"name": "HF_TOKEN", "value": "hf_plain"}],
        [{"name": "HF_TOKEN", "valueFrom": {"configMapKeyRef": {"name": "a", "key": "b"}}}],
        [variable("API_KEY", name="a", key="b")],
        [variable("HF_TOKEN_PATH", name="a", key="b")],
        [variable("HF_TOKEN", name="", key="b")],
        [variable("HF_TOKEN", name="a", key=1)],
        [variable("HF_TOKEN", name="a", key="b", optional="yes")],
        [variable("HF_TOKEN", name="a", key="b", more=1)],
        [{**variable("HF_TOKEN", name="a", key="b"), "value": ""}],
    ],
)
def test_nothing_else_is_one(env: Any) -> None:
    assert hub_access.token({"env": env}) is None
    assert hub_access.token(None) is None
