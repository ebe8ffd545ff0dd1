"""describe: one screen with annotations, choices, objects and results."""

import json

import pytest

from support.fake_cluster import FakeCluster, at_the_end, recorded
from support.istio_installation import control_plane, named
from unit.kubectl_serve.conftest import Run


@pytest.fixture
def models() -> FakeCluster:
    objects = [*at_the_end("iris"), *at_the_end("nope"), *recorded("around")]
    return FakeCluster(objects, namespace="models", elapsed=60)


def test_the_whole_screen(run: Run, models: FakeCluster) -> None:
    screen = run("describe", "iris", cluster=models)
    assert (screen.code, screen.err) == (0, "")
    head, _, events = screen.out.partition("Events:\n")
    pod = next(each["metadata"]["name"] for each in models.objects if each["kind"] == "Pod")
    assert head == (
        "Name:       iris\n"
        "Namespace:  models\n"
        "Service:    iris\n"
        "Ready:      True\n"
        "URL:        http://iris.models.kubectl-serve.test\n"
        "Age:        60s\n"
        "Settings:\n"
        "  model:  http://store.example.com/iris/model.joblib\n"
        "Choices:\n"
        "  FormatFromURI: format sklearn, because the model's name ends in .joblib.\n"
        "  RuntimeByFormat: runtime mlserver-sklearn, because it serves sklearn with the highest priority.\n"
        "  ModelPathIsFile: the server loads /mnt/models/model.joblib, because the URI names one file.\n"
        "  ModelByLoader: init container model-loader downloads the model before the server starts.\n"
        "Set by kubectl-serve:\n"
        "  Deployment: labels, selector\n"
        "  container model-server: env, image, imagePullPolicy, name, ports, readinessProbe, resources, "
        "securityContext, terminationMessagePath, terminationMessagePolicy, volumeMounts\n"
        "  init container model-loader: args, image, imagePullPolicy, name, resources, securityContext, "
        "terminationMessagePath, terminationMessagePolicy, volumeMounts\n"
        "  pods: labels, automountServiceAccountToken, volumes\n"
        "Conditions:\n"
        "  kubectl-serve.dev/ModelLoaded: True (Loaded)\n"
        "    Downloaded 991 B in 1 file in 0.0 s.\n"
        "  kubectl-serve.dev/Ready: True (Ready)\n"
        "    The model answers. URL: http://iris.models.kubectl-serve.test\n"
        "Revisions:\n"
        "  NAME        READY  TRAFFIC  REASON  AGE\n"
        "  iris-00001  True   100%     <none>  60s\n"
        "Pods:\n"
        f"  {'NAME':<{len(pod)}}  STATE  RESTARTS  NODE           AGE\n"
        f"  {pod}  Ready  0         kubectl-serve  60s\n"
    )
    assert events.splitlines()[0].split() == ["LAST", "TYPE", "REASON", "ABOUT", "MESSAGE"]
    assert events.splitlines()[-1].startswith("  44s   Normal   Ready ")


def test_a_failure_is_shown_with_cause_and_hint(run: Run, models: FakeCluster) -> None:
    out = run("describe", "nope", cluster=models).out
    assert "Ready:      False (NotFound)\n" in out
    assert "kubectl-serve.dev/ModelLoaded: False (NotFound)\n    http://store.example.com/iris/nope.joblib" in out
    assert "Init:" in out


def test_json_has_all_that_the_screen_shows(run: Run, models: FakeCluster) -> None:
    document = json.loads(run("describe", "iris", "-o", "json", cluster=models).out)
    assert document["name"] == "iris"
    assert document["asked"] == {"model": "http://store.example.com/iris/model.joblib"}
    assert document["revisions"][0]["percent"] == 100
    assert {"choices", "filled", "conditions", "pods", "events"} <= document.keys()


def test_what_one_may_not_see_is_left_out(run: Run, models: FakeCluster) -> None:
    models.hidden = frozenset({"pods", "events", "revisions", "services"})
    screen = run("describe", "iris", cluster=models)
    assert screen.code == 0
    assert "Pods:\n  <none>\nEvents:\n  <none>\n" in screen.out
    assert screen.err == "You are not allowed to see events, pods, revisions in namespace models: they are omitted.\n"


def test_choices_for_the_mesh_are_shown_with_their_reason(run: Run, models: FakeCluster) -> None:
    plane = control_plane()
    for each in plane["config_maps"]:
        models.objects.append({"apiVersion": "v1", "kind": "ConfigMap", **each})
        each["metadata"]["namespace"] = "istio-system"
    head = {"apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration"}
    models.objects += [head | injector for injector in plane["injectors"]]
    for kind, one in {
        "Node": named("a", status={"nodeInfo": {"kubeletVersion": "v1.35.4"}}),
        "Namespace": named("models", {"istio-injection": "enabled"}),
    }.items():
        models.objects.append({"apiVersion": "v1", "kind": kind, **one})
    out = run("describe", "iris", cluster=models).out
    assert "  MeshSidecar: a sidecar of Istio revision default, because the namespace's label" in out
    assert "  LoaderBehindSidecar: a native sidecar, which starts before the loader, because Istio is 1.29" in out
    models.hidden = frozenset({"mutatingwebhookconfigurations", "configmaps", "namespaces", "nodes"})
    assert "MeshSidecar" not in run("describe", "iris", cluster=models).out
