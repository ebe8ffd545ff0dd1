"""Verdicts: exemptions, removed labels, defaults, and policies that cannot be read."""

import contextlib
import copy
import json
from datetime import UTC, datetime
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

import model_uri
from kubectl_serve.install.manifests import default_context
from serve_core.admission.decide import judge
from serve_core.audit.dry_run import run as try_documents
from serve_core.base.json import JsonObject, value_at
from serve_core.context.cluster import ClusterContext
from serve_core.policy.evaluate import PolicyVerdict, RuleOutcome, User, judge_policies
from serve_core.policy.parse import read_exception, read_policy, stored_policy
from serve_core.policy.v1alpha1 import ServingPolicy
from serve_core.subjects.build import subject_of
from unit.kubectl_serve.conftest import Run

NOW = datetime(2026, 11, 18, tzinfo=UTC)
FACTS = default_context()
PREFIX = "kubectl-serve.dev/"


def policy(spec: str, name: str = "p") -> ServingPolicy:
    return read_policy(document("ServingPolicy", {"name": name}, yaml.safe_load(spec)))


def document(kind: str, metadata: JsonObject, spec: Any) -> JsonObject:
    return {"apiVersion": "kubectl-serve.dev/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec}


def deployment(**annotations: str) -> JsonObject:
    notes = {"model": "s3://models/iris/model.joblib"} | annotations
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": "iris",
            "namespace": "ml",
            "annotations": {PREFIX + key: value for key, value in notes.items()},
        },
    }


def service(**labels: str) -> JsonObject:
    return {
        "apiVersion": "serving.knative.dev/v1",
        "kind": "Service",
        "metadata": {"name": "s", "namespace": "ml", "labels": labels},
        "spec": {"template": {"spec": {"containers": [{"image": "example.com/a:1"}]}}},
    }


def verdict(
    manifest: JsonObject, *policies: ServingPolicy, former: JsonObject | None = None, user: User | None = None
) -> PolicyVerdict:
    subject = subject_of(manifest, FACTS, former=former)
    assert subject is not None
    return judge_policies(subject, policies, (), NOW, user)


PRIVATE = "rules: [{name: r, visibility: {allow: [cluster-local]}}]"


@pytest.mark.attack(5)
def test_only_the_api_server_decides_who_is_exempt() -> None:
    exempting = policy("exempt: {users: [boss], groups: [admins]}\n" + PRIVATE)
    assert verdict(service(), exempting, user=User("boss")).results[0].outcome is RuleOutcome.EXEMPT
    assert verdict(service(), exempting, user=User("x", ("admins",))).results[0].outcome is RuleOutcome.EXEMPT
    assert verdict(service(**{"kubectl-serve.dev/user": "boss"}), exempting, user=User("bos")).denied
    assert verdict(service(), exempting, user=User("Boss", ("Admins",))).denied


def test_the_audit_exempts_no_one() -> None:
    assert verdict(service(), policy("exempt: {users: [boss]}\n" + PRIVATE), user=None).denied


@pytest.mark.attack(3)
def test_removing_a_label_does_not_leave_the_policy_in_the_same_request() -> None:
    selecting = policy("match: {objectSelector: {matchLabels: {risk: high}}}\n" + PRIVATE)
    assert not verdict(service(), selecting).results
    assert verdict(service(), selecting, former=service(risk="high")).denied


PORT = {"containerPort": 8080, "hostPort": 80}
OPENED: dict[str, JsonObject] = {
    "a port of the node": {"containers": [{"name": "model-server", "image": "example.com/a:1", "ports": [PORT]}]},
    "a port of the node of another": {
        "containers": [{"name": "model-server", "image": "example.com/a:1", "ports": [{"containerPort": 8080}]}],
        "initContainers": [{"name": "b", "image": "example.com/b:1", "restartPolicy": "Always", "ports": [PORT]}],
    },
    "the node's network": {
        "hostNetwork": True,
        "containers": [{"name": "model-server", "image": "example.com/a:1", "ports": [{"containerPort": 8080}]}],
    },
}


