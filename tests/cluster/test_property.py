"""What the core accepts, the real API server and the real Knative webhook accept as well, without losing a field.

Deployments of the whole schema, with random feature flags. Only dry runs: nothing is created. ``KUBECTL_SERVE_CASES``
sets the number of Deployments for each set of flags, drawn again at each run. Without it, they are always the same 300,
so that a failure comes from the change under test.
"""

import collections
import json
import os
import random
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, Phase, given, settings

from cluster.api_server import ApiServer
from cluster.deployments import RUNTIME_CLASS, Schema
from cluster.support import Json
from kubectl_serve.install.manifests import RUNTIMES_CONFIG_MAP, SETTINGS_CONFIG_MAP
from serve_core.admission.decide import judge, render_stored
from serve_core.api import runtimes
from serve_core.base.patch import json_patch
from serve_core.context.cluster import ClusterContext, LoaderConfig

CASES_ASKED_FOR = os.environ.get("KUBECTL_SERVE_CASES")
CASES = int(CASES_ASKED_FOR or "300")
ROUNDS = 8

DEPLOYMENTS = "/apis/apps/v1/namespaces/default/deployments"
SERVICES = "/apis/serving.knative.dev/v1/namespaces/default/services"
FEATURES = "/api/v1/namespaces/knative-serving/configmaps/config-features"
CONFIG_MAPS = "/api/v1/namespaces/kubectl-serve/configmaps"
RUNTIME_CLASSES = "/apis/node.k8s.io/v1/runtimeclasses"

MARKER = "kubernetes.podspec-nodeselector"
"""Changes in every round: a dry run of a Service with that field shows when Knative's webhook has seen the flags."""

REQUIRED = ("kubernetes.podspec-init-containers", "kubernetes.podspec-volumes-emptydir")
"""Without these next to nothing can be served; they are off in the last round only."""

DEFAULTS: Json = {
    "restartPolicy": "Always",
    "dnsPolicy": "ClusterFirst",
    "schedulerName": "default-scheduler",
    "terminationGracePeriodSeconds": 30,
    "automountServiceAccountToken": True,
    "serviceAccount": "default",
    "mountPropagation": "None",
    "recursiveReadOnly": "Disabled",
    "procMount": "Default",
    "os": {"name": "linux"},
    "protocol": "TCP",
    "periodSeconds": 10,
    "timeoutSeconds": 1,
    "failureThreshold": 3,
}
"""What may be left out, because it says what happens anyway."""


@pytest.fixture(scope="module")
def api() -> Iterator[ApiServer]:
    with ApiServer() as connected:
        yield connected


@pytest.fixture(scope="module")
def known_flags(api: ApiServer) -> Iterator[list[str]]:
    """Every flag that Knative's own example names; the flags are as they were afterwards."""
    before = api.get(FEATURES)["data"]
    example = re.findall(r"^ *([a-z][a-z.0-9-]+): *\"?(?:enabled|disabled|allowed)", before["_example"], re.MULTILINE)
    flags = sorted(set(example))
    api.create(RUNTIME_CLASSES, {"metadata": {"name": RUNTIME_CLASS}, "handler": "runc"})
    yield flags
    api.delete(f"{RUNTIME_CLASSES}/{RUNTIME_CLASS}")
    api.patch(FEATURES, {"data": {**dict.fromkeys(flags), **before}})


@pytest.fixture(scope="module")
def schema(api: ApiServer) -> Schema:
    return Schema(api.get("/openapi/v3/apis/apps/v1"))


@pytest.fixture(scope="module")
def installed(api: ApiServer) -> ClusterContext:
    """The loader and the runtimes of the server that is asked: it completes a new object with these alone."""
    loader = yaml.safe_load(api.get(f"{CONFIG_MAPS}/{SETTINGS_CONFIG_MAP}")["data"]["settings.yaml"])["loader"]
    catalogue = api.get(f"{CONFIG_MAPS}/{RUNTIMES_CONFIG_MAP}")["data"]
    return ClusterContext(
        LoaderConfig(loader["image"], signing_image=loader.get("signingImage")),
        tuple(runtimes.parse(yaml.safe_load(text)) for name, text in catalogue.items() if name.endswith(".yaml")),
    )


def set_flags(api: ApiServer, flags: dict[str, str]) -> None:
    """Set the flags and wait until Knative's webhook judges by them."""
    api.patch(FEATURES, {"data": flags})
    container = {"image": "example.com/app:1"}
    probe = {
        "apiVersion": "serving.knative.dev/v1",
        "kind": "Service",
        "metadata": {"name": "probe"},
        "spec": {"template": {"spec": {"containers": [container], "nodeSelector": {"disk": "a"}}}},
    }
    wanted = flags[MARKER] == "enabled"
    deadline = time.monotonic() + 30
    while (api.dry_run(SERVICES, probe)[0] == 201) is not wanted:
        assert time.monotonic() < deadline, "Knative's webhook has not seen the flags"
        time.sleep(0.1)  # its configuration can only be seen by asking it


