"""``kubectl serve policy`` against a cluster, and ``render`` with policies among the files: whole screens."""

from pathlib import Path

import pytest
import yaml

from kubectl_serve.install import manifests
from serve_core.admission.decide import judge
from serve_core.base.json import JsonObject
from serve_core.policy.parse import read_policy
from support.fake_cluster import FakeCluster
from unit.kubectl_serve.conftest import Run

POLICIES = """\
apiVersion: kubectl-serve.dev/v1alpha1
kind: ServingPolicy
metadata: {name: adopting, creationTimestamp: "2026-11-23T17:40:00Z"}
spec:
  match: {namespaces: [ml]}
  adopt: {model: "s3://models/{label}/model.joblib"}
  defaults: {scale: 0..2}
---
apiVersion: kubectl-serve.dev/v1alpha1
kind: ServingPolicy
metadata: {name: stores, creationTimestamp: "2026-11-23T17:40:00Z"}
spec:
  rules:
    - {name: places, sources: {allow: ["s3://models/other"]}}
    - {name: most, action: Warn, scale: {most: 5}}
"""
EXCEPTIONS = """\
apiVersion: kubectl-serve.dev/v1alpha1
kind: PolicyException
metadata: {name: move, namespace: kubectl-serve, creationTimestamp: "2026-11-23T17:40:00Z"}
spec:
  {policy: stores, rules: [places], match: {namespace: other}, expires: "2026-11-24T00:00:00Z", reason: r, ticket: T-1}
---
apiVersion: kubectl-serve.dev/v1alpha1
kind: PolicyException
metadata: {name: old, namespace: kubectl-serve, creationTimestamp: "2026-11-23T17:40:00Z"}
spec:
  {policy: stores, rules: [places], match: {namespace: ml}, expires: "2026-11-23T00:00:00Z", reason: r, ticket: T-0}
"""
QUEUE_PROXY = "example.org/knative/queue@sha256:1"
LABELLED = """\
apiVersion: apps/v1
kind: Deployment
metadata:
  name: iris
  namespace: ml
  labels: {kubectl-serve.dev/adopt: iris}
"""


def documents(text: str) -> list[JsonObject]:
    return list(yaml.safe_load_all(text))


def cluster() -> FakeCluster:
    policies = documents(POLICIES)
    base = manifests.default_context()
    known = type(base)(base.loader, base.runtimes, policies=tuple(map(read_policy, policies)))
    served = judge(documents(LABELLED)[0], known).deployment
    assert served is not None
    features = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "config-features", "namespace": "knative-serving"},
        "data": dict(base.features),
    }
    images = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "config-deployment", "namespace": "knative-serving"},
        "data": {"queue-sidecar-image": QUEUE_PROXY},
    }
    configuration = [each for each in manifests.all_objects() if each["kind"] == "ConfigMap"]
    return FakeCluster([*policies, *documents(EXCEPTIONS), served, features, images, *configuration], namespace="ml")


def test_render_gives_what_the_policies_among_the_files_give(run: Run, tmp_path: Path) -> None:
    (tmp_path / "policies.yaml").write_text(POLICIES)
    (tmp_path / "iris.yaml").write_text(LABELLED)
    screen = run("render", "-f", str(tmp_path), "--reasons", "--only", "deployment")
    assert (screen.code, "error: deployment/iris is denied:\n" in screen.err) == (1, True)
    notes = yaml.safe_load(screen.out)["metadata"]["annotations"]
    assert notes["kubectl-serve.dev/model"] == "s3://models/iris/model.joblib"
    assert notes["kubectl-serve.dev/scale"] == "0..2"
    assert "AdoptedByPolicy: the model is s3://models/iris/model.joblib, because policy adopting adopts" in screen.err


def test_render_warns_of_an_adopt_label_without_a_policy(run: Run) -> None:
    screen = run("render", "-f", "-", stdin=LABELLED)
    assert (screen.code, screen.out) == (0, "")
    assert screen.err == (
        "Warning: deployment.apps/iris in standard input: NotAdopted: metadata.labels[kubectl-serve.dev/adopt]: no "
        "policy adopts Deployments in namespace ml, so no model is served. Add kubectl-serve.dev/model, or remove the "
        "label.\n1 object without a model skipped\n"
    )


def test_render_does_not_guess_at_a_policy_that_cannot_be_read(run: Run) -> None:
    screen = run("render", "-f", "-", stdin=POLICIES.replace("{label}", "{user}") + "---\n" + LABELLED)
    assert screen.code == 1
    assert "InvalidPolicy: spec.adopt.model" in screen.err


def test_list_shows_policies_and_when_exceptions_end(run: Run) -> None:
    assert run("policy", "list", cluster=cluster()).out == (
        "NAME      ACTION  RULES  DEFAULTS  ADOPTS  EXCEPTIONS  AGE\n"
        "adopting  Deny    0      1         yes     0           6m50s\n"
        "stores    Deny    2      0         no      1           6m50s\n"
        "\n"
        "EXCEPTION  POLICY  RULES   FOR      EXPIRES                         TICKET  AGE\n"
        "move       stores  places  other/*  2026-11-24T00:00:00Z            T-1     6m50s\n"
        "old        stores  places  ml/*     2026-11-23T00:00:00Z (expired)  T-0     6m50s\n"
    )


def test_policies_are_shown_as_yaml_without_managed_fields(run: Run) -> None:
    known = cluster()
    for each in known.objects:
        each["metadata"]["managedFields"] = [{"manager": "kubectl"}]
    (shown,) = yaml.safe_load_all(run("policy", "list", "-o", "yaml", cluster=known).out)
    assert [each["metadata"]["name"] for each in shown["items"]] == ["adopting", "stores", "move", "old"]
    assert not any("managedFields" in each["metadata"] for each in shown["items"])
    explained = yaml.safe_load(run("policy", "explain", "iris", "-o", "yaml", cluster=known).out)
    assert explained["items"][0]["verdict"] == "Deny"


