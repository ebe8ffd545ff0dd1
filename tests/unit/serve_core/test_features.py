"""Knative's feature flags: their states, names, and which of them Deployments need."""

from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from kubectl_serve.install import manifests
from serve_core.admission import feature_report
from serve_core.admission.decide import judge
from serve_core.admission.feature_report import FeatureReport
from serve_core.base.json import JsonObject
from serve_core.context.cluster import ClusterContext
from serve_core.knative import features, fields
from serve_core.knative.features import FeatureNeed, UnknownFeatureError
from serve_core.knative.fields import FieldRule

CONTEXT: ClusterContext = manifests.default_context()


def flags_of(rules: Mapping[str, FieldRule]) -> Iterator[str]:
    for rule in rules.values():
        yield from (rule.flag,) if rule.flag else ()
        yield from flags_of(rule.inner or {})


def test_every_flag_of_a_field_is_known() -> None:
    tables = (fields.POD, fields.CONTAINER, fields.SIDE_CONTAINER, fields.INIT_CONTAINER, fields.VOLUME)
    assert {flag for table in tables for flag in flags_of(table)} <= features.FIELD_FLAGS
    assert set(features.RECOMMENDED) <= features.FIELD_FLAGS
    assert features.ON_BY_DEFAULT <= features.FIELD_FLAGS


@pytest.mark.parametrize("word", ["host", "capabilities", "propagation"])
def test_what_opens_the_node_is_not_recommended(word: str) -> None:
    assert [flag for flag in features.RECOMMENDED if word in flag] == []


@pytest.mark.parametrize(
    ("value", "flag", "expected"),
    [
        ("Enabled", "multi-container", "enabled"),
        ("ALLOWED", "multi-container-probing", "allowed"),
        ("yes", "multi-container", "enabled"),
        ("yes", "multi-container-probing", "disabled"),
        (None, "kubernetes.podspec-volumes-emptydir", "enabled"),
        (None, "kubernetes.podspec-affinity", "disabled"),
    ],
)
def test_a_state_is_what_knative_makes_of_the_value(value: str | None, flag: str, expected: str) -> None:
    assert features.state({} if value is None else {flag: value}, flag) == expected


def test_allowed_is_enough_where_knative_does_not_need_enabled() -> None:
    flag = "kubernetes.podspec-affinity"
    assert FeatureNeed(flag).is_met({flag: "allowed"})
    assert not FeatureNeed(flag, exact=True).is_met({flag: "allowed"})


def test_flags_are_named_in_full_or_without_their_prefix() -> None:
    assert features.resolve(["podspec-tolerations", "kubernetes.podspec-tolerations", "multi-container-probing"]) == (
        "kubernetes.podspec-tolerations",
        "multi-container-probing",
    )
    assert features.resolve(["recommended"]) == tuple(sorted(features.RECOMMENDED))
    assert "kubernetes.podspec-schedulername" in features.resolve(["recommended", "podspec-schedulername"])


@pytest.mark.parametrize("name", ["podspec-toleration", "tag-header-based-routing", "kubernetes.podspec-dryrun", "x"])
def test_a_name_that_is_no_flag_of_a_field_is_refused(name: str) -> None:
    with pytest.raises(UnknownFeatureError) as caught:
        features.resolve([name])
    assert caught.value.hint.startswith(("Did you mean ", "Known: recommended, "))


def deployment(name: str, *, model: bool = True, image: str = "registry.example/srv:1", **pod: Any) -> JsonObject:
    notes = {"annotations": {"kubectl-serve.dev/model": "hf://acme/tiny"}} if model else {}
    container = {"name": "srv", "image": image, "args": ["/mnt/models"], "ports": [{"containerPort": 9500}]}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, **notes},
        "spec": {
            "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": {"containers": [container], **pod}},
        },
    }


def reported(*deployments: JsonObject) -> FeatureReport:
    return feature_report.of(((each["metadata"]["name"], each) for each in deployments), CONTEXT)


TOLERATIONS: dict[str, Any] = {"tolerations": [{"operator": "Exists"}]}


def test_a_verdict_has_the_flags_that_are_needed_set_or_not() -> None:
    verdict = judge(deployment("chat", **TOLERATIONS), CONTEXT)
    assert verdict.refused
    assert FeatureNeed("kubernetes.podspec-tolerations") in verdict.feature_needs


def test_a_report_counts_the_deployments_that_need_each_flag() -> None:
    claim = {"name": "c", "persistentVolumeClaim": {"claimName": "c"}}
    mounted = deployment("cache", volumes=[claim], **TOLERATIONS)
    mounted["spec"]["template"]["spec"]["containers"][0]["volumeMounts"] = [{"name": "c", "mountPath": "/cache"}]
    report = reported(deployment("chat", **TOLERATIONS), mounted, deployment("plain"))
    assert {need.flag: users for need, users in report.needs.items()} == {
        "kubernetes.podspec-init-containers": ("chat", "cache", "plain"),
        "kubernetes.podspec-persistent-volume-claim": ("cache",),
        "kubernetes.podspec-persistent-volume-write": ("cache",),
        "kubernetes.podspec-tolerations": ("chat", "cache"),
        "kubernetes.podspec-volumes-emptydir": ("chat", "cache", "plain"),
    }
    assert (report.refused, report.passed_over) == ((), 0)
    on = {"kubernetes.podspec-init-containers": "enabled", "kubernetes.podspec-tolerations": "allowed"}
    assert report.missing(on) == (
        "kubernetes.podspec-persistent-volume-claim",
        "kubernetes.podspec-persistent-volume-write",
    )


def test_in_mode_deployment_no_flag_is_needed() -> None:
    written = deployment("chat", **TOLERATIONS)
    written["metadata"]["annotations"]["kubectl-serve.dev/mode"] = "deployment"
    report = reported(written)
    assert (report.judged, dict(report.needs)) == (("chat",), {})


def test_a_known_server_without_the_annotation_is_judged_as_if_it_had_it() -> None:
    vllm = deployment("chat", model=False, image="vllm/vllm-openai:v0.11.0", **TOLERATIONS)
    report = reported(vllm, deployment("shop", model=False), {"kind": "Deployment", "metadata": {"name": "odd"}})
    assert (report.judged, report.passed_over) == (("chat",), 2)
    assert FeatureNeed("kubernetes.podspec-tolerations") in report.needs


def test_what_is_refused_for_another_reason_is_named() -> None:
    written = deployment("chat", activeDeadlineSeconds=5, **TOLERATIONS)
    report = reported(written)
    assert report.refused == ("chat",)
    assert FeatureNeed("kubernetes.podspec-tolerations") in report.needs