def draw_flags(known: list[str], number: int) -> dict[str, str]:
    """At first all on, then all off, then at random: also in another case, and misspelt."""
    draw = random.Random(number)
    if number < 2:
        flags = dict.fromkeys(known, "disabled" if number else "enabled")
    else:
        states = ("enabled", "allowed", "disabled", "Enabled", "true")
        flags = {flag: draw.choice(states) for flag in known}
    # secure-pod-defaults gives containers what their Deployment did not ask for: no business of the core.
    flags["secure-pod-defaults"] = "disabled"
    required = "disabled" if number == ROUNDS - 1 else "enabled"
    return flags | dict.fromkeys(REQUIRED, required) | {MARKER: "disabled" if number % 2 else "enabled"}


def missing(written: Any, carried: Any, path: str = "") -> Iterator[str]:
    """What the user wrote and the Knative Service does not say."""
    if isinstance(written, dict) and isinstance(carried, dict):
        for key, value in written.items():
            here = f"{path}.{key}"
            if key in carried:
                yield from missing(value, carried[key], here)
            elif not _says_nothing(value) and DEFAULTS.get(key) != value and not _translated(here):
                yield f"{here} = {value!r}"
    elif isinstance(written, list) and isinstance(carried, list):
        for index, element in enumerate(written):
            if element in written[:index]:
                continue  # saying it once says it
            yield from missing(element, _counterpart(element, carried, index), f"{path}[{index}]")
    elif (written != carried or type(written) is not type(carried)) and not _translated(path, carried):
        yield f"{path}: {written!r} became {carried!r}"


def _says_nothing(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(_says_nothing, value.values()))
    return value in (None, "", False, 0, [])


def _translated(path: str, carried: Any = None) -> bool:
    """A port's name is Knative's to choose, a probe names the port by its number, and a Secret cannot be written."""
    return bool(re.search(r"\.ports\[\d+\]\.name$|Probe\.(httpGet|tcpSocket)\.port$", path)) or (
        path.endswith("].readOnly") and carried is True
    )


def _counterpart(element: Any, carried: list[Any], index: int) -> Any:
    if isinstance(element, dict):
        for key in ("mountPath", "containerPort", "name"):
            if key in element:
                return next((each for each in carried if each.get(key) == element[key]), {})
    return carried[index] if index < len(carried) else None


LEFT_OUT = ("FieldIgnored", "MountReadOnly")
"""Warnings of fields that a Knative Service does not carry as they are written."""


class Check:
    """One Deployment's way: judged, stored, judged again, rendered, and accepted by Knative."""

    def __init__(self, api: ApiServer, context: ClusterContext, counts: collections.Counter[str]) -> None:
        self.api, self.context, self.counts = api, context, counts

    def __call__(self, document: Json) -> None:
        verdict = judge(document, self.context)
        if verdict.refused:
            assert all(each.path and each.message and each.hint for each in verdict.problems)
            self.counts.update(f"refused: {code}" for code in {each.code for each in verdict.problems})
            self.counts["refused"] += 1
            return
        assert verdict.deployment is not None
        assert verdict.service is not None
        status, stored = self.api.dry_run(DEPLOYMENTS, verdict.deployment)
        if status != 201:
            assert status in (400, 422), stored  # the API server would have refused it without us
            self.counts["invalid for the API server"] += 1
            return
        self.counts["accepted"] += 1
        warned = [each.path.removeprefix("spec.template.") for each in verdict.warnings if each.code in LEFT_OUT]
        self._nothing_is_missing(document, verdict.service, warned)
        again = judge(stored, self.context, stored)
        assert again.problems == ()
        assert json_patch(stored, again.deployment or {}) == []
        later = render_stored(stored, self.context)
        assert later.problems == ()
        for service in (verdict.service, later.service):
            status, answer = self.api.dry_run(SERVICES, service or {})
            assert status == 201, answer.get("message")

    @staticmethod
    def _nothing_is_missing(document: Json, service: Json, warned: list[str]) -> None:
        """Everything written is carried, or a warning says at its path that it is not."""
        written, carried = document.get("spec", {}).get("template", {}), service["spec"]["template"]
        metadata = {key: written.get("metadata", {}).get(key) or {} for key in ("labels", "annotations")}
        assert [*missing(metadata, carried["metadata"], "metadata")] == []
        lost = missing(written.get("spec") or {}, carried["spec"], "spec")
        assert [each for each in lost if not each.startswith(tuple(warned))] == []


@pytest.mark.slow
@pytest.mark.parametrize("number", range(ROUNDS))
def test_what_the_core_accepts_is_accepted_and_complete(
    api: ApiServer,
    known_flags: list[str],
    schema: Schema,
    installed: ClusterContext,
    number: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    flags = draw_flags(known_flags, number)
    set_flags(api, flags)
    counts: collections.Counter[str] = collections.Counter()
    check = Check(api, replace(installed, features=flags), counts)

    @settings(
        max_examples=CASES,
        deadline=None,
        database=None,
        derandomize=CASES_ASKED_FOR is None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
    )
    @given(document=schema.deployments())
    def judged_by_the_cluster(document: Json) -> None:
        counts["cases"] += 1
        check(document)

    started = time.monotonic()
    try:
        judged_by_the_cluster()
    finally:
        with capsys.disabled():
            on = sum(state.lower() in ("enabled", "allowed") for state in flags.values())
            took = time.monotonic() - started
            print(f"\nflags {number}: {on} of {len(flags)} on, {took:.0f} s: {json.dumps(dict(counts.most_common()))}")
    assert counts["accepted"] > 0 or number == ROUNDS - 1
