"""Plain Services around a model: a name that is taken, and clients that go past Knative."""

import copy
from typing import Any

import pytest

from serve_core.admission.decide import Verdict, judge, render_stored
from serve_core.api import annotations, serving_spec
from serve_core.base.constants import PREFIX
from serve_core.base.json import JsonObject
from serve_core.base.workload import Workload
from serve_core.context.cluster import ClusterContext, LoaderConfig
from serve_core.context.services import read
from serve_core.knative import name_conflict
from serve_core.knative.name_conflict import may_affect
from serve_webhook.cache import trimming

PLAIN: JsonObject = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "iris", "namespace": "models"},
    "spec": {
        "replicas": 2,
        "selector": {"matchLabels": {"app": "iris"}},
        "template": {
            "metadata": {"labels": {"app": "iris", "tier": "ml"}},
            "spec": {
                "containers": [
                    {
                        "name": "app",
                        "image": "example.com/app:1",
                        "args": ["/mnt/models"],
                        "ports": [{"name": "http", "containerPort": 80}],
                    }
                ]
            },
        },
    },
}


def service(name: str, target: int | str = 80, owner: str = "", **selector: str) -> tuple[str, Any]:
    labels = {"kubectl-serve.dev/deployment": owner} if owner else {}
    spec = {"selector": selector, "ports": [{"port": 80, "targetPort": target}]}
    return name, read({"metadata": {"name": name, "labels": labels}, "spec": spec})


def context(*services: tuple[str, Any]) -> ClusterContext:
    return ClusterContext(LoaderConfig("example.com/loader:1"), services={"models": dict(services)})


def annotated(**notes: str) -> JsonObject:
    made = copy.deepcopy(PLAIN)
    made["metadata"]["annotations"] = {PREFIX + key: value for key, value in notes.items()}
    made["metadata"]["annotations"][annotations.MODEL] = "s3://models/iris/model.joblib"
    return made


def names(verdict: Verdict) -> tuple[str, str]:
    assert verdict.service is not None, verdict.problems
    return verdict.name, verdict.service["metadata"]["name"]


def codes(verdict: Verdict) -> list[str]:
    return [warning.code for warning in verdict.warnings] + [choice.code for choice in verdict.explanations]


def test_a_name_that_nobody_has_is_kept() -> None:
    verdict = judge(annotated(), context(service("other"), service("iris", owner="iris")))
    assert names(verdict) == ("iris", "iris")
    assert not {"NameInTheWay", "ServiceNamed", "PastKnative"} & set(codes(verdict))
    assert verdict.deployment is not None
    assert annotations.SERVICE not in verdict.deployment["metadata"]["annotations"]


def test_where_a_plain_service_has_the_name_another_is_chosen_and_told() -> None:
    verdict = judge(annotated(), context(service("iris")))
    assert names(verdict) == ("iris-model", "iris-model")
    (warning,) = verdict.warnings
    assert str(warning) == (
        "NameInTheWay: metadata.name: Service iris already exists, so the model is served as Service iris-model."
    )
    assert "ServiceNamed" in codes(verdict)


def test_a_chosen_name_that_is_lost_gives_way_to_the_free_name_of_the_deployment() -> None:
    stored = judge(annotated(), context(service("iris"))).deployment
    assert stored is not None
    now = context(service("iris-model"))
    verdict = judge(stored, now, stored)
    assert names(verdict) == ("iris", "iris")
    assert names(render_stored(stored, now)) == ("iris", "iris")
    assert verdict.deployment is not None
    assert annotations.SERVICE not in verdict.deployment["metadata"]["annotations"]
    assert judge(verdict.deployment, now, verdict.deployment).deployment == verdict.deployment


@pytest.mark.parametrize("labels", [{}, {"kubectl-serve.dev/deployment": "lily"}])
def test_our_own_service_is_ours_whatever_somebody_made_of_its_label(labels: JsonObject) -> None:
    owner = {"kind": "Deployment", "name": "iris", "uid": "d-1", "controller": True}
    found = read({"metadata": {"name": "iris", "labels": labels, "ownerReferences": [owner]}})
    assert judge(annotated(mode="deployment"), context(("iris", found))).name == "iris"


