"""The CRDs match the classes that they are made from."""

import subprocess
import sys

import yaml

from support.paths import ROOT


def test_the_generated_definitions_are_up_to_date() -> None:
    made = subprocess.run(
        [sys.executable, ROOT / "scripts/crds", "--check"], capture_output=True, text=True, check=False
    )
    assert made.returncode == 0, made.stdout


def test_the_definitions_are_structural() -> None:
    """As Kubernetes wants it: a type everywhere, no references, no null."""

    def check(schema: dict[str, object], path: str) -> None:
        assert "type" in schema or schema.get("x-kubernetes-int-or-string"), path
        assert not {"$ref", "anyOf", "$defs", "default", "title"} & schema.keys(), path
        for name, inner in (schema.get("properties") or {}).items():  # type: ignore[attr-defined]
            check(inner, f"{path}.{name}")
        for key in ("items", "additionalProperties"):
            if isinstance(inner := schema.get(key), dict):
                check(inner, f"{path}.{key}")

    texts = [(ROOT / "manifests/base" / name).read_text() for name in ("05-policies.yaml", "06-runtimes.yaml")]
    for document in (each for text in texts for each in yaml.safe_load_all(text)):
        (version,) = document["spec"]["versions"]
        check(version["schema"]["openAPIV3Schema"], document["metadata"]["name"])
