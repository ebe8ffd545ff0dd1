"""What a container's words say: flags, ports, paths and repositories, in every form that people write."""

from typing import Any

import pytest

from serve_core.workload import command_line
from serve_core.workload.command_line import port_of
from support.growth import superlinear


def line(*args: str, **env: str) -> command_line.CommandLine:
    return command_line.read({"args": list(args), "env": [{"name": key, "value": value} for key, value in env.items()]})


@pytest.mark.parametrize(
    ("args", "value"),
    [
        (["--port", "9500"], "9500"),
        (["--port=9500"], "9500"),
        (["serve --port 9500"], "9500"),
        (["exec serve --port=9500 && true"], "9500"),
        (["--port", "1", "--port", "2"], "2"),
        (["serve \\\n  --port \\\n 9500"], "9500"),
        (["--ports", "9500"], None),
        (["--port"], None),
        ([], None),
    ],
)
def test_a_flag_has_the_last_value_that_is_written(args: list[str], value: str | None) -> None:
    assert line(*args).flag("--port") == value


def test_variables_that_are_written_are_replaced() -> None:
    assert line("--port=$(PORT)", PORT="9500").flag("--port") == "9500"
    assert line("serve --port ${PORT}", PORT="9500").flag("--port") == "9500"
    assert line("serve --port $PORT", PORT="9500").flag("--port") == "9500"
    assert line("--port=$(OTHER)", PORT="9500").flag("--port") == "$(OTHER)"


@pytest.mark.parametrize(
    ("text", "port"),
    [
        ("8000", 8000), ("0.0.0.0:8000", 8000), (":8000", 8000), ("[::]:8000", 8000), ("http://0.0.0.0:8000/", None),
        ("0", None), ("65536", None), ("80a", None), ("", None), (None, None), ("٨٠", None),
    ],
)  # fmt: skip
def test_a_port_is_read_with_or_without_a_host(text: str | None, port: int | None) -> None:
    assert port_of(text) == port


@pytest.mark.parametrize(
    ("container", "names"),
    [
        ({"args": ["--model", "/mnt/models"]}, True),
        ({"args": ["--model=/mnt/models/"]}, True),
        ({"args": ["--model=/mnt/models/model.gguf"]}, True),
        ({"args": ["exec serve '/mnt/models' --port 1"]}, True),
        ({"args": ["--model=file:///mnt/models"]}, True),
        ({"args": ["name:/mnt/models,other"]}, True),
        ({"env": [{"name": "MODEL_ID", "value": "/mnt/models"}]}, True),
        ({"workingDir": "/mnt/models"}, True),
        ({"args": ["--model=$(DIR)/x"], "env": [{"name": "DIR", "value": "/mnt/models"}]}, True),
        ({"args": ["--model=/mnt/models-old"]}, False),
        ({"args": ["--model=/data/mnt/models"]}, False),
        ({"args": ["--model=acme/tiny"]}, False),
        ({}, False),
        ({"args": "no list", "env": [1, {"name": 2}], "command": [None, {}], "workingDir": 3}, False),
    ],
)
def test_a_path_is_named_as_a_whole(container: dict[str, Any], names: bool) -> None:
    assert command_line.read(container).names_path("/mnt/models") is names


@pytest.mark.parametrize(
    ("container", "names"),
    [
        ({"args": ["--model", "acme/tiny"]}, True),
        ({"args": ["--model=Acme/Tiny"]}, True),
        ({"args": ["serve acme/tiny --port 1"]}, True),
        ({"args": ["--model=acme/tiny@main"]}, True),
        ({"env": [{"name": "MODEL_ID", "value": "acme/tiny"}]}, True),
        ({"args": ["--model=acme/tiny-chat"]}, False),
        ({"args": ["--model=acme/tiny.v2"]}, False),
        ({"args": ["--model=hub/acme/tiny"]}, False),
        ({"args": ["--model=/data/acme/tiny"]}, False),
    ],
)
def test_a_repository_is_named_as_a_whole(container: dict[str, Any], names: bool) -> None:
    assert command_line.read(container).names_repository("acme/tiny") is names


@pytest.mark.attack(22)
@pytest.mark.parametrize("text", ["$(A", "$(A)", "a=", "$A", "/mnt/models-", "acme/tiny-", "' ", "${A}"])
def test_reading_is_linear(text: str) -> None:
    def read(written: str) -> None:
        found = command_line.read({"args": [written], "env": [{"name": "A", "value": written}]})
        found.flag("--port")
        found.names_path("/mnt/models")
        found.names_repository("acme/tiny")

    assert not superlinear(read, lambda length: text * (length // len(text) + 1))


@pytest.mark.attack(22)
@pytest.mark.parametrize("word", ["$(A)$(A) ", "$(A)" * 8 + " ", "$A ", "${A}x "])
def test_values_that_multiply_are_bounded(word: str) -> None:
    env = [{"name": "A", "value": "x" * 60_000}]
    found = command_line.read({"args": [word * 50_000], "env": env})
    assert sum(map(len, found.words)) < 100_000


@pytest.mark.attack(22)
def test_variables_of_a_long_script_are_replaced() -> None:
    script = "export A=$(DIR)\n" * 500 + "exec serve --model $(DIR)/x --port $(PORT)"
    assert line(script, DIR="/mnt/models", PORT="9500").flag("--port") == "9500"