@pytest.mark.attack(40)
@pytest.mark.parametrize("pod", OPENED.values(), ids=OPENED.keys())
def test_pods_at_the_addresses_of_their_node_are_public(pod: JsonObject) -> None:
    manifest = deployment(mode="deployment")
    manifest["spec"] = {"template": {"spec": pod}}
    completed = judge(manifest, FACTS).deployment
    assert completed is not None
    by_hand = service(**{"networking.knative.dev/visibility": "cluster-local"})
    by_hand["spec"] = {"template": {"spec": pod}}
    kserve: JsonObject = {"apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService"}
    kserve |= {"metadata": by_hand["metadata"], "spec": {"predictor": pod}}
    runtime: JsonObject = {"apiVersion": "serving.kserve.io/v1alpha1", "kind": "ServingRuntime"}
    runtime |= {"metadata": by_hand["metadata"], "spec": pod}
    for each in (completed, by_hand, kserve, runtime):
        (found,) = verdict(each, policy(PRIVATE)).problems
        assert found.path.endswith((".hostPort", ".hostNetwork"))
        closed = copy.deepcopy(each)
        place = value_at(closed, "spec", "template", "spec") or closed["spec"].get("predictor", closed["spec"])
        place.pop("hostNetwork", None)
        for container in (*place["containers"], *place.get("initContainers", [])):
            container.pop("ports", None)
        assert not verdict(closed, policy(PRIVATE)).denied


@pytest.mark.attack(40)
@pytest.mark.parametrize("replicas", [0, 2])
@pytest.mark.parametrize(
    "ports",
    [
        [{"containerPort": 8080, "name": "http"}, {"containerPort": 9000, "name": "other", "hostPort": 9000}],
        [{"containerPort": 9000, "hostPort": 9000}],
    ],
)
def test_a_port_of_the_node_counts_although_knative_does_not_get_it(ports: list[JsonObject], replicas: int) -> None:
    server = {"name": "s", "image": "example.com/server:1", "args": ["/mnt/models"], "ports": ports}
    before = deployment()
    before["spec"] = {"replicas": replicas, "template": {"spec": {"containers": [server]}}}
    del before["metadata"]["annotations"]
    served = copy.deepcopy(before)
    served["metadata"]["annotations"] = deployment(visibility="cluster-local", port="8080")["metadata"]["annotations"]
    found = judge(served, FACTS, before)
    assert found.deployment is not None
    assert found.service is not None
    assert "hostPort" not in str(found.service)
    (problem,) = verdict(found.deployment, policy(PRIVATE)).problems
    assert problem.path.endswith(".hostPort")


REMOTE = "rules: [{name: r, containers: {arguments: [--trust-remote-code]}}]"


@pytest.mark.attack(28)
@pytest.mark.parametrize(
    "container",
    [
        {"args": ["--trust-$(A)"], "env": [{"name": "A", "value": "remote-code"}]},
        {"args": ["$(B)$(A)"], "env": [{"name": "A", "value": "remote-code"}, {"name": "B", "value": "--trust-"}]},
        {"command": ["$(B)"], "env": [{"name": "A", "value": "remote_"}, {"name": "B", "value": "--trust_$(A)code"}]},
        {"args": ["$(A)"], "env": [{"name": "A", "value": "x"}, {"name": "A", "value": "--trust-remote-code"}]},
        {"env": [{"name": "A", "value": "--trust-remote-code"}, {"name": "A", "value": ""}]},
        {"args": ["$(A9)"], "env": [{"name": f"A{n}", "value": f"$(A{n - 1})" * 9} for n in range(9)]},
        {"livenessProbe": {"exec": {"command": ["vllm", "serve", "--trust-remote-code"]}}},
        {"lifecycle": {"postStart": {"exec": {"command": ["vllm", "--trust-remote-code"]}}}},
    ],
    ids=["one", "two", "nested", "the last", "an earlier one", "more than can be read", "a probe", "a hook"],
)
def test_an_argument_is_what_kubernetes_makes_of_it(container: JsonObject) -> None:
    manifest = service()
    manifest["spec"] = {"template": {"spec": {"containers": [{"image": "example.com/a:1", **container}]}}}
    assert verdict(manifest, policy(REMOTE)).denied


