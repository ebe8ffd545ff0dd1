"""Models that are images: the kubelet pulls them once, and mounts them in place of the loader."""

import os
from collections.abc import Iterator

import pytest

from cluster import registry
from cluster.registry import Registry
from cluster.support import (
    LOADED,
    PREFIX,
    Ingress,
    Json,
    Namespace,
    Trained,
    condition,
    constant_requests,
    deployment,
)

NOT_ON_NODE = "downloads the model for each pod, because"


@pytest.fixture
def models(empty: Namespace, iris: Trained) -> Iterator[Registry]:
    """A registry with the model ``iris`` in an image, and its password in the Secret ``registry``."""
    # An image has more than the model; a server must not see that.
    # No node has this one from another test.
    files = {"models/model.joblib": iris.content, "etc/other": os.urandom(16)}
    with registry.served(empty, files) as found:
        empty.apply(found.secret("registry"))
        yield found


def on_node(models: Registry, name: str = "iris", **annotations: str) -> Json:
    wanted = {"format": "sklearn", "cache": "node", "credentials": "registry", "scale": "1"}
    return deployment(name, models.uri, **wanted | annotations)


def loaded(found: Json) -> Json:
    return condition(found, LOADED)


def pod_spec(namespace: Namespace, name: str = "iris") -> Json:
    spec: Json = namespace.get("deployment", name)["spec"]["template"]["spec"]
    return spec


def test_a_model_is_pulled_once_and_served_without_a_loader(
    empty: Namespace, models: Registry, ingress: Ingress, iris: Trained
) -> None:
    empty.apply(on_node(models))
    found = empty.wait_ready("iris")
    assert "initContainers" not in pod_spec(empty)
    assert ingress.predict(found, iris.rows).predicted == iris.answers
    assert (loaded(found)["status"], loaded(found)["reason"]) == ("True", "ModelPulled")
    assert models.downloads == 1
    # More pods, of this model and of another, by tag and by digest.
    empty.apply(on_node(models, scale="2..2"), on_node(models, "second", mode="deployment"))
    pinned = on_node(models, "pinned")
    pinned["metadata"]["annotations"][f"{PREFIX}model"] = f"{models.uri}@{models.digest}"
    empty.apply(pinned)
    for name in ("iris", "second", "pinned"):
        empty.wait_ready(name)
    assert models.downloads == 1


def test_without_the_right_password_the_condition_shows_what_to_change(empty: Namespace, models: Registry) -> None:
    empty.apply(models.secret("wrong", "reader:guessed"))
    empty.apply(on_node(models, credentials="wrong"))
    found = empty.watch("deployment", "iris", lambda each: loaded(each).get("status") == "False")
    assert loaded(found)["reason"] == "ModelNotPulled"
    assert "401 Unauthorized" in loaded(found)["message"]
    assert "kubernetes.io/dockerconfigjson" in loaded(found)["message"]
    # Also where the node has the image.
    empty.apply(on_node(models, "right"))
    empty.wait_ready("right")
    pinned = on_node(models, "guessed", credentials="wrong")
    pinned["metadata"]["annotations"][f"{PREFIX}model"] = f"{models.uri}@{models.digest}"
    empty.apply(pinned)
    found = empty.watch("deployment", "guessed", lambda each: loaded(each).get("status") == "False")
    assert loaded(found)["reason"] == "ModelNotPulled"


def test_an_image_without_a_model_is_reported(empty: Namespace) -> None:
    with registry.served(empty, {"etc/other": b"x"}) as found:
        empty.apply(found.secret("registry"), on_node(found))
        reported = empty.watch("deployment", "iris", lambda each: loaded(each).get("status") == "False")
        assert loaded(reported)["reason"] == "ModelNotMounted"


def test_what_only_the_loader_does_keeps_the_loader(
    empty: Namespace, models: Registry, ingress: Ingress, iris: Trained
) -> None:
    empty.apply(on_node(models, files="*.joblib"))
    found = empty.wait_ready("iris")
    assert [each["name"] for each in pod_spec(empty)["initContainers"]] == ["model-loader"]
    assert f"{NOT_ON_NODE} only the loader applies kubectl-serve.dev/files." in loaded(found)["message"]
    assert ingress.predict(found, iris.rows).predicted == iris.answers


def test_a_change_of_the_cache_fails_no_request(
    empty: Namespace, models: Registry, ingress: Ingress, iris: Trained
) -> None:
    empty.apply(on_node(models, cache="none"))
    found = empty.wait_ready("iris")
    with constant_requests(lambda: ingress.predict(found, iris.rows)) as requests:
        for cache in ("node", "none"):
            empty.kubectl("annotate", "deployment/iris", f"{PREFIX}cache={cache}", "--overwrite")
            found = empty.wait_ready("iris")
            assert ("initContainers" in pod_spec(empty)) is (cache == "none")
    assert not requests.failed
    assert all(each == iris.answers for each in requests.predictions)
