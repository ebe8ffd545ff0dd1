"""Each rule is one module that says what it reads, which reasons it gives and whether it applies to pods."""

import dataclasses
import pkgutil
from collections.abc import Iterator
from importlib import import_module
from itertools import islice
from typing import Any, cast

from kubectl_serve.install.manifests import default_context
from kubectl_serve.io import documents
from serve_core.audit.dry_run import read_documents
from serve_core.base.reasons import CATALOGUE, MAX_PROBLEMS
from serve_core.policy import rules
from serve_core.policy.check import Check
from serve_core.policy.rules import CHECKS, REASONS
from serve_core.policy.subject import Subject
from serve_core.subjects.build import subject_of
from support.paths import ROOT

CASES = sorted((ROOT / "tests/golden/policy").glob("*/input.yaml"))


class Watched:
    """A subject that records which of its attributes are read."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self.read: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        self.read.add(name)
        return getattr(self._subject, name)


def judged() -> Iterator[tuple[Check, Subject]]:
    """Every rule of the golden cases with every object beside it."""
    for case in CASES:
        read = read_documents([each.object for each in documents.parse(case.read_text(), "-")], default_context())
        subjects = [subject for each in read.objects if (subject := subject_of(each, read.context))]
        for policy in read.context.policies:
            for rule in policy.spec.rules:
                yield from ((rule.check, subject) for subject in subjects)


def test_each_module_has_one_rule() -> None:
    modules = [import_module(f"{rules.__name__}.{found.name}") for found in pkgutil.iter_modules(rules.__path__)]
    assert {module.__name__.rpartition(".")[2] for module in modules} == set(CHECKS)
    for name, check in CHECKS.items():
        assert check.__module__ == f"{rules.__name__}.{name}"


def test_a_rule_reads_what_it_says_and_gives_the_reasons_that_it_lists() -> None:
    read: dict[type[Check], set[str]] = {check: set() for check in CHECKS.values()}
    for check, subject in judged():
        watched = Watched(subject)
        codes = {found.code for found in islice(check.findings(cast(Subject, watched), "p/r"), MAX_PROBLEMS)}
        read[type(check)] |= watched.read - {"kind"}
        assert codes <= {reason.code for reason in check.reasons}
    for rule, attributes in read.items():
        assert attributes, f"no golden case has a rule {rule.__name__}"
        assert attributes <= set(rule.reads), rule.__name__
        assert set(rule.reads) <= {field.name for field in dataclasses.fields(Subject)} | {"values"}


def test_each_reason_has_one_home() -> None:
    codes = [reason.code for reason in REASONS]
    assert len(codes) == len(set(codes))
    assert not CATALOGUE.keys() & set(codes)