def test_an_argument_that_is_kept_from_expanding_is_another() -> None:
    manifest = service()
    values = [{"name": "A", "value": "remote-code"}]
    container = {"image": "example.com/a:1", "args": ["--trust-$$(A)", "$(NONE)"], "env": values}
    manifest["spec"] = {"template": {"spec": {"containers": [container]}}}
    assert not verdict(manifest, policy(REMOTE)).denied


@pytest.mark.attack(19)
@pytest.mark.parametrize("pattern", ["iris", "iris-*"])
def test_no_exception_applies_to_a_name_that_is_not_generated_yet(pattern: str) -> None:
    text = {"policy": "p", "rules": ["r"], "match": {"namespace": "ml", "name": pattern}}
    text |= {"expires": "2027-01-01T00:00:00Z", "reason": "r", "ticket": "T-1"}
    excused = read_exception(document("PolicyException", {"name": "e", "namespace": "kubectl-serve"}, text))
    for metadata, denied in (
        ({"name": pattern.replace("*", "1")}, False),
        ({"generateName": "iris-"}, True),
        ({"generateName": "iris"}, True),
    ):
        manifest = service()
        manifest["metadata"] = {"namespace": "ml", **metadata}
        subject = subject_of(manifest, FACTS)
        assert subject is not None
        assert judge_policies(subject, [policy(PRIVATE)], [excused], NOW).denied is denied


def test_a_stored_policy_that_cannot_be_read_refuses_everything() -> None:
    broken = stored_policy(document("ServingPolicy", {"name": "broken"}, {"rules": [{"name": "x"}]}))
    (found,) = verdict(service(), broken).problems
    assert (found.code, found.path, found.message) == (
        "PolicyUnreadable",
        "metadata.name",
        "policy broken cannot be read: a rule is about exactly one thing, not about nothing.",
    )


def context(*policies: ServingPolicy) -> ClusterContext:
    return ClusterContext(FACTS.loader, FACTS.runtimes, policies=policies)


def scale_of(manifest: JsonObject | None) -> str | None:
    assert manifest is not None
    scale: str | None = manifest["metadata"]["annotations"].get(PREFIX + "scale")
    return scale


def test_a_default_fills_what_the_user_left_empty_and_says_so() -> None:
    made = judge(deployment(), context(policy("defaults: {scale: 0..3}")))
    assert scale_of(made.deployment) == "0..3"
    said = "DefaultByPolicy: kubectl-serve.dev/scale is 0..3, because policy p sets this default."
    assert said in map(str, made.explanations)
    assert made.service is not None
    assert made.service["spec"]["template"]["metadata"]["annotations"]["autoscaling.knative.dev/max-scale"] == "3"


def test_a_default_changes_nothing_that_the_user_wrote() -> None:
    assert scale_of(judge(deployment(scale="1..9"), context(policy("defaults: {scale: 0..3}"))).deployment) == "1..9"


def test_a_default_follows_its_policy_and_goes_with_it() -> None:
    once = judge(deployment(), context(policy("defaults: {scale: 0..3}"))).deployment
    assert once is not None
    assert scale_of(judge(once, context(policy("defaults: {scale: 0..4}"))).deployment) == "0..4"
    assert scale_of(judge(once, context()).deployment) is None


