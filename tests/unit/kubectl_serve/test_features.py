"""Knative's feature flags in ``install``, ``uninstall`` and ``doctor -f``."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from kubectl_serve.install.features import RECORD
from serve_core.base.json import JsonObject
from serve_kube import errors
from serve_kube.resources import Resource
from support.fake_cluster import FakeCluster, at_the_end
from unit.kubectl_serve.conftest import Run
from unit.kubectl_serve.test_install import KNATIVE, features

INIT, TOLERATIONS = "kubernetes.podspec-init-containers", "kubernetes.podspec-tolerations"
AFFINITY = "kubernetes.podspec-affinity"


class Cluster(FakeCluster):
    """Merges into ConfigMaps, as the API server does."""

    async def merge(
        self, resource: Resource, namespace: str | None, name: str, patch: JsonObject, **more: Any
    ) -> JsonObject:
        if resource.plural == "configmaps" and not more.get("dry_run"):
            for each in self.objects:
                if (each["kind"], each["metadata"]["name"]) == ("ConfigMap", name):
                    _merge(each, patch)
        return await super().merge(resource, namespace, name, patch, **more)

    @property
    def flags(self) -> JsonObject:
        return next(each for each in self.objects if each["metadata"]["name"] == "config-features")


def _merge(target: JsonObject, patch: JsonObject) -> None:
    for key, value in patch.items():
        if value is None:
            target.pop(key, None)
        elif isinstance(value, dict):
            _merge(target.setdefault(key, {}), value)
        else:
            target[key] = value


def cluster_with(*more: JsonObject, **data: str) -> Cluster:
    return Cluster([KNATIVE, features(**({INIT: "enabled"} | data)), *copy.deepcopy(more)])


def test_flags_are_said_and_enabled_before_anything_is_installed(run: Run) -> None:
    cluster = cluster_with(**{AFFINITY: "Disabled"})
    screen = run("install", "--no-wait", "--knative-features", "podspec-tolerations,podspec-affinity", cluster=cluster)
    assert screen.code == 0
    assert screen.out.splitlines()[:3] == [
        f"configmap/config-features {AFFINITY}: Disabled -> enabled",
        f"configmap/config-features {TOLERATIONS}: not set -> enabled",
        "namespace/kubectl-serve created",
    ]
    assert cluster.wrote[0][:2] == ("merge", "configmaps")
    assert cluster.flags["data"] == {INIT: "enabled", AFFINITY: "enabled", TOLERATIONS: "enabled"}


def test_uninstall_reverts_exactly_what_install_enabled(run: Run) -> None:
    cluster = cluster_with(**{AFFINITY: "Disabled"})
    before = copy.deepcopy(cluster.flags["data"])
    run("install", "--no-wait", "--knative-features", "recommended", cluster=cluster)
    run("install", "--no-wait", "--knative-features", "podspec-schedulername", cluster=cluster)
    assert len(cluster.flags["data"]) > len(before) + 5
    screen = run("uninstall", "--no-wait", cluster=cluster)
    assert f"configmap/config-features {AFFINITY}: enabled -> Disabled" in screen.out.splitlines()
    assert f"configmap/config-features {TOLERATIONS}: enabled -> not set" in screen.out.splitlines()
    assert (cluster.flags["data"], cluster.flags["metadata"]["annotations"]) == (before, {})


def test_what_was_changed_since_stays(run: Run) -> None:
    cluster = cluster_with()
    run("install", "--no-wait", "--knative-features", "podspec-tolerations,podspec-affinity", cluster=cluster)
    cluster.flags["data"][AFFINITY] = "allowed"
    run("uninstall", "--no-wait", cluster=cluster)
    assert cluster.flags["data"] == {INIT: "enabled", AFFINITY: "allowed"}


def test_a_value_of_somebody_else_is_what_is_restored_after_a_second_install(run: Run) -> None:
    cluster = cluster_with()
    run("install", "--no-wait", "--knative-features", "podspec-affinity", cluster=cluster)
    cluster.flags["data"][AFFINITY] = "disabled"
    run("install", "--no-wait", "--knative-features", "podspec-affinity", cluster=cluster)
    run("uninstall", "--no-wait", cluster=cluster)
    assert cluster.flags["data"][AFFINITY] == "disabled"


def test_flags_that_were_on_are_not_ours(run: Run) -> None:
    cluster = cluster_with(**{AFFINITY: "Enabled"})
    run("install", "--no-wait", "--knative-features", "podspec-affinity,multi-container", cluster=cluster)
    assert [verb for verb, _, _ in cluster.wrote if verb == "merge"] == []
    run("uninstall", "--no-wait", cluster=cluster)
    assert cluster.flags["data"] == {INIT: "enabled", AFFINITY: "Enabled"}


def test_a_flag_that_a_served_deployment_needs_stays_until_it_is_gone(run: Run) -> None:
    cluster = Cluster([KNATIVE, features()])
    run("install", "--no-wait", "--knative-features", "recommended", cluster=cluster)
    served = [each for each in at_the_end("iris") if each["kind"] == "Deployment"]
    cluster.objects += served
    screen = run("uninstall", "--no-wait", cluster=cluster)
    assert f"which stay enabled: {INIT}. " in screen.err
    assert cluster.flags["data"] == {INIT: "enabled"}
    assert json.loads(cluster.flags["metadata"]["annotations"][RECORD]) == {INIT: None}
    cluster.objects = [each for each in cluster.objects if each not in served]
    assert run("uninstall", "--no-wait", cluster=cluster).out == (
        f"configmap/config-features {INIT}: enabled -> not set\n"
    )
    assert cluster.flags["data"] == {}


@pytest.mark.parametrize("record", ["no JSON", "[1]", '{"data": null, "kubernetes.podspec-affinity": 5}', "{}"])
def test_a_record_that_cannot_be_read_reverts_nothing(run: Run, record: str) -> None:
    cluster = cluster_with(**{AFFINITY: "enabled"})
    cluster.flags["metadata"]["annotations"] = {RECORD: record}
    run("uninstall", "--no-wait", cluster=cluster)
    assert cluster.flags["data"] == {INIT: "enabled", AFFINITY: "enabled"}


def test_the_required_flag_can_be_enabled_in_the_same_command(run: Run) -> None:
    cluster = Cluster([KNATIVE, features()])
    assert run("install", "--no-wait", "--knative-features", "recommended", cluster=cluster).code == 0
    assert cluster.flags["data"][INIT] == "enabled"


def test_without_the_required_flag_no_other_is_enabled(run: Run) -> None:
    cluster = Cluster([KNATIVE, features()])
    assert run("install", "--knative-features", "podspec-affinity", cluster=cluster).code == 1
    assert cluster.wrote == []


def test_dry_runs_show_the_flags_and_write_nothing(run: Run) -> None:
    shown = run("install", "--dry-run", "--knative-features", "podspec-affinity")
    assert shown.out.splitlines()[0] == f"configmap/config-features {AFFINITY}: enabled (dry run)"
    piped = run("install", "--dry-run", "-o", "yaml", "--knative-features", "podspec-affinity")
    assert AFFINITY not in piped.out
    assert piped.err == f"configmap/config-features {AFFINITY}: enabled (dry run)\n"
    cluster = cluster_with()
    tried = run("install", "--dry-run=server", "--knative-features", "podspec-affinity", cluster=cluster)
    assert tried.out.splitlines()[0] == f"configmap/config-features {AFFINITY}: not set -> enabled (server dry run)"
    assert cluster.flags["data"] == {INIT: "enabled"}
    run("install", "--no-wait", "--knative-features", "podspec-affinity", cluster=cluster)
    undone = run("uninstall", "--dry-run", cluster=cluster)
    assert f"configmap/config-features {AFFINITY}: enabled -> not set (dry run)" in undone.out
    assert cluster.flags["data"][AFFINITY] == "enabled"


def test_a_name_that_is_no_flag_is_refused_before_anything_is_asked(run: Run) -> None:
    screen = run("install", "--knative-features", "podspec-toleration")
    assert screen.code == 1
    assert screen.err.startswith('error: "podspec-toleration" is not a feature flag of Knative.\nhint: Did you mean ')


def test_without_the_config_map_nothing_is_installed(run: Run) -> None:
    cluster = Cluster([KNATIVE])
    screen = run("install", "--knative-features", "recommended", cluster=cluster)
    assert (screen.code, cluster.wrote) == (1, [])
    assert screen.err.startswith("error: there is no ConfigMap config-features in namespace knative-serving")


def test_uninstall_goes_on_where_the_flags_cannot_be_seen(run: Run) -> None:
    cluster = cluster_with()
    run("install", "--no-wait", cluster=cluster)

    class Hidden(Cluster):
        async def get(self, resource: Resource, namespace: str | None, name: str) -> JsonObject:
            if name == "config-features":
                raise errors.ForbiddenError("no", 403)
            return await super().get(resource, namespace, name)

    screen = run("uninstall", "--no-wait", cluster=Hidden(cluster.objects))
    assert (screen.code, screen.err.startswith("You cannot see ConfigMap config-features: ")) == (0, True)


CHAT = """\
apiVersion: apps/v1
kind: Deployment
metadata:
  name: chat
  annotations: {kubectl-serve.dev/model: "hf://acme/tiny"}
