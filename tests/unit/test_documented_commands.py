"""What the documentation shows works: its commands are parsed by the program, its objects judged by admission."""

import importlib
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from kubectl_serve.cli.options import Parser
from kubectl_serve.cli.verbs import BY_NAME, split
from kubectl_serve.install import manifests
from serve_core.admission.decide import is_served, judge
from serve_core.api import annotations, runtimes, serving_spec
from serve_core.audit import dry_run
from serve_core.base.constants import PREFIX
from serve_core.base.json import JsonObject
from serve_core.context.cluster import ClusterContext
from serve_core.knative import features
from support.documentation import PAGES, SHELLS, Block, blocks, inline_commands
from support.paths import ROOT

POLICY_KINDS = ("ServingPolicy", "PolicyException")
LABELS = {"kubectl-serve.dev/adopt", "kubectl-serve.dev/deployment"}


def blocks_of(*languages: str) -> list[Any]:
    return [
        pytest.param(block, id=f"{block.page.relative_to(ROOT)}-{number}")
        for page in PAGES
        for number, block in enumerate(blocks(page))
        if block.language in languages
    ]


def of_plugin(words: list[str]) -> list[str] | None:
    """The arguments of ``kubectl serve`` or ``kubectl-serve``."""
    if words[:2] == ["kubectl", "serve"]:
        return words[2:]
    return words[1:] if words[:1] == ["kubectl-serve"] else None


def parser_of(name: str) -> Parser:
    verb = BY_NAME[name]
    parser = Parser(verb)
    importlib.import_module(f"kubectl_serve.commands.{verb.name}").configure(parser)
    return parser


def is_complete(argv: list[str]) -> bool:
    """Whether it is a whole command, not one with an ellipsis."""
    return "..." not in argv


@pytest.mark.parametrize("block", blocks_of(*SHELLS))
def test_the_program_parses_every_command_of_the_plugin(block: Block) -> None:
    for words in block.commands:
        argv = of_plugin(words)
        if argv is None or not is_complete(argv):
            continue
        verb, rest = split(argv)
        if verb is None:
            assert rest in (["--help"], ["-h"]), words
            continue
        assert verb in BY_NAME, words
        parser_of(verb).read(rest)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_verb_and_flag_in_a_sentence_exists(page: Path) -> None:
    for command in inline_commands(page):
        verb, rest = split(re.sub(r"^kubectl[ -]serve ", "", command).split())
        if verb in ("VERB", None):
            continue
        assert verb in BY_NAME, command
        known = {name for action in parser_of(verb)._actions for name in action.option_strings}
        flags = [word.partition("=")[0] for word in rest if re.match(r"--?[a-zA-Z]", word)]
        assert [flag for flag in flags if flag not in known] == [], command


@pytest.mark.parametrize("block", blocks_of(*SHELLS))
def test_every_annotation_of_a_command_has_a_valid_value(block: Block) -> None:
    """``kubectl annotate deployment/iris kubectl-serve.dev/scale=1..3``."""
    found: dict[str, str] = {}
    for words in block.commands:
        if words[:2] == ["kubectl", "annotate"]:
            for word in words[2:]:
                key, equals, value = word.partition("=")
                if key.startswith(PREFIX) and equals and block.kind != "fails":
                    found[key] = value
    if found:
        assert problems_of({annotations.MODEL: "s3://models/iris/model.joblib", **found}) == []


@pytest.mark.parametrize("block", blocks_of(*SHELLS))
def test_every_file_of_the_repository_in_a_command_exists(block: Block) -> None:
    named = [
        word
        for words in block.commands
        for word in words
        if re.match(r"(?:scripts|manifests|webhook|tests)/[\w./-]+$", word) and "NAME" not in word
    ]
    assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.fixture(scope="module")
def context() -> ClusterContext:
    """The catalogue as installed, on a Knative with all feature flags."""
    return replace(manifests.default_context(), features=dict.fromkeys(features.FIELD_FLAGS, features.ENABLED))


def problems_of(written: JsonObject) -> list[str]:
    return [str(problem) for problem in serving_spec.read(written)[1]]


def documents(block: Block) -> list[Any]:
    return [each for each in yaml.safe_load_all(block.text) if each is not None]


def annotated(tree: Any) -> Iterator[JsonObject]:
    """Every mapping in a document that has an annotation of kubectl-serve as a key."""
    if isinstance(tree, dict):
        if any(str(key).startswith(PREFIX) for key in tree):
            yield tree
        for each in tree.values():
            yield from annotated(each)
    elif isinstance(tree, list):
        for each in tree:
            yield from annotated(each)


@pytest.mark.parametrize("block", blocks_of("yaml"))
def test_every_annotation_of_a_document_has_a_valid_value(block: Block) -> None:
    for document in documents(block):
        for found in annotated(document):
            written = {key: value for key, value in found.items() if key not in LABELS}
            if written:
                assert problems_of({annotations.MODEL: "s3://models/iris/model.joblib", **written}) == []


@pytest.mark.parametrize("block", blocks_of("yaml"))
def test_admission_accepts_every_object(block: Block, context: ClusterContext) -> None:
    found = [each for each in documents(block) if isinstance(each, dict) and {"apiVersion", "kind"} <= set(each)]
    read = dry_run.read_documents([each for each in found if each["kind"] in POLICY_KINDS], context)
    assert read.faults == ()
    for each in found:
        if each["kind"] == "Deployment" and annotations.MODEL in each["metadata"].get("annotations", {}):
            verdict = judge(each, context)
            assert [str(problem) for problem in verdict.problems] == []
            assert verdict.deployment is not None
            assert is_served(verdict.deployment)
        elif each["kind"] == "ModelRuntime":
            runtimes.parse(each)