def test_a_default_goes_with_the_model() -> None:
    once = judge(deployment(), context(policy("defaults: {visibility: cluster-local}"))).deployment
    assert once is not None
    containers = [{"name": "own", "image": "example.com/own:1", "ports": [{"containerPort": 8080}]}]
    once["spec"]["template"]["spec"]["containers"] += containers
    del once["metadata"]["annotations"][PREFIX + "model"]
    back = judge(once, context(policy("defaults: {visibility: cluster-local}")))
    assert not back.problems
    assert PREFIX + "visibility" not in (back.deployment or {})["metadata"]["annotations"]


def test_a_default_that_contradicts_the_user_gives_way() -> None:
    private = context(policy("defaults: {visibility: cluster-local}"))
    made = judge(deployment(mode="deployment"), private)
    assert not made.problems
    assert PREFIX + "visibility" not in (made.deployment or {})["metadata"]["annotations"]


def test_of_two_policies_the_first_by_name_fills() -> None:
    both = context(policy("defaults: {scale: 0..2}", "b"), policy("defaults: {scale: 0..1}", "a"))
    assert scale_of(judge(deployment(), both).deployment) == "0..1"


def test_a_default_is_for_what_the_policy_is_about() -> None:
    of_pods = context(policy("match: {kinds: [Pod, Service]}\ndefaults: {scale: 0..3}"))
    assert scale_of(judge(deployment(), of_pods).deployment) is None
    selecting = context(policy("match: {objectSelector: {matchLabels: {team: a}}}\ndefaults: {scale: 0..3}"))
    assert scale_of(judge(deployment(), selecting).deployment) is None, "it has no labels at all"
    of_the_team = deployment()
    of_the_team["metadata"]["labels"] = {"team": "a"}
    assert scale_of(judge(of_the_team, selecting).deployment) == "0..3"


def test_filling_defaults_twice_changes_nothing() -> None:
    both = context(policy("defaults: {scale: 0..2, visibility: cluster-local}"))
    once = judge(deployment(), both).deployment
    assert once is not None
    assert judge(once, both).deployment == once


ADOPTING = "{match: {namespaces: [ml]}, adopt: {model: 's3://models/{label}/model.joblib'}, defaults: {scale: 0..2}}"
OWN = {
    "selector": {"matchLabels": {"app": "iris"}},
    "replicas": 2,
    "template": {
        "metadata": {"labels": {"app": "iris"}},
        "spec": {"containers": [{"name": "own", "image": "example.com/own:1", "ports": [{"containerPort": 8080}]}]},
    },
}


def labelled(spec: Any = None, **labels: str) -> JsonObject:
    metadata = {"name": "iris", "namespace": "ml", "labels": {PREFIX + "adopt": "iris"} | labels}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata} | ({"spec": spec} if spec else {})


def adopted(manifest: JsonObject, previous: JsonObject | None = None) -> JsonObject:
    made = judge(manifest, context(policy(ADOPTING)), previous).deployment
    assert made is not None
    return json.loads(json.dumps(made))  # type: ignore[no-any-return]


def model_of(manifest: JsonObject) -> str | None:
    model: str | None = (manifest["metadata"].get("annotations") or {}).get(PREFIX + "model")
    return model


def test_an_adopted_deployment_is_served_as_if_it_were_annotated() -> None:
    made = judge(labelled(), context(policy(ADOPTING)))
    assert made.deployment is not None
    assert made.service is not None
    assert model_of(made.deployment) == "s3://models/iris/model.joblib"
    assert scale_of(made.deployment) == "0..2"
    assert judge(made.deployment, context(policy(ADOPTING))).deployment == made.deployment


def test_one_that_runs_is_adopted_without_an_outage() -> None:
    made = adopted(labelled(OWN), labelled(OWN))
    assert (made["spec"]["replicas"], made["spec"]["paused"]) == (2, True)
    assert made["metadata"]["annotations"][PREFIX + "handover"] == "to-knative"


