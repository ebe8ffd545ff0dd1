"""Golden cases: folders of inputs and reviewed outputs. ``tests/golden/README.md`` has the convention."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import yaml

from serve_core.admission.decide import Verdict
from serve_core.api.runtimes import Runtime, parse
from serve_core.base.json import JsonObject
from serve_core.context.cluster import LoaderConfig
from support.paths import ROOT

GOLDEN = ROOT / "tests/golden"
INPUTS = frozenset(
    {
        "input.yaml",
        "previous.yaml",
        "features.yaml",
        "autoscaler.yaml",
        "defaults.yaml",
        "drivers.yaml",
        "istio.yaml",
        "policies.yaml",
        "services.yaml",
        "neighbours.yaml",
        "namespaces.yaml",
    }
)
OUTPUTS = frozenset({"deployment.yaml", "service.yaml", "extras.yaml", "messages.txt", "screen.txt", "expected.txt"})
LOADER = LoaderConfig("example.com/model-loader:1", signing_image="example.com/model-loader:1-signing")


def cases(tree: str) -> list[Path]:
    """The case folders of a tree, by name."""
    return sorted(file.parent for file in (GOLDEN / tree).glob("*/input.yaml"))


def input_of(case: Path) -> str:
    """The text of the case's ``input.yaml``, whose first line is a comment that says why the case exists."""
    text = (case / "input.yaml").read_text()
    assert text.startswith("# "), "the first line says why the case exists"
    return text


def optional(case: Path, name: str) -> str | None:
    """The text of a file that a case can have."""
    file = case / name
    return file.read_text() if file.exists() else None


def compare(case: Path, made: Mapping[str, str | None]) -> None:
    """Assert that the outputs are the reviewed ones; with ``UPDATE_GOLDEN=1`` in the environment, write them first.

    ``made`` maps a file name to its text. An output that is None or not in ``made`` must not exist.
    """
    made = dict.fromkeys(sorted(OUTPUTS)) | dict(made)
    if os.environ.get("UPDATE_GOLDEN"):
        for name, text in made.items():
            if text is None:
                (case / name).unlink(missing_ok=True)
            else:
                (case / name).write_text(text)
    assert made == {name: optional(case, name) for name in made}


def runtime_files(folder: str = "tests/golden/runtimes") -> list[Path]:
    """The runtimes of a folder: by default the frozen ones, which all trees but ``catalogue`` use."""
    return sorted((ROOT / folder).glob("*.yaml"))


def runtimes(files: Iterable[Path]) -> tuple[Runtime, ...]:
    return tuple(parse(yaml.safe_load(file.read_text())) for file in files)


def outputs_of(verdict: Verdict) -> dict[str, str | None]:
    """What admission made of a Deployment, as the output files of a case."""
    messages = {"refused": verdict.problems, "warning": verdict.warnings, "chosen": verdict.explanations}
    return {
        "messages.txt": "".join(f"{kind} {each}\n" for kind, found in messages.items() for each in found),
        "deployment.yaml": _dump(verdict.deployment),
        "service.yaml": _dump(verdict.service),
        "extras.yaml": _dump(*verdict.extras),
    }


def _dump(*objects: JsonObject | None) -> str | None:
    found = [each for each in objects if each is not None]
    if len(found) == 1:
        return yaml.safe_dump(found[0], sort_keys=False, width=120)
    return yaml.safe_dump_all(found, sort_keys=False, width=120) if found else None
