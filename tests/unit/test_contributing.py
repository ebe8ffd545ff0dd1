"""Each addition that CONTRIBUTING.md describes works when only the files of its list change.

A test makes the addition in a copy of the repository, then uses it as a user would.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from support.paths import ROOT

FOLDERS = ("plugin", "webhook", "manifests", "docs", "scripts")
FILES = ("README.md", "CONTRIBUTING.md")
MOST = {
    "Add an annotation": 3,
    "Add a runtime": 1,
    "Add a known server": 2,
    "Add a rule": 2,
    "Add a store": 2,
    "Add a verb": 2,
}
"""Section to the number of files that its addition may touch."""
MODEL = {"kubectl-serve.dev/model": "s3://models/iris/model.joblib"}
IMPORTED = "serve_core.policy.rules"
SECTIONS = re.split(r"^## ", (ROOT / "CONTRIBUTING.md").read_text(), flags=re.MULTILINE)


def listed(title: str) -> list[str]:
    """The first column of the table in a section: a path in backticks, or words."""
    section = next(each for each in SECTIONS if each.startswith(f"{title}\n"))
    rows = re.findall(r"^\| (.+?) \|", section, flags=re.MULTILINE)
    return [row.strip("`") for row in rows if row not in ("file", "---")]


@dataclass
class Copy:
    """A copy of the repository, in which an addition is made."""

    root: Path

    def insert(self, path: str, anchor: str, text: str) -> None:
        """Insert ``text`` after the first line that begins with ``anchor``."""
        before, found, after = (self.root / path).read_text().partition(f"\n{anchor}")
        assert found, f"{path} has no line that begins with {anchor!r}"
        rest, _, after = after.partition("\n")
        self.write(path, f"{before}{found}{rest}\n{text}{after}")

    def write(self, path: str, text: str) -> None:
        (self.root / path).write_text(text)

    def python(self, *arguments: str, stdin: str = "", code: int = 0) -> str:
        """Run Python with the packages of the copy, which must end with ``code``; return what it prints."""
        path = os.pathsep.join((str(self.root / "plugin"), str(self.root / "webhook")))
        environment = os.environ | {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
        command = [sys.executable, *arguments]
        done = subprocess.run(
            command, input=stdin, env=environment, cwd=self.root, capture_output=True, text=True, check=False
        )
        assert done.returncode == code, done.stderr
        return done.stdout

    def serve(self, *arguments: str, stdin: str = "", code: int = 0) -> str:
        return self.python("-m", "kubectl_serve", *arguments, stdin=stdin, code=code)

    def completed(self, *words: str) -> set[str]:
        """What completion offers for the last word."""
        lines = self.python("-c", "from kubectl_serve.__main__ import run_completion as r; r()", *words).splitlines()
        return {line.partition("\t")[0] for line in lines[:-1]}


@pytest.fixture
def copy(tmp_path: Path) -> Copy:
    for folder in FOLDERS:
        leave_out = shutil.ignore_patterns("__pycache__", "localcluster")
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=leave_out)
    for name in FILES:
        shutil.copy(ROOT / name, tmp_path / name)
    return Copy(tmp_path)


@pytest.mark.parametrize("title", MOST)
def test_an_addition_touches_few_files_which_exist(title: str) -> None:
    files = listed(title)
    assert 1 <= len(files) <= MOST[title]
    for path in (path for path in files if "/" in path):
        assert (ROOT / path).exists() or ("NAME" in path and (ROOT / path).parent.is_dir()), path


def test_an_annotation_is_an_entry_and_a_field(copy: Copy) -> None:
    table, spec, effect = listed("Add an annotation")
    assert "/" not in effect
    entry = 'Annotation("colour", "red, blue", "The colour of the pods.", "colour", values.OneOf("red", "blue")),\n'
    copy.insert(table, "USER: tuple[Annotation, ...] = (", f"    {entry}")
    copy.insert(spec, "    timeout: int | None = None", "    colour: str | None = None\n")
    copy.python("scripts/docs")

    flags = ("--model=s3://models/a.joblib", "--colour=red", "--dry-run=client", "-o", "yaml")
    made = copy.serve("create", "iris", *flags)
    assert yaml.safe_load(made)["metadata"]["annotations"]["kubectl-serve.dev/colour"] == "red"
    read = (
        "from serve_core.api import serving_spec\n"
        "key = 'kubectl-serve.dev/colour'\n"
        "for value in ('blue', 'pink'):\n"
        "    spec, problems = serving_spec.read({'kubectl-serve.dev/model': 's3://models/a.joblib', key: value})\n"
        "    print(spec and spec.colour, *problems)\n"
    )
    good, bad = copy.python("-c", read).splitlines()
    assert good == "blue"
    assert "InvalidAnnotation" in bad
    assert "red, blue" in bad
    assert copy.completed("create", "iris", "--colour", "") == {"red", "blue"}
    assert "| `colour` | red, blue |" in (copy.root / "docs/annotations.md").read_text()
    assert "| `--colour` COLOUR |" in (copy.root / "docs/cli.md").read_text()


def test_a_runtime_is_one_file(copy: Copy) -> None:
    (path,) = (each.replace("NAME", "example") for each in listed("Add a runtime"))
    runtime = {
        "apiVersion": "kubectl-serve.dev/v1alpha1",
        "kind": "ModelRuntime",
        "metadata": {"name": "example"},
        "spec": {
            "formats": [{"name": "example"}],
            "protocols": ["v2"],
            "container": {"image": "example.com/server:1", "ports": [{"name": "http1", "containerPort": 8080}]},
        },
    }
    copy.write(path, f"# Models of an example.\n{yaml.safe_dump(runtime)}")
    copy.python("scripts/docs")

    model = {"kubectl-serve.dev/model": "s3://models/a", "kubectl-serve.dev/format": "example"}
    deployment = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a", "annotations": model}}
    service = copy.serve("render", "-f", "-", "--only", "service", stdin=yaml.safe_dump(deployment))
    (container,) = yaml.safe_load(service)["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "example.com/server:1"
    assert "example.com/server:1" in copy.serve("install", "--dry-run=client", "-o", "yaml")
    assert "example.yaml" in (copy.root / "manifests/runtimes/kustomization.yml").read_text()
    assert "## example\n\nModels of an example.\n" in (copy.root / "docs/runtimes.md").read_text()
    assert "example" in copy.completed("create", "iris", "--runtime", "")


def test_a_known_server_is_one_file_and_its_name(copy: Copy) -> None:
    path, names = (each.replace("NAME", "example") for each in listed("Add a known server"))
    server = {
        "apiVersion": "kubectl-serve.dev/v1alpha1",
        "kind": "KnownServer",
        "metadata": {"name": "example"},
        "spec": {
            "title": "Example",
            "images": ["*/example-server"],
            "port": {"default": 7000},
            "model": {"write": "--model={path}"},
        },
    }
    copy.write(path, yaml.safe_dump(server))
    copy.insert(names, "    files:", f"      - {Path(path).name}\n")
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "a", "annotations": MODEL},
        "spec": {
            "selector": {"matchLabels": {"app": "a"}},
            "template": {
                "metadata": {"labels": {"app": "a"}},
                "spec": {"containers": [{"name": "a", "image": "docker.io/team/example-server:1"}]},
            },
        },
    }
    rendered = copy.serve("render", "-f", "-", stdin=yaml.safe_dump(deployment))
    assert "containerPort: 7000" in rendered


def test_a_rule_is_a_module_and_a_field(copy: Copy) -> None:
    module, rules = (each.replace("NAME", "example") for each in listed("Add a rule"))
    code = (copy.root / module).with_stem("mode").read_text()
    copy.write(module, code.replace("ModeCheck", "ExampleCheck"))
    copy.insert(rules, "from serve_core.policy.rules.expression", f"from {IMPORTED}.example import ExampleCheck\n")
    copy.insert(rules, "    mode: ModeCheck", "    example: ExampleCheck | None = None\n")
    copy.python("scripts/crds")

    policy = {
        "apiVersion": "kubectl-serve.dev/v1alpha1",
        "kind": "ServingPolicy",
        "metadata": {"name": "p"},
        "spec": {"action": "Deny", "rules": [{"name": "r", "example": {"allow": ["knative"]}}]},
    }
    deployments = [
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": mode, "annotations": MODEL | {"kubectl-serve.dev/mode": mode}},
        }
        for mode in ("knative", "deployment")
    ]
    typed = yaml.safe_dump_all([policy, *deployments])
    screen = copy.serve("policy", "test", "-f", "-", "-o", "json", stdin=typed, code=1)
    verdicts = [each["results"][0]["verdict"] for each in json.loads(screen)["items"]]
    assert verdicts == ["Pass", "Deny"]
    (definition,) = (
        each
        for each in yaml.safe_load_all((copy.root / "manifests/base/05-policies.yaml").read_text())
        if each["spec"]["names"]["kind"] == "ServingPolicy"
    )
    assert '"example"' in json.dumps(definition)


def test_a_store_is_a_scheme_and_a_source(copy: Copy) -> None:
    table, source = (each.replace("NAME", "example") for each in listed("Add a store"))
    rule = 'host="bucket", names="a bucket\'s name", rule=re.compile("[a-z]{3,63}"), folders=True, movable=True'
    copy.insert(table, '        Scheme("http",', f'        Scheme("ex", "ex://bucket/path", "example", {rule}),\n')
    code = (
        "from model_loader.plan.model import File, Listing\n"
        "def list_files(uri, context):\n"
        "    return Listing((File(uri.path, f'https://{uri.host}.example.com/{uri.path}', 1),), single=True)\n"
    )
    copy.write(source, code)
    copy.python("scripts/docs")

    listing = (
        "from model_loader import sources\n"
        "print(sources.list_files(sources.parse('ex://models/a.onnx'), None).files[0].url)\n"
    )
    assert copy.python("-c", listing) == "https://models.example.com/a.onnx\n"
    place = (
        "from model_uri import parse, parse_place, Store\n"
        "store = Store('ex://models', 'https://store.example.com')\n"
        "print(parse_place('ex://models').holds(parse('ex://models/a')), store.is_fixed)\n"
    )
    assert copy.python("-c", place) == "True True\n"
    model = "--model=ex://models/a.onnx"
    assert "ex://models/a.onnx" in copy.serve("create", "iris", model, "--dry-run=client", "-o", "yaml")
    assert "ex://bucket/path" in (copy.root / "docs/annotations.md").read_text()


def test_a_verb_is_an_entry_and_a_module(copy: Copy) -> None:
    table, module = (each.replace("NAME", "greet") for each in listed("Add a verb"))
    entry = 'Verb("About", "greet", "WORD", "Greet a model", online=False, completes=("hello", "goodbye"))'
    copy.insert(table, "VERBS = (", f"    {entry},\n")
    code = (
        "def configure(parser):\n"
        "    parser.add_argument('word')\n"
        "    parser.switch('--loud', help='in capitals')\n"
        "def run(args, streams):\n"
        "    streams.out(args.word.upper() if args.loud else args.word)\n"
        "    return 0\n"
    )
    copy.write(module, code)
    copy.python("scripts/docs")

    assert copy.serve("greet", "hello", "--loud") == "HELLO\n"
    assert "greet " in copy.serve("--help")
    assert "--loud" in copy.serve("greet", "--help")
    assert copy.completed("gre") == {"greet"}
    assert copy.completed("greet", "") == {"hello", "goodbye"}
    assert "--loud" in copy.completed("greet", "--")
