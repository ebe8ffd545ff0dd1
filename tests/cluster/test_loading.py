"""Sources of models, and the messages when a download fails."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cluster.support import (
    LOADED,
    PREFIX,
    PYTHON_IMAGE,
    READY,
    Ingress,
    Json,
    Namespace,
    Store,
    Trained,
    condition,
    config_map,
    deployment,
    file_server,
    pod_template,
)
from serve_core.api import state
from support.loader_signing import Key

SOON = 15.0
"""Seconds within which a cause has to be on the Deployment."""


def cause_of_failure(namespace: Namespace, model: Json) -> tuple[Json, float]:
    """Apply a Deployment whose download fails; its condition with the cause, and the seconds it took to be there."""
    name = model["metadata"]["name"]
    began = time.monotonic()
    namespace.apply(model)
    found = namespace.watch(
        "deployment",
        name,
        lambda found: (
            condition(found, LOADED).get("reason") not in {None, "Loading"}
            and condition(found, LOADED)["status"] != "True"
        ),
    )
    seconds = time.monotonic() - began
    print(f"{condition(found, LOADED)} after {seconds:.1f} s")
    return found, seconds


def test_a_model_from_a_web_server(empty: Namespace, web: str, ingress: Ingress, iris: Trained) -> None:
    empty.apply(deployment("iris", f"{web}/model.joblib"))
    assert ingress.predict(empty.wait_ready("iris"), iris.rows).predicted == iris.answers


def test_a_prefix_of_a_bucket_pinned_from_the_desk(
    namespace: Namespace, store: Store, ingress: Ingress, iris: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key, value in (store.credentials | {"AWS_ENDPOINT_URL": store.address}).items():
        monkeypatch.setenv(key, value)
    model = ("--model", "s3://models/iris", "--format", "sklearn", "--credentials", "store")
    namespace.run("kubectl", "serve", "create", "iris", *model, "--pin")
    served = namespace.wait_ready("iris")
    assert ingress.predict(served, iris.rows).predicted == iris.answers
    pinned = served["metadata"]["annotations"]["kubectl-serve.dev/digest"]
    reported = condition(served, LOADED)["message"]
    assert reported.endswith(f', {pinned}. "model.joblib" can run code when it is loaded.')


@contextmanager
def claim(namespace: Namespace, folder: Path, access: str) -> Iterator[None]:
    """The claim ``models`` with a folder of the test: the node is this machine."""
    for parent in (folder, *folder.parents[:2]):
        parent.chmod(0o755)
    name = f"models-{namespace.name}"
    size = {"storage": "1Gi"}
    spec = {"accessModes": [access], "storageClassName": ""}
    namespace.apply(
        {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": name},
            "spec": {**spec, "capacity": size, "hostPath": {"path": str(folder)}},
        },
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": "models"},
            "spec": {**spec, "resources": {"requests": size}, "volumeName": name},
        },
    )
    try:
        yield
    finally:
        namespace.kubectl("delete", "persistentvolume", name, "--wait=false")


def test_a_model_in_a_claim_is_mounted_without_a_loader(
    empty: Namespace, ingress: Ingress, iris: Trained, tmp_path: Path
) -> None:
    folder = tmp_path / "credit risk" / "50% #é"
    folder.mkdir(parents=True)
    (folder / "model.joblib").write_bytes(iris.content)
    with claim(empty, tmp_path, "ReadOnlyMany"):
        empty.apply(deployment("iris", "pvc://models/credit%20risk/50%25%20%23%C3%A9/model.joblib"))
        served = empty.wait_ready("iris")
        assert ingress.predict(served, iris.rows).predicted == iris.answers
        assert condition(served, LOADED)["reason"] == "NotNeeded"
        (pod,) = empty.list("pods")
        assert "initContainers" not in pod["spec"]


def test_a_snapshot_of_a_hub_cache_on_a_claim(
    empty: Namespace, ingress: Ingress, iris: Trained, tmp_path: Path
) -> None:
    # The layout is that of huggingface_hub; the format is one that can be served here.
    snapshot = tmp_path / "hub" / "models--acme--iris" / "snapshots" / ("0" * 40)
    blobs = snapshot.parents[1] / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    (blobs / "1234").write_bytes(iris.content)
    (snapshot / "model.joblib").symlink_to("../../blobs/1234")
    with claim(empty, tmp_path, "ReadOnlyMany"):
        empty.apply(deployment("iris", f"pvc://models/{snapshot.relative_to(tmp_path)}/model.joblib"))
        assert ingress.predict(empty.wait_ready("iris"), iris.rows).predicted == iris.answers


def test_pods_share_a_download_on_a_claim(
    empty: Namespace, web: str, ingress: Ingress, iris: Trained, tmp_path: Path
) -> None:
    with claim(empty, tmp_path, "ReadWriteMany"):
        tmp_path.chmod(0o777)  # the loader is no administrator of the node
        model = f"{web}/model.joblib"
        cached = {"cache": "pvc://models/llm", "scale": "2..2"}
        empty.apply(deployment("iris", model, **cached))
        assert ingress.predict(empty.wait_ready("iris"), iris.rows).predicted == iris.answers
        empty.watch("deployment", "iris", lambda _: len(loaders(empty)) == 2)
        logs = [empty.kubectl("logs", name, "--container=model-loader") for name in loaders(empty)]
        assert all('"event":"loaded"' in log for log in logs)
        assert sum('"event":"progress"' in log for log in logs) == 1, logs
        (request,) = (tmp_path / "llm").iterdir()
        (version,) = (request / "versions").iterdir()
        assert (version / "model" / "model.joblib").read_bytes() == iris.content
        assert not list((request / "work").iterdir())


def loaders(namespace: Namespace) -> list[str]:
    """The names of the pods whose loader has ended."""
    return [
        pod["metadata"]["name"]
        for pod in namespace.list("pods", f"{PREFIX}deployment=iris")
        for status in pod["status"].get("initContainerStatuses", [])
        if status["name"] == "model-loader" and "terminated" in status["state"]
    ]


def test_ones_own_container_gets_the_model_mounted(namespace: Namespace, ingress: Ingress) -> None:
    spec = pod_template(file_server("files", "/mnt/models"), {"app": "own"})
    namespace.apply(deployment("own", "s3://models/iris/model.joblib", spec, credentials="store", runtime="custom"))
    served = namespace.wait_ready("own")
    url = state.read(served).url
    assert ingress.request(url, "/model.joblib").status == 200
    assert served["spec"]["template"]["spec"]["containers"][0]["image"] == PYTHON_IMAGE
    # The pod's token for the API server is the server's alone.
    (pod, *_) = namespace.list("pods", "kubectl-serve.dev/deployment=own")
    account = "/var/run/secrets/kubernetes.io/serviceaccount"
    loader, server = (
        {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        for container in (pod["spec"]["initContainers"][0], pod["spec"]["containers"][0])
    )
    assert loader[account] == "model"
    assert server[account].startswith("kube-api-access-")


def test_a_model_that_is_not_there(empty: Namespace, web: str) -> None:
    found, seconds = cause_of_failure(empty, deployment("missing", f"{web}/nothing.joblib"))
    assert condition(found, LOADED)["reason"] == "NotFound"
    assert condition(found, READY)["status"] != "True"
    assert seconds < SOON


def test_an_object_that_is_not_in_the_bucket(namespace: Namespace) -> None:
    found, seconds = cause_of_failure(
        namespace, deployment("missing", "s3://models/nothing/model.joblib", credentials="store")
    )
    assert condition(found, LOADED)["reason"] == "NotFound"
    assert seconds < SOON


def test_wrong_credentials(empty: Namespace, store: Store) -> None:
    empty.apply(store.secret(AWS_SECRET_ACCESS_KEY="not-the-key"))
    found, seconds = cause_of_failure(empty, deployment("iris", "s3://models/iris/model.joblib", credentials="store"))
    assert condition(found, LOADED)["reason"] == "Unauthorized"
    assert "not-the-key" not in str(found["status"])
    assert seconds < SOON


def test_a_store_that_cannot_be_reached(empty: Namespace, store: Store) -> None:
    # A Service without endpoints refuses the connection; the loader goes on trying.
    empty.apply(
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "nobody"}, "spec": {"ports": [{"port": 80}]}}
    )
    empty.apply(store.secret(AWS_ENDPOINT_URL=f"http://nobody.{empty.name}.svc"))
    found, seconds = cause_of_failure(empty, deployment("iris", "s3://models/iris/model.joblib", credentials="store"))
    assert condition(found, LOADED)["reason"] == "Unreachable"
    assert seconds < SOON


def test_a_model_with_another_digest_is_never_served(namespace: Namespace) -> None:
    model = deployment("iris", "s3://models/iris/model.joblib", credentials="store", digest=f"sha256:{'0' * 64}")
    found, _ = cause_of_failure(namespace, model)
    assert condition(found, LOADED)["reason"] == "DigestMismatch"


def test_a_model_is_served_as_it_was_signed_or_not_at_all(
    namespace: Namespace, store: Store, ingress: Ingress, iris: Trained, always_two: Trained, tmp_path: Path
) -> None:
    team = Key(tmp_path / "team")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.joblib").write_bytes(iris.content)
    team.sign(tmp_path / "model")
    for name, content in {"signed": iris.content, "changed": always_two.content}.items():
        store.bucket.put(f"{name}/model.joblib", content)
        store.bucket.put(f"{name}/model.sig", (tmp_path / "model" / "model.sig").read_bytes())
    namespace.apply(config_map("ml-team", {"key.pub": team.public.read_bytes()}))
    asked = {"credentials": "store", "signature-key": "ml-team"}

    namespace.apply(
        deployment("signed", "s3://models/signed/model.joblib", **asked),
        deployment("keyless", "s3://models/signed/model.joblib", **asked | {"signature-key": "nobody"}),
    )
    found, _ = cause_of_failure(namespace, deployment("changed", "s3://models/changed/model.joblib", **asked))

    assert condition(found, LOADED)["reason"] == "NotSigned"
    assert "model.joblib is not the file that was signed. Restore the model" in condition(found, LOADED)["message"]
    reported = namespace.watch("deployment", "keyless", lambda found: condition(found, LOADED).get("status") == "False")
    assert condition(reported, LOADED)["reason"] == "ConfigMapNotFound"
    served = namespace.wait_ready("signed")
    assert ", its signature verified, sha256:" in condition(served, LOADED)["message"]
    assert ingress.predict(served, iris.rows).predicted == iris.answers


def test_a_broken_model_never_becomes_ready(
    namespace: Namespace, store: Store, ingress: Ingress, iris: Trained
) -> None:
    """The old revision goes on answering where the new one's model cannot be loaded by the server."""
    store.bucket.put("broken/model.joblib", b"this is no model")
    namespace.apply(deployment("iris", "s3://models/iris/model.joblib", credentials="store"))
    namespace.wait_ready("iris")

    namespace.apply(deployment("iris", "s3://models/broken/model.joblib", credentials="store"))
    failed = namespace.watch("deployment", "iris", lambda found: condition(found, READY).get("status") == "False")

    assert condition(failed, READY)["reason"] == "RevisionFailed"
    assert "iris-00001 keeps serving" in condition(failed, READY)["message"]
    assert ingress.predict(failed, iris.rows).predicted == iris.answers