def test_taking_the_label_off_gives_the_deployment_back() -> None:
    once = adopted(labelled(OWN))
    del once["metadata"]["labels"][PREFIX + "adopt"]
    back = judge(once, context(policy(ADOPTING)), once).deployment
    assert back is not None
    assert back["spec"] == OWN
    assert set(back["metadata"]["annotations"]) == {PREFIX + "handover"}


@pytest.mark.parametrize(
    "policies", [(), ("{match: {namespaces: [other]}, adopt: {model: 's3://models/{label}.onnx'}}",)]
)
def test_when_no_policy_adopts_any_more_the_next_change_gives_it_back(policies: tuple[str, ...]) -> None:
    once = adopted(labelled(OWN))
    once["metadata"]["annotations"][PREFIX + "canary"] = "10%"
    made = judge(once, context(*map(policy, policies)), once)
    assert made.deployment is not None
    assert made.deployment["spec"] == OWN
    assert model_of(made.deployment) is None
    assert [warning.code for warning in made.warnings] == ["NotAdopted"]


def test_an_adopted_model_follows_its_policy_and_its_label() -> None:
    once = adopted(labelled())
    once["metadata"]["labels"][PREFIX + "adopt"] = "iris-v2"
    assert model_of(adopted(once, once)) == "s3://models/iris-v2/model.joblib"
    moved = judge(once, context(policy("{adopt: {model: 's3://new/{namespace}/{name}.joblib'}}"))).deployment
    assert moved is not None
    assert model_of(moved) == "s3://new/ml/iris.joblib"


def test_a_model_that_its_user_writes_is_the_users() -> None:
    once = adopted(labelled())
    once["metadata"]["annotations"][PREFIX + "model"] = "s3://mine/model.joblib"
    assert model_of(adopted(once, once)) == "s3://mine/model.joblib"
    taken_off = adopted(labelled())
    del taken_off["metadata"]["annotations"][PREFIX + "model"]
    assert model_of(adopted(taken_off, taken_off)) == "s3://models/iris/model.joblib", "the label still asks for it"


def test_replacing_an_adopted_deployment_by_its_file_keeps_it_served() -> None:
    once = adopted(labelled(OWN))
    again = adopted(labelled(OWN), once)
    assert model_of(again) == "s3://models/iris/model.joblib"
    assert (again["spec"]["replicas"], again["metadata"]["annotations"][PREFIX + "replicas"]) == (0, "2")


@given(
    st.text(max_size=12), st.sampled_from(("s3://models/{label}", "https://m.example/{namespace}/{label}/{name}.onnx"))
)
def test_no_label_leaves_the_place_that_the_policy_names(label: str, template: str) -> None:
    manifest = labelled(**{PREFIX + "adopt": label})
    made = judge(manifest, context(policy(f"{{adopt: {{model: '{template}'}}}}")))
    if made.deployment is not None:
        with contextlib.suppress(ValueError):  # what cannot be compared breaks every rule on sources
            source = model_uri.parse(model_of(made.deployment) or "")
            assert source.host in {"models", "m.example"}
            assert source.host == "models" or source.segments[0] == "ml"


@pytest.mark.attack(5)
def test_what_a_deployment_became_is_judged_once_by_what_it_does_not_by_its_owner() -> None:
    made = judge(deployment(format="sklearn"), FACTS)
    forged = service() | {"metadata": {"name": "iris", "namespace": "ml", "ownerReferences": [{"kind": "Deployment"}]}}
    policies = [document("ServingPolicy", {"name": "p"}, yaml.safe_load(PRIVATE))]
    twins = try_documents([*policies, made.deployment, made.service], FACTS, NOW, stored=True)
    assert [each.title for each in twins.tried] == ["deployment/iris"]
    both = try_documents([*policies, made.deployment, forged], FACTS, NOW, stored=True)
    assert [each.title for each in both.tried] == ["deployment/iris", "service/iris"]


