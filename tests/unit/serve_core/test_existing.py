"""Deployments that people already have, ``tests/golden/existing``: accepted with the right port, or refused."""

import os
import re
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest

from serve_core.base.constants import PREFIX
from support import existing, golden
from support.existing import Case
from support.paths import ROOT

CASES = [existing.read(case) for case in existing.CASES]
ACCEPTED = [case for case in CASES if not case.with_all_flags.refused]
PAGE = ROOT / "docs/existing-deployments.md"
BEGIN, END = "<!-- tables: written by tests/unit/serve_core/test_existing.py -->\n", "<!-- end of tables -->\n"


CLAIM = {"name": "models", "persistentVolumeClaim": {"claimName": "nas"}}
GPU = {"limits": {"nvidia.com/gpu": "1"}}


def name_of(case: Case) -> str:
    return case.name


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_the_outcome_is_what_was_reviewed(case: Case) -> None:
    golden.compare(golden.GOLDEN / "existing" / case.name, {"expected.txt": case.outcome()})


@pytest.mark.parametrize("case", ACCEPTED, ids=name_of)
def test_an_accepted_one_has_the_servers_port_and_uses_the_model_or_warns(case: Case) -> None:
    assert case.faults(case.with_all_flags) == []


@pytest.mark.parametrize("case", [case for case in CASES if not case.verdicts[existing.DEFAULT].refused], ids=name_of)
def test_more_flags_change_nothing_of_an_accepted_one(case: Case) -> None:
    before, after = case.verdicts[existing.DEFAULT], case.with_all_flags
    assert (after.service, after.extras) == (before.service, before.extras)


@pytest.mark.parametrize("case", [case for case in CASES if case.with_all_flags.refused], ids=name_of)
def test_a_refused_one_has_a_way_out(case: Case) -> None:
    assert all(problem.hint for problem in case.with_all_flags.problems)
    if any("mode: deployment" in problem.hint for problem in case.with_all_flags.problems):
        assert not case.without_knative.refused
        assert case.faults(case.without_knative) == []


def changed(case: Case, annotations: dict[str, str], pod: dict[tuple[str | int, ...], Any]) -> Case:
    """The case with other annotations and other fields of its pod; ``None`` takes a field out."""
    deployment = deepcopy(case.deployment)
    deployment["metadata"]["annotations"] |= {PREFIX + name: value for name, value in annotations.items()}
    for (*path, last), value in pod.items():
        part = deployment["spec"]["template"]["spec"]
        for step in path:
            part = part[step]
        if value is None:
            del part[last]
        else:
            part[last] = value
    return replace(case, deployment=deployment)


@pytest.mark.parametrize(
    ("name", "annotations", "pod"),
    [
        ("fastapi-no-hint", {"port": "8000"}, {}),
        ("tabbyapi-config-file", {}, {("containers", 0, "ports"): [{"containerPort": 5000}]}),
        ("ray-serve-single", {"port": "8000"}, {}),
        ("two-ports-no-probe", {"port": "9001"}, {}),
        ("ollama-with-webui", {}, {("containers", 0, "name"): "model-server"}),
        ("init-named-model-loader", {}, {("initContainers", 0, "name"): "weights"}),
        ("mount-at-the-models-path", {}, {("containers", 0, "volumeMounts", 0, "mountPath"): "/weights"}),
        ("sglang-loaded-path", {"timeout": "600s"}, {("terminationGracePeriodSeconds",): None}),
        ("vllm-nfs", {}, {("volumes", 0): CLAIM}),
        ("tgi-gaudi", {}, {("volumes", 0, "emptyDir"): {"medium": "Memory"}}),
        ("init-fills-node-folder", {}, {("volumes", 0): {"name": "nvme", "emptyDir": {}}}),
        ("init-fills-node-folder", {}, {("initContainers", 0, "volumeMounts", 0, "readOnly"): True}),
        ("ollama-host-devices", {}, {("containers", 0, "securityContext"): None, ("containers", 0, "resources"): GPU}),
        ("dynamic-resource-claims", {}, {("resourceClaims",): None, ("containers", 0, "resources"): GPU}),
    ],
)
def test_what_a_hint_says_helps(name: str, annotations: dict[str, str], pod: dict[tuple[str | int, ...], Any]) -> None:
    case = next(case for case in CASES if case.name == name)
    assert case.with_all_flags.refused
    followed = changed(case, annotations, pod)
    assert followed.with_all_flags.problems == ()
    assert followed.port(followed.with_all_flags) == case.listens


@pytest.mark.parametrize(
    ("pod", "codes"),
    [
        ({("volumes", 0, "hostPath", "type"): "Directory"}, {"FieldUnsupported", "MountReadOnly"}),
        ({("volumes", 0, "hostPath", "type"): ""}, {"FieldUnsupported", "MountReadOnly"}),
        ({("volumes", 0, "hostPath", "type"): None}, {"FieldUnsupported", "MountReadOnly"}),
        ({("containers", 0, "volumeMounts"): [], ("containers", 1, "volumeMounts"): []}, {"FieldUnsupported"}),
        ({("initContainers", 0, "volumeMounts", 0, "readOnly"): True}, {"MountReadOnly"}),
        ({("containers", 0, "volumeMounts"): []}, {"HostPathReplaced"}),
    ],
)
def test_only_a_folder_that_can_be_empty_and_is_filled_for_a_container_is_replaced(
    pod: dict[tuple[str | int, ...], Any], codes: set[str]
) -> None:
    case = next(case for case in CASES if case.name == "init-fills-node-cache")
    verdict = changed(case, {}, pod).with_all_flags
    about_the_folder = {"FieldUnsupported", "MountReadOnly", "HostPathReplaced"}
    assert {found.code for found in (*verdict.problems, *verdict.warnings)} & about_the_folder == codes