def test_a_name_is_free_only_with_the_names_of_its_tags() -> None:
    assert judge(annotated(), context(service("previous-iris"))).name == "iris-model"
    taken = context(service("iris"), service("iris-model", owner="iris-model"), service("latest-iris-model-2"))
    assert judge(annotated(), taken).name == "iris-model-3"


def test_the_name_stays_although_the_other_service_goes() -> None:
    stored = judge(annotated(), context(service("iris"))).deployment
    assert stored is not None
    again = judge(annotated(), context(), stored)
    assert names(again) == ("iris-model", "iris-model")
    assert "NameInTheWay" not in codes(again)
    assert names(render_stored(stored, context())) == ("iris-model", "iris-model")


def test_the_reconciler_chooses_too_where_the_service_came_later() -> None:
    stored = judge(annotated(), context()).deployment
    assert stored is not None
    before = copy.deepcopy(stored)
    assert names(render_stored(stored, context(service("iris")))) == ("iris-model", "iris-model")
    assert stored == before


def test_a_service_of_mode_deployment_gets_out_of_the_way_as_well() -> None:
    verdict = judge(annotated(mode="deployment"), context(service("iris", app="iris"), service("latest-iris")))
    (made,) = verdict.extras
    assert (made["kind"], made["metadata"]["name"], verdict.name) == ("Service", "iris-model", "iris-model")
    assert codes(verdict)[0] == "NameInTheWay"
    assert not {"PastKnative", "ScaleForService"} & set(codes(verdict)), "there is no Knative to be led past"


def test_a_long_name_is_cut_for_its_ending() -> None:
    long = annotated()
    long["metadata"]["name"] = "a" * 63
    chosen = judge(long, context(service("a" * 63))).name
    assert (len(chosen), chosen[-7:]) == (54, "a-model")


def test_replicas_are_kept_for_the_clients_of_a_service_that_selects_the_pods() -> None:
    around = context(service("web", app="iris"))
    verdict = judge(annotated(), around, PLAIN)
    assert verdict.deployment is not None
    assert verdict.service is not None
    assert verdict.deployment["metadata"]["annotations"][annotations.SCALE] == "2.."
    assert verdict.service["spec"]["template"]["metadata"]["annotations"]["autoscaling.knative.dev/min-scale"] == "2"
    assert {"PastKnative", "ScaleForService"} <= set(codes(verdict))
    again = judge(verdict.deployment, around, verdict.deployment)
    assert again.deployment == verdict.deployment
    without = judge(verdict.deployment, context(), verdict.deployment)
    assert without.deployment is not None
    assert annotations.SCALE not in without.deployment["metadata"]["annotations"]


def test_a_scale_of_the_users_own_stays_and_is_warned_about() -> None:
    verdict = judge(annotated(scale="0..3"), context(service("web", app="iris")), PLAIN)
    assert "ScaleForService" not in codes(verdict)
    assert str(verdict.warnings[0]).startswith(
        "PastKnative: spec.template.metadata.labels: "
        "Service web selects the pods directly: its requests bypass Knative and cannot start a model that is scaled "
        "to zero."
    )


def test_what_selects_other_pods_is_nobodys_business() -> None:
    others = context(service("web", app="shop"), service("headless"), service("iris-1", owner="iris", app="iris"))
    assert codes(judge(annotated(), others)) == codes(judge(annotated(), context()))


def test_a_running_deployment_is_not_handed_over_where_a_service_would_lose_its_port() -> None:
    by_name = context(service("web", target="http", app="iris"))
    verdict = judge(annotated(), by_name, PLAIN)
    assert [problem.code for problem in verdict.problems] == ["PortByName"]
    assert judge(annotated(), context(service("web", target=80, app="iris")), PLAIN).problems == ()


def test_a_new_deployment_is_warned_of_a_service_that_does_not_find_its_port() -> None:
    by_name = context(service("web", target="http", app="iris"))
    verdict = judge(annotated(), by_name)
    assert verdict.problems == (), "nothing ran that could be lost"
    assert [warning.code for warning in verdict.warnings] == ["PortByName"]
    assert "ScaleForService" not in codes(verdict), "no request comes from it"
    assert verdict.deployment is not None
    assert [warning.code for warning in render_stored(verdict.deployment, by_name).warnings] == ["PortByName"]
    assert codes(judge(annotated(mode="deployment"), by_name)) == codes(judge(annotated(mode="deployment"), context()))


