"""A namespace that gives its pods their user IDs, as OpenShift does: nothing of kubectl-serve names another one."""

import json
import subprocess
from collections.abc import Iterator

import pytest

from cluster.support import (
    RESTRICTED,
    Ingress,
    Json,
    Namespace,
    Trained,
    deployment,
    eventually,
    file_server,
    manifest,
)
from serve_core.context.cluster import USER_RANGE

IRIS = "s3://models/iris/model.joblib"
FIRST, LENGTH = 1_000_680_000, 10_000
USER = FIRST + 1


@pytest.fixture
def ranged(namespace: Namespace) -> Iterator[Namespace]:
    """A namespace with a range of user IDs. Its pods must run in that range, and no container can leave it."""
    name = f"user-range-{namespace.name}"
    user = "object.spec.securityContext.runAsUser"
    inside = f"has(object.spec.securityContext) && has({user}) && {user} >= {FIRST} && {user} < {FIRST + LENGTH}"
    free = f"c, !has(c.securityContext) || !has(c.securityContext.runAsUser) || c.securityContext.runAsUser >= {FIRST}"
    policy: Json = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": name},
        "spec": {
            "matchConstraints": {
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace.name}},
                "resourceRules": [
                    {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}
                ],
            },
            "validations": [
                {"expression": inside, "message": "the pod is outside the range"},
                {"expression": f"object.spec.containers.all({free})", "message": "a container leaves the range"},
                {
                    "expression": f"!has(object.spec.initContainers) || object.spec.initContainers.all({free})",
                    "message": "an init container leaves the range",
                },
            ],
        },
    }
    binding: Json = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": name},
        "spec": {"policyName": name, "validationActions": ["Deny"]},
    }
    namespace.kubectl("annotate", "namespace", namespace.name, f"{USER_RANGE}={FIRST}/{LENGTH}")
    namespace.apply(policy, binding)
    try:
        container = file_server("web", "/") | {"securityContext": {**RESTRICTED, "runAsUser": 1000}}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "outside"}, "spec": {"containers": [container]}}
        dry = ("kubectl", "create", "--dry-run=server", "-f", "-")
        eventually(
            lambda: "outside the range" in namespace.run(*dry, stdin=manifest(pod), check=False).stderr,
            30,
            "the range is enforced",
        )
        yield namespace
    finally:
        for each in ("validatingadmissionpolicybinding", "validatingadmissionpolicy"):
            namespace.kubectl("delete", each, name)


def test_a_model_is_served_by_a_user_of_the_range(ranged: Namespace, iris: Trained) -> None:
    spec = {
        "selector": {"matchLabels": {"app": "iris"}},
        # The platform writes the user into the pod. No policy of this cluster can do that, so the test writes it.
        "template": {
            "metadata": {"labels": {"app": "iris"}},
            "spec": {"securityContext": {"runAsUser": USER}, "containers": [{"name": "model-server"}]},
        },
    }
    ranged.apply(deployment("iris", IRIS, spec, credentials="store", mode="deployment"))
    ranged.wait_ready("iris")

    address = ranged.get("service", "iris")["spec"]["clusterIP"]
    rows = {"name": "rows", "datatype": "FP64", "shape": [1, 4], "data": iris.rows[0]}
    answer = Ingress(address).request("http://iris", "/v2/models/iris/infer", json.dumps({"inputs": [rows]}))
    assert answer.predicted == iris.answers[:1]
    look = "import os; print(os.getuid(), os.access(os.environ['HOME'], os.W_OK))"
    inside = ("kubectl", "exec", f"--namespace={ranged.name}", "deployment/iris", "--container=model-server", "--")
    done = subprocess.run([*inside, "/opt/mlserver/bin/python", "-c", look], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(USER), "True"]


def test_no_runtime_names_a_user(ranged: Namespace) -> None:
    dry = ("apply", "--dry-run=server", "-o", "json", "-f", "-")
    made = json.loads(ranged.kubectl(*dry, stdin=json.dumps(deployment("chat", "s3://models/chat/model.gguf"))))
    pod = made["spec"]["template"]["spec"]
    users = [each.get("securityContext", {}).get("runAsUser") for each in [*pod["initContainers"], *pod["containers"]]]
    assert users == [None, None]