def test_exceptions_that_outlived_their_policy_are_listed(run: Run) -> None:
    known = cluster()
    known.objects = [each for each in known.objects if each["kind"] != "ServingPolicy"]
    assert "\nold        stores " in run("policy", "list", cluster=known).out


def test_explain_shows_which_policy_refused_or_set_what_and_where(run: Run) -> None:
    screen = run("policy", "explain", "iris", cluster=cluster())
    assert screen.code == 0
    assert screen.out == (
        "OBJECT           NAMESPACE  RULE           VERDICT\n"
        "deployment/iris  ml         stores/places  Deny\n"
        "deployment/iris  ml         stores/most    Pass\n"
    )
    assert screen.err == (
        "deployment/iris: SourceNotAllowed: metadata.annotations[kubectl-serve.dev/model]: stores/places does not "
        "allow models from s3://models/iris/model.joblib. Allowed: s3://models/other.\n"
        "AdoptedByPolicy: the model is s3://models/iris/model.joblib, because policy adopting adopts Deployments with "
        "label kubectl-serve.dev/adopt.\n"
        "DefaultByPolicy: kubectl-serve.dev/scale is 0..2, because policy adopting sets this default.\n"
    )


def test_explain_of_what_is_not_served_says_so(run: Run) -> None:
    assert "there is no Deployment other" in run("policy", "explain", "other", cluster=cluster()).err


@pytest.mark.parametrize(("place", "code"), [("s3://models/iris", 0), ("s3://nowhere", 1)])
def test_audit_shows_what_would_break_if_a_policy_were_enforced_now(
    run: Run, tmp_path: Path, place: str, code: int
) -> None:
    (tmp_path / "stricter.yaml").write_text(POLICIES.replace("s3://models/other", place))
    screen = run("policy", "audit", "-A", "-f", str(tmp_path / "stricter.yaml"), cluster=cluster())
    assert screen.code == code
    assert screen.err.endswith(f"1 object evaluated, {code} with violations\n")


def by_hand() -> list[JsonObject]:
    """A pod with the loader and a Revision of the same, beside a pod that has nothing to do with us."""
    (served,) = (each for each in cluster().objects if each["kind"] == "Deployment")
    spec = served["spec"]["template"]["spec"]

    def made(version: str, kind: str, name: str, spec: JsonObject) -> JsonObject:
        return {"apiVersion": version, "kind": kind, "metadata": {"name": name, "namespace": "ml"}, "spec": spec}

    plain = {"containers": [{"name": "a", "image": "example.com/a:1"}]}
    return [
        made("v1", "Pod", "a-pod", spec),
        made("serving.knative.dev/v1", "Revision", "a-revision", spec),
        made("v1", "Pod", "plain", plain),
    ]


def test_audit_judges_what_was_made_by_hand_and_says_what_it_may_not_see(run: Run) -> None:
    found = cluster()
    found.objects += by_hand()
    screen = run("policy", "audit", "-n", "ml", cluster=found)
    assert screen.out == (
        "OBJECT               NAMESPACE  RULE           VERDICT\n"
        "deployment/iris      ml         stores/places  Deny\n"
        "revision/a-revision  ml         stores/places  Deny\n"
        "revision/a-revision  ml         stores/most    Warn\n"
        "pod/a-pod            ml         stores/places  Deny\n"
    )
    assert screen.err.endswith("3 objects evaluated, 3 with violations\n")
    found.objects.append({
        "apiVersion": "kubectl-serve.dev/v1alpha1", "kind": "ServingPolicy", "metadata": {"name": "z"},
        "spec": {"rules": [{"name": "images", "images": {"deny": ["example.org"]}}]},
    })  # fmt: skip
    (a_pod,) = (each for each in found.objects if each["metadata"]["name"] == "a-pod")
    a_pod["spec"] = a_pod["spec"] | {"containers": [*a_pod["spec"]["containers"], {"name": "q", "image": QUEUE_PROXY}]}
    assert "pod/a-pod: ImageNotAllowed" not in run("policy", "audit", "-n", "ml", cluster=found).err
    found.hidden = frozenset({"configmaps"})
    assert (
        "pods are not evaluated: you are not allowed to see which"
        in run("policy", "audit", "-n", "ml", cluster=found).err
    )
    found.hidden = frozenset({"pods"})
    screen = run("policy", "audit", "-n", "ml", cluster=found)
    assert "pod objects are not evaluated: you are not allowed to list them\n" in screen.err
    assert screen.err.endswith("2 objects evaluated, 2 with violations\n")


def test_audit_judges_by_the_clusters_own_features(run: Run) -> None:
    """As the server does: a field that only a feature flag allows is no reason to see no Knative Service."""
    found = cluster()
    (served,) = (each for each in found.objects if each["kind"] == "Deployment")
    served["metadata"]["annotations"]["kubectl-serve.dev/visibility"] = "public"
    served["spec"]["template"]["spec"]["nodeSelector"] = {"disk": "ssd"}
    (features,) = (each for each in found.objects if each["metadata"]["name"] == "config-features")
    features["data"]["kubernetes.podspec-nodeselector"] = "enabled"
    private = {"rules": [{"name": "visibility", "visibility": {"allow": ["cluster-local"]}}]}
    found.objects.append({
        "apiVersion": "kubectl-serve.dev/v1alpha1", "kind": "ServingPolicy", "metadata": {"name": "private"},
        "spec": private,
    })  # fmt: skip
    screen = run("policy", "audit", "-A", "--all", cluster=found)
    assert "private/visibility does not allow visibility" in screen.err