@pytest.mark.attack(9)
@pytest.mark.parametrize("name", [[], {}, ["http"], 5, None])
def test_names_of_ports_can_be_anything(name: object) -> None:
    written = annotated()
    written["spec"]["template"]["spec"]["containers"][0]["ports"] = [{"containerPort": 8080, "name": name}]
    verdict = judge(written, context(service("web", target="http", app="iris")))
    assert "PortByName" not in [warning.code for warning in verdict.warnings]


def test_a_service_with_a_number_beside_the_name_still_finds_the_pods() -> None:
    ports = [{"targetPort": "http"}, {"port": 9090}]
    both = read({"metadata": {"name": "web"}, "spec": {"selector": {"app": "iris"}, "ports": ports}})
    warnings = judge(annotated(), context(("web", both))).warnings
    assert [warning.code for warning in warnings] == ["PortByName", "PastKnative"]


@pytest.mark.parametrize(
    ("ports", "has_number"),
    [
        (None, True),
        ([], True),
        ([{"port": 80}], True),
        ([{"port": 80, "targetPort": "8080"}], True),
        ([{"port": 80, "targetPort": "http"}], False),
        ([{"port": 80, "targetPort": "http"}, {"targetPort": 5}], True),
    ],
)
def test_a_trimmed_service_reads_the_same(ports: Any, has_number: bool) -> None:
    written = {"metadata": {"name": "a", "namespace": "b"}, "spec": {"selector": {"app": "a"}, "ports": ports}}
    assert read(written).has_number is has_number
    assert read(trimming.service(written)) == read(written)


def test_offline_documents_of_any_shape_are_read() -> None:
    assert read({"metadata": {"name": "a"}, "spec": {"ports": 5, "selector": []}}).selector == {}
    assert read({"metadata": {"name": "a", "labels": None}, "spec": None}).owner == ""
    assert read({"metadata": {"name": "a", "ownerReferences": [5, {"kind": "Deployment"}]}}).owner == ""


OTHERS = [
    *(service(name) for name in ("iris", "latest-iris", "previous-iris", "iris-model", "latest-iris-model")),
    *(service(name) for name in ("iris-model-2", "lily", "iris-2", "previous-lily", "model")),
    *(service(name, owner="iris") for name in ("iris", "latest-iris", "iris-model")),
    service("lily", owner="lily"),
    service("iris", owner="lily"),
    service("lily", app="iris"),
    service("lily", app="lily"),
    service("lily", "http", tier="ml"),
    service("iris", owner="iris", app="iris"),
]
TAKEN = context(service("iris"), service("latest-iris-model"))


@pytest.mark.parametrize("around", [context(), TAKEN], ids=["free", "taken"])
def test_a_service_that_cannot_matter_to_a_model_changes_nothing_of_it(around: ClusterContext) -> None:
    """The reconciler looks again only at the models to which the change of a Service can matter."""
    stored = judge(annotated(), around).deployment
    assert stored is not None
    matters = set()
    for name, summary in OTHERS:
        present = {**around.services["models"]}
        before = present.pop(name, None)
        after = ClusterContext(LoaderConfig("example.com/loader:1"), services={"models": present | {name: summary}})
        states = [each for each in (before, summary) if each is not None]
        if render_stored(stored, after) != render_stored(stored, around):
            assert may_affect(name, states, "iris"), (name, summary)
        matters.add(may_affect(name, states, "iris"))
    assert matters == {True, False}


@pytest.mark.parametrize("length", [60, 63])
def test_a_service_matters_to_a_model_whose_name_was_cut_for_it(length: int) -> None:
    own = "a" * length
    taken: dict[str, Any] = {}
    for _ in range(3):
        named = annotated()
        named["metadata"]["name"] = own
        spec, _ = serving_spec.read(named["metadata"]["annotations"])
        assert spec is not None
        name, _ = name_conflict.free_name(Workload(named), spec, {"models": taken})
        taken[name] = read({})
        assert may_affect(name, [taken[name]], own), name
