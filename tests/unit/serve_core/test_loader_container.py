"""The loader, rendered and known again."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from model_uri.file_patterns import parse_patterns
from serve_core.api.models import parse_all
from serve_core.base.constants import LOADER_CONTAINER
from serve_core.base.json import JsonObject
from serve_core.context.cluster import LoaderConfig
from serve_core.workload import loader_container
from serve_core.workload.hub_access import SecretKey
from serve_core.workload.loader_container import LoaderRequest
from support.golden import GOLDEN

RENDERED = sorted(
    path
    for path in (GOLDEN / "admission").glob("*/*.yaml")
    if path.name in ("deployment.yaml", "service.yaml") and f"name: {LOADER_CONTAINER}\n" in path.read_text()
)
BY_THE_USER = {"loader-environment"}
"""Cases whose user wrote into the loader."""


def pod_of(path: Path) -> JsonObject:
    pod: JsonObject = yaml.safe_load(path.read_text())["spec"]["template"]["spec"]
    return pod


@pytest.mark.parametrize("path", RENDERED, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_what_is_filled_in_is_known_again(path: Path) -> None:
    pod = pod_of(path)
    container = next(each for each in pod["initContainers"] if each["name"] == LOADER_CONTAINER)
    words = container["args"]
    networks = tuple(value for word, value in pairwise(words) if word == "--allow-network")
    found = loader_container.read(container, pod, [LoaderConfig(container["image"], networks)])
    if path.parent.name in BY_THE_USER:
        assert found == "env[HTTPS_PROXY]"
        return
    assert isinstance(found, LoaderRequest)
    resources = {"resources": container["resources"]}
    assert loader_container.render(found) | resources == container


def container(**fields: Any) -> tuple[JsonObject, JsonObject]:
    models, _ = parse_all("s3://models/a", "")
    request = LoaderRequest("example.com/loader:1", models, ("10.0.0.0/8",))
    return loader_container.render(request) | fields, {"volumes": loader_container.volumes(request)}


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"args": ["--volume", "/mnt/model-volume", "--", "s3://a/b"]}, "args"),
        ({"image": "example.com/loader:2"}, "image"),
        ({"command": ["sh"]}, "command"),
        ({"env": [{"name": "NO_PROXY", "value": "a"}]}, "env[NO_PROXY]"),
        ({"volumeMounts": []}, "volumeMounts"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_it_is_said_which_field_is_another(fields: JsonObject, field: str) -> None:
    found, pod = container(**fields)
    assert loader_container.read(found, pod, [LoaderConfig("example.com/loader:1", ("10.0.0.0/8",))]) == field


def test_an_empty_field_is_none() -> None:
    found, pod = container(env=[], command=None, workingDir="", ports=[], lifecycle={})
    loaders = [LoaderConfig("example.com/loader:1", ("10.0.0.0/8",))]
    assert isinstance(loader_container.read(found, pod, loaders), LoaderRequest)


def test_an_older_loader_that_is_known_is_one_as_well() -> None:
    found, pod = container()
    older, present = LoaderConfig("example.com/loader:1", ("10.0.0.0/8",)), LoaderConfig("example.com/loader:2")
    assert isinstance(loader_container.read(found, pod, [present, older]), LoaderRequest)
    mixed = LoaderConfig("example.com/loader:1", ("0.0.0.0/0",))
    assert loader_container.read(found, pod, [present, mixed]) == "args"


LOADERS = [LoaderConfig("example.com/loader:1", ("10.0.0.0/8",))]
TOKEN: JsonObject = {"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hub", "key": "k"}}}


def with_hub(**fields: Any) -> LoaderRequest | str:
    """What is read of a loader with the hub's cache and token, and with these ``fields`` of its container."""
    models, _ = parse_all("hf://acme/tiny", "")
    wanted = LoaderRequest(
        "example.com/loader:1", models, ("10.0.0.0/8",), hub_cache=True, token=SecretKey("hub", "k", optional=None)
    )
    found = loader_container.render(wanted) | fields
    read = loader_container.read(found, {"volumes": loader_container.volumes(wanted)}, LOADERS)
    return "as rendered" if read == wanted else read