def test_a_filled_folder_is_an_empty_one_of_the_pod() -> None:
    case = next(case for case in CASES if case.name == "init-fills-node-cache")
    verdict = case.with_all_flags
    assert verdict.service is not None
    pod = verdict.service["spec"]["template"]["spec"]
    assert {"name": "cache", "emptyDir": {}} in pod["volumes"]
    assert verdict.deployment is not None
    submitted = case.deployment["spec"]["template"]["spec"]["volumes"]
    assert submitted[0] in verdict.deployment["spec"]["template"]["spec"]["volumes"]


def test_privileges_are_dropped_only_in_the_knative_service() -> None:
    verdict = next(case for case in CASES if case.name == "tpu-privileged").with_all_flags
    assert verdict.service is not None
    assert verdict.deployment is not None
    served, submitted = (
        each["spec"]["template"]["spec"]["containers"][0] for each in (verdict.service, verdict.deployment)
    )
    assert "privileged" not in served.get("securityContext", {})
    assert submitted["securityContext"]["privileged"] is True


@pytest.mark.parametrize(
    ("port", "on_host", "is_refused"), [(30000, True, False), (30000, False, True), (3, True, True)]
)
def test_a_host_port_on_the_nodes_network_only_repeats_the_port(port: int, on_host: bool, is_refused: bool) -> None:
    case = next(case for case in CASES if case.name == "sglang-eight-gpus")
    pod = {("containers", 0, "ports", 0, "hostPort"): port, ("hostNetwork",): on_host}
    found = changed(case, {}, pod).with_all_flags.problems
    assert any(problem.path.endswith("hostPort") for problem in found) is is_refused


def proposed(case: Case) -> str | None:
    """The path that the warning proposes for the annotation ``mount``."""
    hints = "".join(warning.hint for warning in case.with_all_flags.warnings)
    found = re.search(r"Or set kubectl-serve\.dev/mount to (\S+), where the server looks for its model\.", hints)
    return found and found[1]


PROPOSED = [case for case in ACCEPTED if proposed(case)]


@pytest.mark.parametrize("case", PROPOSED, ids=name_of)
def test_with_the_proposed_path_the_server_gets_the_model_without_another_change(case: Case) -> None:
    followed = changed(case, {"mount": proposed(case) or ""}, {})
    assert followed.with_all_flags.problems == ()
    assert followed.model(followed.with_all_flags) == "path"


def test_a_path_is_proposed_where_servers_read_one() -> None:
    assert len(PROPOSED) >= 5


@pytest.mark.parametrize("name", ["kubeai-pod", "openvino-llm", "vllm-helm-s3-init"])
def test_the_model_takes_the_place_of_a_volume_whose_mount_is_removed(name: str) -> None:
    case = next(case for case in CASES if case.name == name)
    hint = next(warning.hint for warning in case.with_all_flags.warnings if warning.code == "ModelUnseen")
    found = re.search(r"remove the mount of the volume at (\S+), and set kubectl-serve\.dev/mount to \1\.", hint)
    assert found
    containers = case.deployment["spec"]["template"]["spec"]["containers"]
    at = next(index for index, each in enumerate(containers) if each.get("volumeMounts"))
    kept = [each for each in containers[at]["volumeMounts"] if each["mountPath"].rstrip("/") != found[1]]
    followed = changed(case, {"mount": found[1]}, {("containers", at, "volumeMounts"): kept})
    assert followed.with_all_flags.problems == ()
    assert followed.model(followed.with_all_flags) == "path"


@pytest.mark.parametrize(("name", "server", "port"), [("oauth-proxy-sidecar", 0, "8443"), ("nginx-in-front", 1, "80")])
def test_a_proxy_keeps_the_requests_and_the_server_behind_it_gets_the_model(name: str, server: int, port: str) -> None:
    case = next(case for case in CASES if case.name == name)
    followed = changed(case, {"port": port}, {("containers", server, "name"): "model-server"})
    assert followed.port(followed.with_all_flags) == case.listens
    assert followed.model(followed.with_all_flags) in ("path", "hub layout")


def test_there_are_enough_and_most_are_accepted() -> None:
    assert len(CASES) >= 100
    assert len(ACCEPTED) >= 0.8 * len(CASES)


def test_the_page_has_the_tables() -> None:
    before, _, rest = PAGE.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    text = f"{before}{BEGIN}\n{existing.tables(CASES)}\n{END}{after}"
    if os.environ.get("UPDATE_GOLDEN"):
        PAGE.write_text(text)
    assert PAGE.read_text() == text
