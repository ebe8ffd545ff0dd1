"""The cases of ``tests/golden/existing``: Deployments of model servers as people write them, and what becomes of them.

The head of each input says what is true of the server, from its own documentation: the port that it listens on
(``listens``), and what it serves (``reads``). The code under test does not see it.
"""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import yaml

from kubectl_serve.install import manifests
from serve_core.admission.decide import Verdict, judge
from serve_core.api.annotations import MODE
from serve_core.base.json import JsonObject
from serve_core.base.reasons import Diagnostic
from serve_core.base.workload import Workload
from serve_core.context import neighbours
from serve_core.context.cluster import REQUIRED_FEATURES, ClusterContext
from serve_core.context.services import ServiceSummary
from serve_core.context.services import read as read_service
from serve_core.knative import features
from serve_core.workload import serving_port
from serve_core.workload.model_server import server_container
from support import golden

FLAGS = {
    "Knative's default flags": REQUIRED_FEATURES,
    "the recommended flags": dict.fromkeys(features.RECOMMENDED, features.ENABLED),
    "all flags": dict.fromkeys(features.FIELD_FLAGS, features.ENABLED),
}
"""The first has the flags that an installation of kubectl-serve needs, and Knative's defaults for the others."""
DEFAULT, RECOMMENDED, ALL = FLAGS

CASES = golden.cases("existing")
_RUNTIMES = golden.runtimes(golden.runtime_files())
_SERVERS = manifests.known_servers()
_UNSEEN = "ModelUnseen"
_NOT_SEEN = f"not seen ({_UNSEEN})"
_USES = {
    "path": "the server names the path of the loaded model",
    "hub layout": "the server names the repository, and gets it as a Hugging Face cache",
    _NOT_SEEN: f"the server names neither, and the warning `{_UNSEEN}` says what to write",
}
_FLAG = re.compile(r"feature flag (\S+) is")
_HUB_VARIABLE = "HF_HUB_CACHE"


@dataclass(frozen=True)
class Case:
    """One Deployment, with the objects that stand in the same file."""

    name: str
    listens: int
    """The port that the server really listens on, or that clients have to use."""
    reads: str
    """What the server really serves: ``path`` (the model's path), ``hub`` (the annotation's repository, from the cache
    of the Hugging Face Hub) or ``elsewhere``."""
    deployment: JsonObject
    beside: tuple[JsonObject, ...]

    def context(self, flags: Mapping[str, str]) -> ClusterContext:
        around: dict[str, dict[str, ServiceSummary]] = {}
        for each in self.beside:
            metadata = each["metadata"]
            if each["kind"] == "Service":
                around.setdefault(metadata.get("namespace", ""), {})[metadata["name"]] = read_service(each)
        beside = neighbours.read(self.beside)
        return ClusterContext(golden.LOADER, _RUNTIMES, flags, services=around, servers=_SERVERS, neighbours=beside)

    @cached_property
    def verdicts(self) -> dict[str, Verdict]:
        """By the flags of :data:`FLAGS`."""
        return {name: judge(self.deployment, self.context(flags)) for name, flags in FLAGS.items()}

    @property
    def with_all_flags(self) -> Verdict:
        return self.verdicts[ALL]

    @cached_property
    def without_knative(self) -> Verdict:
        """In mode ``deployment``: the way out that is offered where Knative cannot carry a field."""
        notes = {**self.deployment["metadata"]["annotations"], MODE: "deployment"}
        changed = {**self.deployment, "metadata": {**self.deployment["metadata"], "annotations": notes}}
        return judge(changed, self.context(REQUIRED_FEATURES))

    @cached_property
    def needs(self) -> tuple[str, ...]:
        """The flags without which Knative's defaults refuse it."""
        found = (_FLAG.search(problem.message) for problem in self.verdicts[DEFAULT].problems)
        return tuple(sorted({match[1] for match in found if match}))

    def port(self, verdict: Verdict) -> int:
        """Where requests arrive in the pod."""
        if verdict.service is not None:
            containers = verdict.service["spec"]["template"]["spec"]["containers"]
            ports = [port["containerPort"] for each in containers for port in each.get("ports", [])]
            return ports[0] if ports else 8080
        plain = next(each for each in verdict.extras if each["kind"] == "Service")
        target: int = plain["spec"]["ports"][0]["targetPort"]
        return target

    def port_source(self) -> str:
        server = server_container(Workload(self.deployment).containers)
        annotated = self.deployment["metadata"]["annotations"].get("kubectl-serve.dev/port")
        found = serving_port.of(server or {}, _SERVERS, int(annotated) if annotated else None)
        return found.source.value if found.source is not None else "nothing"

    def model(self, verdict: Verdict) -> str:
        """How the loaded model is used, as the verdict says: its path, the hub layout, or a warning that it is not."""
        if any(warning.code == _UNSEEN for warning in verdict.warnings):
            return _NOT_SEEN
        return "hub layout" if self._has_hub_layout(verdict) else "path"

    def _has_hub_layout(self, verdict: Verdict) -> bool:
        def names(deployment: JsonObject | None) -> set[str]:
            server = server_container(Workload(deployment or {}).containers) or {}
            return {variable["name"] for variable in server.get("env") or []}

        return _HUB_VARIABLE in names(verdict.deployment) - names(self.deployment)

    def faults(self, verdict: Verdict) -> list[str]:
        """What is wrong with an accepted Deployment: the port, or a model that is not used and not warned of."""
        port, model = self.port(verdict), self.model(verdict)
        wrong = [] if port == self.listens else [f"requests go to {port}, and the server listens on {self.listens}"]
        allowed = {"path": {"path"}, "hub": {"hub layout", _NOT_SEEN}}
        if model not in allowed.get(self.reads, {_NOT_SEEN}):
            wrong.append(f"the model is said to be used by {model}, and the server reads {self.reads}")
        return wrong

    def outcome(self) -> str:
        """The text of the case's ``expected.txt``."""
        text = f"{DEFAULT}: {self._outcome(self.verdicts[DEFAULT])}"
        for name, before in ((RECOMMENDED, DEFAULT), (ALL, RECOMMENDED)):
            outcome = self._outcome(self.verdicts[name])
            same = outcome == self._outcome(self.verdicts[before])
            text += f"{name}: {'the same' if same else outcome.rstrip()}\n"
        if self.with_all_flags.refused:
            text += f"mode deployment: {self._outcome(self.without_knative)}"
        if self.needs:
            text += f"flags needed: {', '.join(self.needs)}\n"
        return text

    def _outcome(self, verdict: Verdict) -> str:
        if verdict.refused:
            return "refused\n" + "".join(f"  {_place(each)}\n" for each in verdict.problems)
        text = f"accepted\n  port: {self.port(verdict)}, from {self.port_source()}\n  model: {self.model(verdict)}\n"
        return text + "".join(f"  warning {_place(each)}\n" for each in verdict.warnings if each.code != _UNSEEN)