def test_a_secret_that_is_created_later_is_reported_and_awaited(empty: Namespace, store: Store) -> None:
    found, seconds = cause_of_failure(empty, deployment("iris", "s3://models/iris/model.joblib", credentials="store"))
    assert condition(found, LOADED)["reason"] == "SecretNotFound"
    assert f"kubectl create secret generic store -n {empty.name} " in condition(found, READY)["message"]
    assert seconds < SOON
    empty.apply(store.secret())
    empty.wait_ready("iris", seconds=180)


@pytest.mark.parametrize(
    ("loader", "reason"),
    [
        pytest.param({"resources": {"limits": {"memory": "8Mi"}}}, "OutOfMemory", id="memory"),
        pytest.param({"imagePullPolicy": "Always"}, "ImagePullFailed", id="image"),
    ],
)
def test_a_loader_that_cannot_run_is_reported(namespace: Namespace, loader: Json, reason: str) -> None:
    spec = pod_template({"name": "model-server"}, {"app": "iris"})
    spec["template"]["spec"]["initContainers"] = [{"name": "model-loader"} | loader]
    model = deployment("iris", "s3://models/iris/model.joblib", spec, credentials="store")
    found, _ = cause_of_failure(namespace, model)
    assert condition(found, LOADED)["reason"] == reason
    assert condition(found, READY)["status"] == "False"