def test_the_hubs_cache_and_token_are_known_again() -> None:
    assert with_hub() == "as rendered"
    found = with_hub(env=[TOKEN, {"name": "AWS_REGION", "value": "eu-west-1"}])
    assert found == "as rendered"


@pytest.mark.attack(27)
@pytest.mark.parametrize(
    "env",
    [
        [TOKEN, TOKEN],
        [{"name": "HF_TOKEN", "value": "hf_other"}],
        [{**TOKEN, "value": "hf_other"}],
        [{"name": "HF_TOKEN", "valueFrom": {"configMapKeyRef": {"name": "a", "key": "b"}}}],
        [{"name": "HF_ENDPOINT", "valueFrom": {"secretKeyRef": {"name": "hub", "key": "k"}}}],
        [TOKEN, {"name": "HF_ENDPOINT", "value": "https://hub.example"}],
        [TOKEN, {"name": "HUGGINGFACE_TOKEN", "valueFrom": TOKEN["valueFrom"]}],
    ],
)
def test_another_variable_than_the_token_from_a_secret_is_strange(env: list[JsonObject]) -> None:
    assert str(with_hub(env=env)).startswith("env[HF_") or with_hub(env=env) == "env[HUGGINGFACE_TOKEN]"


@pytest.mark.attack(27)
@pytest.mark.parametrize(
    "args",
    [
        ["--hub-cache", "--volume", "/mnt/model-volume", "--allow-network", "10.0.0.0/8"],
        ["--volume", "/mnt/model-volume", "--allow-network", "10.0.0.0/8", "--hub-cache", "--hub-cache"],
        ["--volume", "/mnt/model-volume", "--allow-network", "10.0.0.0/8", "--hub-cache=/x"],
        ["--volume", "--hub-cache", "/mnt/model-volume", "--allow-network", "10.0.0.0/8"],
        ["--volume", "/mnt/model-volume", "--allow-network", "10.0.0.0/8", "--hub-cache", "/x"],
    ],
)
def test_the_option_stands_where_it_is_rendered(args: list[str]) -> None:
    assert with_hub(args=[*args, "--", "hf://acme/tiny"]) == "args"


def with_files(files: str | None, *args: str) -> LoaderRequest | str:
    """What is read of a loader of these files, or of one with these ``args``."""
    models, _ = parse_all("hf://acme/tiny/a.gguf@main", "")
    patterns = None if files is None else parse_patterns(files)
    wanted = LoaderRequest("example.com/loader:1", models, ("10.0.0.0/8",), files=patterns)
    found = loader_container.render(wanted) | ({"args": list(args)} if args else {})
    read = loader_container.read(found, {"volumes": loader_container.volumes(wanted)}, LOADERS)
    return "as rendered" if read == wanted else read


@pytest.mark.parametrize("files", ["*", "*.json !original/* *.safetensors", "[!a]* é/?", None])
def test_the_patterns_of_files_are_known_again(files: str | None) -> None:
    assert with_files(files) == "as rendered"


@pytest.mark.attack(27)
@pytest.mark.parametrize(
    "words",
    [
        ["--files"], ["--files", ""], ["--files", " *"], ["--files", "!a *"], ["--files", "* *"], ["--files", "a,b"],
        ["--files", "--no-digest"], ["--files", "--store"], ["--files", "$(HF_TOKEN)"], ["--files=*"], ["--file", "*"],
        ["--files", "*", "--files", "*"], ["--files", "../*"], ["--files", "*", "--hub-cache", "--hub-cache"],
        ["--no-digest"], ["--files", "*", "--no-digest"],
    ],
)  # fmt: skip
def test_other_arguments_about_files_are_not_the_loaders(words: list[str]) -> None:
    before = ["--volume", "/mnt/model-volume", "--allow-network", "10.0.0.0/8"]
    assert with_files("*", *before, "--files", "*", "--", "hf://acme/tiny/a.gguf@main") == "as rendered"
    assert with_files("*", *before, *words, "--", "hf://acme/tiny/a.gguf@main") == "args"
