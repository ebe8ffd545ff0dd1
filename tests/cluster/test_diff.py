"""``kubectl serve diff`` shows what an apply then does, and changes nothing."""

import json
import subprocess

import pytest

from cluster.support import PREFIX, Json, Namespace, deployment, manifest

MODEL = deployment("iris", "s3://models/iris/model.joblib", credentials="store", scale="0..3")
CHANGED = deployment("iris", "s3://models/always-two/model.joblib", credentials="store", scale="0..4")
WRONG = deployment("iris", "s3://models/iris/model.joblib", scale="many")


def diff(namespace: Namespace, *objects: Json, flags: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    command = ("kubectl", "serve", "diff", *flags, "-f", "-")
    return namespace.run(*command, stdin=manifest(*objects), check=False)


def changed(done: subprocess.CompletedProcess[str]) -> list[str]:
    """The lines that would go and come, without their indentation."""
    lines = done.stdout.splitlines()
    return [line[0] + line[1:].strip() for line in lines if line[0] in "+-" and line[:3] not in ("---", "+++")]


def versions(namespace: Namespace) -> dict[str, str]:
    """The version of what was written; of revisions, whose status Knative writes at any time, the name."""
    found = [each for kind in ("deployments", "services.serving.knative.dev") for each in namespace.list(kind)]
    revisions = namespace.list("revisions.serving.knative.dev")
    return {each["kind"]: each["metadata"]["resourceVersion"] for each in found} | {
        each["metadata"]["name"]: each["kind"] for each in revisions
    }


def as_said(service: Json) -> set[str]:
    """The annotations that scale the model, and where the loader takes it from, as lines of YAML."""
    template = service["spec"]["template"]
    scale = {key: value for key, value in template["metadata"]["annotations"].items() if key.endswith("-scale")}
    return {f"{key}: '{value}'" for key, value in scale.items()} | {
        f"- {word}" for word in template["spec"]["initContainers"][0]["args"] if word.startswith("s3://")
    }


def test_the_difference_is_what_an_apply_makes(namespace: Namespace) -> None:
    new = diff(namespace, MODEL)
    assert new.returncode == 1, new.stderr
    assert {line[0] for line in changed(new)} == {"+"}
    assert versions(namespace) == {}

    namespace.apply(MODEL)
    namespace.wait_ready("iris")
    before = versions(namespace)
    same = diff(namespace, MODEL)
    assert (same.returncode, same.stdout, same.stderr) == (0, "", "")

    old = as_said(namespace.get("services.serving.knative.dev", "iris"))
    other = diff(namespace, CHANGED)
    assert other.returncode == 1, other.stderr
    server_side = diff(namespace, CHANGED, flags=("--server-side", "--force-conflicts"))
    assert server_side.stdout == other.stdout
    conflict = diff(namespace, CHANGED, flags=("--server-side", "--field-manager", "somebody"))
    assert conflict.returncode == 2
    assert 'conflicts with "kubectl-client-side-apply"' in conflict.stderr
    assert versions(namespace) == before

    refused = diff(namespace, WRONG)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.splitlines()[0] == "error: deployment.apps/iris in standard input is refused:"
    assert "InvalidAnnotation: " in refused.stderr

    namespace.apply(CHANGED)
    namespace.wait_ready("iris")
    now = as_said(namespace.get("services.serving.knative.dev", "iris"))
    assert sorted(changed(other)) == sorted([f"-{line}" for line in old - now] + [f"+{line}" for line in now - old])
    assert diff(namespace, CHANGED).stdout == ""


@pytest.fixture
def limited(namespace: Namespace) -> str:
    """A user who may change Deployments, and nothing that they become."""
    rules = [{"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["get", "create", "patch"]}]
    role = {"apiVersion": "rbac.authorization.k8s.io/v1", "metadata": {"name": "limited"}}
    binding: Json = {
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "limited"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "limited"}],
    }
    namespace.apply(role | {"kind": "Role", "rules": rules}, role | {"kind": "RoleBinding"} | binding)
    return "limited"


def test_who_may_only_apply_deployments_sees_what_becomes_of_them(namespace: Namespace, limited: str) -> None:
    namespace.apply(MODEL)
    namespace.watch("services.serving.knative.dev", "iris", lambda found: "status" in found)
    expected = diff(namespace, CHANGED)
    seen = diff(namespace, CHANGED, flags=("--as", limited))
    assert seen.returncode == 1
    assert changed(seen) == changed(expected) != []
    assert seen.stderr.startswith("Warning: Cannot dry-run service.serving.knative.dev in namespace ")
    assert diff(namespace, MODEL, flags=("--as", limited)).returncode == 0


def test_taking_the_annotation_off_takes_the_knative_service_away(namespace: Namespace) -> None:
    labels = {"app": "iris"}
    container = {"name": "model-server", "image": "dev.local/kubectl-serve/mlserver-sklearn:1.7.1"}
    spec = {
        "replicas": 2,
        "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}},
    }
    served = deployment("iris", "s3://models/iris/model.joblib", spec, credentials="store")
    namespace.apply(served)
    namespace.watch("services.serving.knative.dev", "iris", lambda found: "status" in found)
    assert diff(namespace, served).stdout == ""
    plain = json.loads(json.dumps(served))
    del plain["metadata"]["annotations"]
    done = diff(namespace, plain)
    assert done.returncode == 1, done.stderr
    deployed, gone = done.stdout.split("diff -u -N ")[1:]
    assert "-  replicas: 0\n+  replicas: 2\n" in deployed
    assert f"+++ MERGED/serving.knative.dev.v1.Service.{namespace.name}.iris\n@@ -1," in gone
    assert {line[0] for line in gone.splitlines()[4:]} == {"-"}
    assert PREFIX not in "".join(line for line in deployed.splitlines() if line.startswith("+"))
