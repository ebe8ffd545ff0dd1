"""Knative's feature flags on a real cluster: enabled for a Deployment that needs one, and reverted."""

from argparse import Namespace as Flags
from collections.abc import Iterator

import pytest

from cluster.support import Json, Namespace, deployment, eventually, file_server, manifest, pod_template
from kubectl_serve.cli.streams import Streams
from kubectl_serve.connection import connect
from kubectl_serve.install import features

FLAG = "kubernetes.podspec-tolerations"
KNATIVE = Namespace(features.NAMESPACE)
NO_FLAGS = dict.fromkeys(("kubeconfig", "context", "cluster", "user", "server", "token", "namespace", "as_user"))


def recorded() -> tuple[str | None, bool]:
    """The flag's value, and whether the ConfigMap says that ``install`` has set flags."""
    config_map = KNATIVE.get("configmap", features.CONFIG_MAP)
    return config_map["data"].get(FLAG), features.is_recorded(config_map)


@pytest.fixture(autouse=True)
def unchanged() -> Iterator[None]:
    before = recorded()
    yield
    assert recorded() == before == (None, False)


def tolerant() -> Json:
    spec = pod_template(file_server("server", "/mnt/models"), {"app": "model"})
    spec["template"]["spec"]["tolerations"] = [{"key": "gpu", "operator": "Exists"}]
    return deployment("tolerant", "s3://models/none/model.bin", spec, format="onnx")


async def test_a_flag_admits_a_deployment_until_it_is_reverted(empty: Namespace) -> None:
    assert FLAG in empty.refusal(tolerant())
    flags = Flags(**NO_FLAGS, as_groups=[], insecure_skip_tls_verify=False, request_timeout=30.0)
    streams = Streams.of_process()
    async with connect(flags, streams) as cluster:
        await features.enable(cluster, await features.read(cluster), (FLAG,), streams, dry_run="none")
        try:
            assert recorded() == ("enabled", True)
            eventually(lambda: _dry_run(empty), 30, "the Deployment is still refused")
        finally:
            await features.revert(cluster, (), streams, dry_run="none")
    eventually(lambda: not _dry_run(empty), 30, "the Deployment is still admitted")


def _dry_run(namespace: Namespace) -> bool:
    command = ("kubectl", "apply", "--dry-run=server", "-f", "-")
    return namespace.run(*command, stdin=manifest(tolerant()), check=False).returncode == 0
