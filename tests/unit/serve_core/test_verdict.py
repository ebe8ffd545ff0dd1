"""What becomes of a Deployment over its life: created, scaled, edited, given back."""

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubectl_serve.install.manifests import default_context
from serve_core.admission.decide import judge, render_stored
from serve_core.api import annotations
from serve_core.api.annotation_values import Format
from serve_core.api.runtimes import Runtime
from serve_core.base import reasons
from serve_core.base.json import JsonObject
from serve_core.context.cluster import ClusterContext, LoaderConfig
from serve_core.policy import rules

RUNTIME = Runtime("server", (Format("sklearn", "1"),), ("v2",), {"image": "example.com/server:1"})
FACTS = ClusterContext(LoaderConfig("example.com/loader:1"), (RUNTIME,))


def deployment(**spec: object) -> JsonObject:
    made: JsonObject = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "iris", "annotations": {annotations.MODEL: "s3://models/iris/model.joblib"}},
    }
    return made | ({"spec": spec} if spec else {})


def own_container() -> JsonObject:
    return {
        "selector": {"matchLabels": {"app": "iris"}},
        "template": {
            "metadata": {"labels": {"app": "iris"}},
            "spec": {"containers": [{"name": "app", "image": "example.com/app:1", "ports": [{"containerPort": 8080}]}]},
        },
    }


def accepted(document: JsonObject, previous: JsonObject | None = None) -> JsonObject:
    verdict = judge(document, FACTS, previous)
    assert verdict.problems == ()
    assert verdict.deployment is not None
    return verdict.deployment


def test_the_input_is_not_changed() -> None:
    document = deployment(replicas=2)
    before = copy.deepcopy(document)
    judge(document, FACTS)
    assert document == before


def test_replicas_are_parked_and_remembered() -> None:
    parked = accepted(deployment(replicas=3))
    assert parked["spec"]["replicas"] == 0
    assert parked["metadata"]["annotations"][annotations.REPLICAS] == "3"


def test_a_parked_deployment_stays_parked_and_a_new_number_is_remembered() -> None:
    parked = accepted(deployment(replicas=3))
    assert accepted(parked) == parked
    parked["spec"]["replicas"] = 5
    again = accepted(parked)
    assert again["spec"]["replicas"] == 0
    assert again["metadata"]["annotations"][annotations.REPLICAS] == "5"


def test_taking_the_annotation_off_gives_the_deployment_back() -> None:
    plain = deployment(replicas=3, **own_container())
    del plain["metadata"]["annotations"]
    plain["metadata"]["labels"] = {"team": "a"}
    annotated = copy.deepcopy(plain)
    annotated["metadata"]["annotations"] = {annotations.MODEL: "s3://models/iris/model.joblib"}
    parked = accepted(annotated)
    parked["metadata"]["annotations"] |= dict.fromkeys(annotations.EARLIER_STATE, "1")
    del parked["metadata"]["annotations"][annotations.MODEL]
    back = accepted(parked)
    # What is left is for the reconciler: it takes both away once the pods are back.
    assert back["metadata"].pop("annotations") == {annotations.HANDOVER: "from-knative"}
    assert back["metadata"]["labels"].pop("kubectl-serve.dev/served") == "true"
    assert back == plain


def test_another_model_replaces_what_was_filled_for_the_first() -> None:
    parked = accepted(deployment())
    parked["metadata"]["annotations"][annotations.MODEL] = "s3://models/wine/model.joblib"
    loader = accepted(parked)["spec"]["template"]["spec"]["initContainers"][0]
    assert loader["args"][-1] == "s3://models/wine/model.joblib"


def test_what_the_user_changed_in_our_containers_survives_another_model() -> None:
    parked = accepted(deployment())
    parked["spec"]["template"]["spec"]["initContainers"][0]["resources"] = {"limits": {"memory": "8Gi"}}
    parked["metadata"]["annotations"][annotations.MODEL] = "s3://models/wine/model.joblib"
    loader = accepted(parked)["spec"]["template"]["spec"]["initContainers"][0]
    assert loader["resources"] == {"limits": {"memory": "8Gi"}}
    assert loader["args"][-1] == "s3://models/wine/model.joblib"


def test_a_new_loader_image_changes_nothing_that_is_stored() -> None:
    parked = accepted(deployment())
    newer = ClusterContext(LoaderConfig("example.com/loader:2"), ())
    assert render_stored(parked, newer).service == render_stored(parked, FACTS).service


KEYS = (
    *("metadata", "name", "annotations", annotations.MODEL, annotations.FILLED, annotations.REPLICAS, "labels"),
    *("spec", "template", "selector", "matchLabels", "replicas", "strategy", "progressDeadlineSeconds"),
    *("containers", "initContainers", "volumes", "image", "ports", "containerPort", "env", "volumeMounts"),
    *("readinessProbe", "httpGet", "port", "securityContext", "capabilities", "resources", "serviceAccount"),
)