def test_the_outcome_of_an_object_is_the_worst_of_all_rules() -> None:
    rule = {"label": {"key": "team"}}
    actions = ("Audit", "Warn", "Deny")
    policies = [
        document("ServingPolicy", {"name": action.lower()}, {"action": action, "rules": [{"name": "r", **rule}]})
        for action in actions
    ]
    for count, worst in enumerate(("Pass", *actions)):
        (tried,) = try_documents([*policies[:count], service()], FACTS, NOW).tried
        assert tried.outcome == worst
    (refused,) = try_documents([*policies, deployment(scale="many")], FACTS, NOW).tried
    assert refused.outcome == "Refused"


def test_expected_verdicts_are_compared(run: Run, tmp_path: Any) -> None:
    (tmp_path / "policy.yaml").write_text(
        yaml.safe_dump(document("ServingPolicy", {"name": "p"}, yaml.safe_load(PRIVATE)))
    )
    (tmp_path / "iris.yaml").write_text(yaml.safe_dump(deployment()))
    files = ["-f", str(tmp_path / "policy.yaml"), "-f", str(tmp_path / "iris.yaml")]
    (tmp_path / "right.yaml").write_text("deployment/iris: Deny\nml/deployment/iris p/r: Deny\n")
    right = run("policy", "test", *files, "--expect", str(tmp_path / "right.yaml"))
    assert (right.code, right.err.splitlines()[-1]) == (0, "2 of 2 verdicts as expected")
    (tmp_path / "wrong.yaml").write_text("deployment/iris: Pass\ndeployment/other: Deny\n")
    wrong = run("policy", "test", *files, "--expect", str(tmp_path / "wrong.yaml"))
    assert (wrong.code, wrong.err.splitlines()[-3:]) == (
        1,
        [
            "deployment/iris: expected Pass, got Deny",
            "deployment/other: expected Deny, got nothing",
            "0 of 2 verdicts as expected",
        ],
    )


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(
        ("metadata", "spec", "template", "containers", "initContainers", "name", "image", "args", "env", "volumes",
         "volumeMounts", "resources", "limits", "predictor", "model", "labels", "annotations", "secret", "projected")
    ), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip
EVERYTHING = policy(
    "rules: [{name: a, sources: {allow: ['s3://a']}}, {name: b, pinned: {}}, {name: c, formats: {deny: [x]}},"
    "{name: d, images: {digest: true}}, {name: e, resources: {perReplica: {cpu: 1}, total: {memory: 1Gi}}},"
    "{name: f, scale: {most: 1}}, {name: g, containers: {arguments: [x]}}, {name: h, secrets: {allow: [x]}},"
    "{name: i, expression: {cel: 'object.spec.a', message: x}}, {name: j, serviceAccounts: {allow: [x]}}]"
)
SHAPES = (
    ("apps/v1", "Deployment"),
    ("serving.knative.dev/v1", "Service"),
    ("serving.knative.dev/v1", "Revision"),
    ("serving.kserve.io/v1beta1", "InferenceService"),
    ("v1", "Pod"),
)


@given(st.sampled_from(SHAPES), JSON, JSON, JSON)
def test_no_object_raises_an_error(shape: tuple[str, str], spec: Any, labels: Any, annotations: Any) -> None:
    notes = {PREFIX + "model": "s3://a"} | annotations if isinstance(annotations, dict) else annotations
    manifest = {
        "apiVersion": shape[0],
        "kind": shape[1],
        "metadata": {"name": "x", "labels": labels, "annotations": notes},
        "spec": spec,
    }
    subject = subject_of(manifest, FACTS)
    if subject is not None:
        judge_policies(subject, (EVERYTHING,), (), NOW)


@given(JSON)
def test_no_policy_raises_an_error(spec: Any) -> None:
    stored_policy(document("ServingPolicy", {"name": "p"}, spec))


@pytest.mark.parametrize("name", ["", None, 3])
def test_a_policy_needs_a_name(name: object) -> None:
    assert stored_policy(document("ServingPolicy", {"name": name}, {})).fault
