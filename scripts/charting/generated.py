"""All generated files of the chart, with their content."""

import json
import re
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from charting import templates, values
from kubectl_serve import __version__

CHART = "manifests/chart"
NOTE = "Written by scripts/chart"


def files(root: Path) -> dict[str, str]:
    """The files by path in the repository."""
    folder = root / "manifests"
    made = {f"{CHART}/templates/{each.name}": templates.text(each, folder) for each in templates.templates(__version__)}
    return made | {
        f"{CHART}/templates/25-catalogue.yaml": templates.catalogue(),
        f"{CHART}/templates/policies.yaml": templates.policies(folder),
        f"{CHART}/Chart.yaml": _chart(),
        f"{CHART}/values.yaml": _values(),
        f"{CHART}/values.schema.json": json.dumps(values.schema(), indent=2) + "\n",
        "docs/chart.md": _page(),
    }


def written(root: Path) -> list[Path]:
    """The templates that an earlier run wrote."""
    return [each for each in sorted((root / CHART / "templates").glob("*.yaml")) if NOTE in each.read_text()[:200]]


def _chart() -> str:
    return f"""\
# {NOTE}, with the version of plugin/kubectl_serve.
apiVersion: v2
name: kubectl-serve
description: Serve a model with one annotation on a Deployment. It becomes a Knative Service.
type: application
version: {__version__}
appVersion: {__version__}
kubeVersion: ">=1.30.0-0"
keywords: [knative, kserve, machine-learning, model-serving]
"""


def _values() -> str:
    head = f"# {NOTE} from scripts/charting/values.py and webhook/serve_webhook/settings.py: change those.\n"
    return head + "".join(_commented(values.schema()["properties"], values.defaults(), 0))


def _ordered(properties: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Switches and images first, as fields of a base class would be before them."""
    first = ("enabled", "image", "replicas")
    yield from ((name, properties[name]) for name in first if name in properties)
    yield from ((name, each) for name, each in properties.items() if name not in first)


def _commented(properties: Mapping[str, Any], defaults: Mapping[str, Any], depth: int) -> Iterator[str]:
    """The lines of values.yaml. Values without a default are comments."""
    space = "  " * depth
    for name, schema in _ordered(properties):
        if name == "global":
            continue
        comment = space + "# "
        yield (
            textwrap.fill(
                _meaning(schema), 118, initial_indent=comment, subsequent_indent=comment, break_on_hyphens=False
            )
            + "\n"
        )
        if name not in defaults:
            yield f"{space}# {name}:\n"
        elif "properties" in schema:
            yield f"{space}{name}:\n"
            yield from _commented(schema["properties"], defaults[name], depth + 1)
        else:
            written = yaml.safe_dump({name: defaults[name]}, sort_keys=False, width=110)
            yield textwrap.indent(written, space)


def _meaning(schema: Mapping[str, Any]) -> str:
    said = " ".join(schema.get("description", "").split())
    allowed = schema.get("enum") or (schema.get("items") or {}).get("enum")
    return f"{said} Values: {', '.join(allowed)}." if allowed else said


def _page() -> str:
    rows = "".join(_rows(values.schema()["properties"], values.defaults(), ""))
    return f"""\
# Values of the Helm chart

<!-- {NOTE} from scripts/charting/values.py and webhook/serve_webhook/settings.py: change those. -->

[Installation](install.md#helm) describes the chart. Helm refuses a value that is not in this table.

| value | default | meaning |
| --- | --- | --- |
{rows}"""


def _rows(properties: Mapping[str, Any], defaults: Mapping[str, Any], prefix: str) -> Iterator[str]:
    for name, schema in _ordered(properties):
        if name == "global":
            continue
        path, default = f"{prefix}{name}", defaults.get(name)
        if "properties" in schema and isinstance(default, dict):
            yield from _rows(schema["properties"], default, f"{path}.")
        else:
            yield f"| `{path}` | {_cell(default)} | {_escaped(_meaning(schema))} |\n"


def _cell(default: Any) -> str:
    if default in (None, "", [], {}):
        return ""
    text = default if isinstance(default, str) else json.dumps(default)
    return f"`{text}`" if len(text) <= 60 else "see `values.yaml`"


def _escaped(text: str) -> str:
    return re.sub(r"([|*])", r"\\\1", text)