@pytest.mark.parametrize(
    "container",
    [
        {"readinessProbe": {"httpGet": "/"}},
        {"readinessProbe": {"httpGet": {"port": {}}}, "ports": [{"containerPort": 1, "name": {}}]},
        {"ports": [{"containerPort": 1, "protocol": []}]},
        {"securityContext": [], "resources": "all", "volumeMounts": [{"name": "model", "mountPath": []}]},
        {"env": [{"name": "A", "valueFrom": "x"}]},
        {1: 2},
    ],
)
def test_nonsense_inside_a_container_does_not_make_it_raise(container: JsonObject) -> None:
    made = own_container()
    made["template"]["spec"]["containers"][0] |= container
    judge(deployment(**made), FACTS)


@pytest.mark.parametrize(
    "place",
    [
        "metadata", "metadata.annotations", "metadata.labels", "spec", "spec.selector", "spec.selector.matchLabels",
        "spec.template", "spec.template.metadata", "spec.template.metadata.labels",
        "spec.template.metadata.annotations", "spec.template.spec",
    ],
)  # fmt: skip
@pytest.mark.parametrize("strange", [["a"], "a", 1, False])
def test_what_should_be_an_object_and_is_none_is_told_with_its_place(place: str, strange: object) -> None:
    document = copy.deepcopy(deployment(**own_container()))
    *steps, last = place.split(".")
    node: JsonObject = document
    for step in steps:
        node = node.setdefault(step, {})
    node[last] = strange
    for decide in (judge, render_stored):
        found = {problem.path: problem.code for problem in decide(document, FACTS).problems}
        assert found[place] == "InvalidObject"


def test_half_of_a_surrogate_pair_in_an_annotation_does_not_make_it_raise() -> None:
    """JSON can write it, UTF-8 cannot."""
    document = deployment()
    document["metadata"]["annotations"]["note"] = "\ud800"
    assert judge(document, FACTS).deployment is not None


def test_bottomless_nesting_is_refused() -> None:
    document: JsonObject = {}
    for _ in range(5000):
        document = {"a": document}
    assert [problem.code for problem in judge(deployment() | {"spec": document}, FACTS).problems] == ["InvalidObject"]


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(KEYS),
            inner,
            max_size=4,
        ),
    ),
    max_leaves=30,
)


@given(metadata=JSON, spec=JSON)
def test_no_document_makes_it_raise(metadata: object, spec: object) -> None:
    for decide in (judge, render_stored):
        decide({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec}, FACTS)


@given(container=st.dictionaries(st.sampled_from(KEYS), JSON), pod=st.dictionaries(st.sampled_from(KEYS), JSON))
def test_no_container_makes_it_raise(container: JsonObject, pod: JsonObject) -> None:
    pod = {**pod, "containers": [{**container, "name": "app", "image": "example.com/app:1"}]}
    judge(deployment(**{**own_container(), "template": {"spec": pod}}), FACTS)


@given(spec=JSON)
def test_no_spec_of_a_served_deployment_makes_it_raise(spec: object) -> None:
    for decide in (judge, render_stored):
        decide(deployment() | {"spec": spec}, FACTS)


@pytest.mark.attack(16)
def test_the_loader_is_told_by_a_list_of_arguments_and_by_no_shell() -> None:
    document = deployment()
    document["metadata"]["annotations"][annotations.MODEL] = "s3://models/-a/b;c|d&e`f`.joblib"
    (loader,) = accepted(document)["spec"]["template"]["spec"]["initContainers"]
    assert "command" not in loader
    # What stands after -- is no option, whatever it begins with.
    assert loader["args"][-2:] == ["--", "s3://models/-a/b;c|d&e`f`.joblib"]


def test_the_catalogue_says_everything_in_one_sentence_and_hints_what_to_do() -> None:
    for reason in (*reasons.CATALOGUE.values(), *rules.REASONS):
        assert reason.sentence.endswith("."), reason.code
        assert "\n" not in reason.sentence + reason.hint
        if reason.kind is reasons.Kind.REFUSAL:
            assert reason.hint, reason.code


@pytest.mark.attack(9)
@pytest.mark.parametrize(
    "odd",
    [
        {}, {"metadata": "a"}, {"metadata": []}, {"metadata": {"annotations": "a"}}, {"metadata": {"annotations": [1]}},
        {"metadata": {"annotations": {annotations.MODEL: 1}}}, {"metadata": {"annotations": {annotations.FILLED: {}}}},
        {"metadata": {"annotations": {annotations.MODEL: "s3://a/b"}}, "spec": "a"},
    ],
)  # fmt: skip
def test_what_no_api_server_stores_counts_as_nothing_before(odd: Any) -> None:
    made: Any = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "iris"}}
    made["metadata"]["annotations"] = {annotations.MODEL: "s3://models/a.joblib"}
    assert judge(made, default_context(), odd) == judge(made, default_context())


@pytest.mark.attack(9)
@pytest.mark.parametrize("odd", [1, ["ml"], {"a": "b"}, True])
def test_a_namespace_that_is_no_name_is_refused(odd: Any) -> None:
    made: Any = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "iris", "namespace": odd}}
    made["metadata"]["annotations"] = {"kubectl-serve.dev/model": "s3://models/a.joblib"}
    (fault,) = judge(made, default_context()).problems
    assert (fault.code, fault.path) == ("InvalidObject", "metadata.namespace")