def _place(found: Diagnostic) -> str:
    flag = _FLAG.search(found.message)
    return f"{found.code} {found.path}" + (f" ({flag[1]})" if flag else "")


def read(case: Path) -> Case:
    """Read a case; its head must say what is true of the server."""
    text = golden.input_of(case)
    listens = re.search(r"^# listens: (\d+)$", text, re.MULTILINE)
    reads = re.search(r"^# reads: (path|hub|elsewhere)$", text, re.MULTILINE)
    assert listens, case
    assert reads, case
    deployment, *beside = yaml.safe_load_all(text)
    return Case(case.name, int(listens[1]), reads[1], deployment, tuple(beside))


def tables(cases: list[Case]) -> str:
    """The tables of ``docs/existing-deployments.md``."""
    total = len(cases)
    accepted = [case for case in cases if not case.with_all_flags.refused]
    used = Counter(case.model(case.with_all_flags) for case in accepted)
    text = _table(
        ("Deployments", str(total)),
        [
            *((f"accepted with {name}", sum(not case.verdicts[name].refused for case in cases)) for name in FLAGS),
            *((f"- of these, {what}", used[how]) for how, what in _USES.items()),
        ],
    )
    flags = Counter(flag for case in accepted for flag in case.needs)
    text += "\n" + _table(("flag", "accepted Deployments that need it"), _ranked(flags, "`{}`"))
    refused = [case for case in cases if case.with_all_flags.refused]
    why = Counter(
        reason for case in refused for reason in {_general(problem) for problem in case.with_all_flags.problems}
    )
    return text + "\n" + _table(("refused with all flags", "Deployments"), _ranked(why, "{}"))


def _general(problem: Diagnostic) -> str:
    """A refusal without names and places of one Deployment."""
    field = re.sub(r"\[[^\]]*\]", "", problem.path).rpartition(".")[2]
    return f"`{problem.code}`" + (f": `{field}`" if problem.code == "FieldUnsupported" else "")


def _ranked(counts: Counter[str], form: str) -> list[tuple[str, int]]:
    return [(form.format(name), count) for name, count in sorted(counts.items(), key=lambda each: (-each[1], each[0]))]


def _table(head: tuple[str, str], rows: list[tuple[str, int]]) -> str:
    lines = [head, ("---", "---"), *((name, str(count)) for name, count in rows)]
    return "".join(f"| {left} | {right} |\n" for left, right in lines)
