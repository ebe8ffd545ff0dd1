"""The choice of the cluster: as in kubectl, from the same files and flags."""

import asyncio
import io
from pathlib import Path

import pytest

from kubectl_serve.cli import options
from kubectl_serve.cli.streams import Output, Streams
from kubectl_serve.cli.verbs import BY_NAME
from kubectl_serve.connection import connect


def written(folder: Path, name: str, current: str | None = None) -> Path:
    """A kubeconfig with one context, whose namespace has the context's name."""
    file = folder / f"{name}.yaml"
    file.write_text(
        f"clusters: [{{name: {name}, cluster: {{server: 'http://127.0.0.1:1'}}}}]\n"
        f"contexts: [{{name: {name}, context: {{cluster: {name}, namespace: {name}}}}}]\n"
        "users: []\n" + (f"current-context: {current}\n" if current is not None else "")
    )
    return file


def chosen(*files: Path, flags: tuple[str, ...] = ()) -> str:
    """The namespace of the context that is talked to."""
    parser = options.Parser(BY_NAME["get"])
    options.namespace(parser)
    options.connection(parser)
    streams = Streams(
        io.StringIO(), Output(io.StringIO()), Output(io.StringIO()), {"KUBECONFIG": ":".join(map(str, files))}
    )

    async def ask() -> str:
        async with connect(parser.read(flags), streams) as cluster:
            return cluster.namespace

    return asyncio.run(ask())


@pytest.mark.parametrize("first", ["one", None, ""])
def test_of_several_files_the_first_that_has_a_current_context_counts(tmp_path: Path, first: str | None) -> None:
    one, two = written(tmp_path, "one", first), written(tmp_path, "two", "two")
    assert chosen(one, two) == (first or "two")
    assert chosen(two, one) == "two"
    assert chosen(one, two, flags=("--context", "one")) == "one"


def test_a_file_that_is_empty_or_missing_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert chosen(tmp_path / "empty", tmp_path / "missing", written(tmp_path, "one", "one")) == "one"