spec:
  selector: {matchLabels: {app: chat}}
  template:
    metadata: {labels: {app: chat}}
    spec:
      tolerations: [{operator: Exists}]
      containers:
      - {name: srv, image: "registry.example/srv:1", args: [/mnt/models], ports: [{containerPort: 9500}]}
"""


@pytest.fixture
def chat(tmp_path: Path) -> str:
    file = tmp_path / "chat.yaml"
    file.write_text(CHAT)
    return str(file)


def test_the_doctor_lists_what_files_need_and_the_command_that_enables_it(run: Run, chat: str) -> None:
    screen = run("doctor", "-f", chat, cluster=cluster_with())
    assert screen.code == 1
    assert [line.split() for line in screen.out.splitlines()] == [
        ["FLAG", "DEPLOYMENTS", "STATE"],
        [INIT, "1", "enabled"],
        [TOLERATIONS, "1", "disabled"],
        ["kubernetes.podspec-volumes-emptydir", "1", "enabled"],
        ["fix:", "kubectl", "serve", "install", "--knative-features", "podspec-tolerations"],
    ]
    assert screen.err == "1 Deployment judged\n"
    fixed = cluster_with(**{TOLERATIONS: "allowed"})
    assert run("doctor", "-f", chat, cluster=fixed).code == 0


def test_the_command_installs_with_the_images_of_the_cluster(run: Run, chat: str) -> None:
    cluster = cluster_with()
    run("install", "--no-wait", "--registry", "registry.example.com/serving", cluster=cluster)
    fix = run("doctor", "-f", chat, cluster=cluster).out.splitlines()[-1]
    again = "kubectl serve install --registry registry.example.com/serving"
    assert fix == f"fix: {again} --knative-features podspec-tolerations"


class Gone(FakeCluster):
    async def __aenter__(self) -> "Gone":
        raise errors.UnreachableError("nothing answers.")


def test_the_doctor_reads_files_without_a_cluster(run: Run, chat: str) -> None:
    screen = run("doctor", "-f", chat, "-o", "json", cluster=Gone())
    assert (screen.code, screen.err) == (0, "Without a cluster: nothing answers.\n")
    found = json.loads(screen.out)
    users = [f"deployment.apps/chat in {chat}"]
    assert found["features"][1] == {"flag": TOLERATIONS, "needs": "allowed", "deployments": users}
    assert found["missing"] == [INIT, TOLERATIONS]
    assert found["fix"] == "kubectl serve install --knative-features podspec-init-containers,podspec-tolerations"
    assert "<unknown>" in run("doctor", "-f", chat, cluster=Gone()).out


def test_flags_among_the_files_stand_for_the_clusters(run: Run, chat: str, tmp_path: Path) -> None:
    (tmp_path / "flags.yaml").write_text(json.dumps(features(**{INIT: "enabled", TOLERATIONS: "enabled"})))
    screen = run("doctor", "-f", str(tmp_path), "-o", "json")
    assert (screen.code, json.loads(screen.out)["missing"]) == (0, [])
    assert json.loads(screen.out)["features"][1]["state"] == "enabled"


def test_files_without_a_model_are_an_error(run: Run) -> None:
    text = CHAT.replace("annotations", "labels")
    screen = run("doctor", "-f", "-", stdin=text, cluster=Gone())
    assert screen.code == 1
    assert "error: no Deployment in - has a model, or runs a model server that is known." in screen.err


def test_what_is_refused_for_other_reasons_is_named(run: Run) -> None:
    text = CHAT.replace("      containers:", "      activeDeadlineSeconds: 5\n      containers:")
    screen = run("doctor", "-f", "-", stdin=text + "---\n{kind: Deployment, metadata: {name: b}}\n", cluster=Gone())
    assert screen.err.splitlines()[1:] == [
        "1 Deployment judged",
        "1 Deployment refused for other reasons, which `kubectl serve render -f` shows. They can need more flags:",
        "  deployment.apps/chat in standard input",
        "1 Deployment without a model passed over",
    ]
