"""The rules of the installed webhooks: they are called for everything that must be judged."""

from typing import Any

import pytest
import yaml
from cel_expr_python import cel

from serve_core.base.constants import ADOPT_LABEL, NEVER_JUDGED, SERVER_USERNAME
from serve_core.base.json import JsonObject
from serve_core.policy.subject import SUBJECT_KINDS
from serve_kube.resources import DEPLOYMENTS
from serve_webhook.admission.validation import KNATIVE_USERNAME
from serve_webhook.audit.background import LISTED
from support.bounds import POLICIES
from support.paths import ROOT

WEBHOOKS = {
    webhook["name"].removesuffix(".kubectl-serve.dev"): webhook
    for document in yaml.safe_load_all((ROOT / "manifests/base/50-webhooks.yaml").read_text())
    for webhook in document["webhooks"]
}


def called(name: str, **values: Any) -> bool:
    """Whether a webhook's match conditions let a request through to it."""
    names = ("object", "oldObject", "request")
    environment = cel.NewEnv(variables=dict.fromkeys(names, cel.Type.DYN))
    data = {"object": None, "oldObject": None, "request": {"userInfo": {"username": "jane"}}} | values
    conditions = [condition["expression"] for condition in WEBHOOKS[name].get("matchConditions", [])]
    found = [environment.compile(text).eval(data=data).value() for text in conditions]
    assert all(isinstance(value, bool) for value in found), found
    return all(found)


def judged(name: str) -> set[str]:
    return {resource for rule in WEBHOOKS[name]["rules"] for resource in rule["resources"]}


@pytest.mark.attack(1)
def test_every_subresource_by_which_a_model_changes_is_named() -> None:
    assert judged("policies-scale") == judged("scale") == {"deployments/scale"}
    assert judged("policies-pods") == {"pods", "pods/ephemeralcontainers", "pods/resize"}
    for name in ("deployments", "policies", "policies-knative", "policies-pods", "policies-documents"):
        for rule in WEBHOOKS[name]["rules"]:
            assert set(rule["operations"]) == {"CREATE", "UPDATE"}, "a patch and a server-side apply are one of these"
    assert {webhook["matchPolicy"] for webhook in WEBHOOKS.values()} == {"Equivalent"}, "another version is no way out"


def test_pods_of_knative_without_a_startup_probe_get_one_and_never_depend_on_it() -> None:
    assert judged("pods") == {"pods"}
    assert [rule["operations"] for rule in WEBHOOKS["pods"]["rules"]] == [["CREATE"]]
    assert WEBHOOKS["pods"]["failurePolicy"] == "Ignore"
    queue: JsonObject = {"name": "queue-proxy", "readinessProbe": {"httpGet": {"port": 8012}}}
    labels = {"kubectl-serve.dev/deployment": "iris", "serving.knative.dev/revision": "iris-00001"}

    def called_for(*containers: JsonObject, labels: dict[str, str] = labels) -> bool:
        return called("pods", object={"metadata": {"labels": labels}, "spec": {"containers": list(containers)}})

    assert called_for({"name": "server"}, queue)
    assert not called_for(queue | {"startupProbe": {"periodSeconds": 1}})
    assert not called_for({"name": "server"})
    assert not called_for(queue, labels={"serving.knative.dev/revision": "other-00001"}), "another Knative Service"
    assert not called("pods", object={"metadata": {}, "spec": {"containers": [queue]}})


@pytest.mark.attack(2)
def test_whatever_serves_a_model_is_judged_however_it_was_made() -> None:
    assert judged("policies") == {"deployments"}
    leading = {"routes", "domainmappings"}
    assert judged("policies-knative") == {
        "services", "configurations", "revisions", "inferenceservices", "servingruntimes", "trainedmodels", *leading
    }  # fmt: skip
    renamed = {"name": "other", "image": "elsewhere.example/mirror/model-loader:1"}
    for key in ("initContainers", "ephemeralContainers", "containers"):
        pod: JsonObject = {"metadata": {}, "spec": {"containers": []} | {key: [renamed]}}
        assert called("policies-pods", object=pod), key
    other: JsonObject = {"metadata": {}, "spec": {"containers": [{"name": "a", "image": "b"}]}}
    ours = other | {"metadata": {"labels": {"kubectl-serve.dev/deployment": "iris"}}}
    assert called("policies-pods", object=ours)
    assert called("policies-pods", object=other, oldObject=ours)
    assert not called("policies-pods", object=other)


def test_what_is_judged_at_admission_is_what_the_audit_judges() -> None:
    at_admission = {
        (group, resource)
        for name in ("policies", "policies-knative", "policies-pods")
        for rule in WEBHOOKS[name]["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        if "/" not in resource
    }
    audited = {(resource.api_version.rpartition("/")[0], resource.plural) for resource in (DEPLOYMENTS, *LISTED)}
    assert audited == at_admission
    assert [resource.kind for resource in (DEPLOYMENTS, *LISTED)] == list(SUBJECT_KINDS)


@pytest.mark.attack(3)
@pytest.mark.parametrize(
    "served",
    [{"annotations": {"kubectl-serve.dev/model": "s3://a/b"}}, {"labels": {ADOPT_LABEL: "iris"}}],
    ids=["annotation", "label"],
)
def test_who_takes_the_model_off_is_asked_about_it(served: JsonObject) -> None:
    plain: JsonObject = {"metadata": {"name": "a"}}
    assert called("deployments", object={"metadata": served})
    assert called("deployments", object=plain, oldObject={"metadata": served})
    assert not called("deployments", object=plain, oldObject=plain)
    assert not called("deployments", object=plain)


@pytest.mark.parametrize("key", ["kubectl-serve.dev/modle", "kubectl-serve.dev/scale", "kubectl-serve.dev/filled"])
def test_the_webhook_is_called_for_any_annotation_of_the_prefix(key: str) -> None:
    plain: JsonObject = {
        "metadata": {"name": "a", "annotations": {"team": "ml", "example.com/kubectl-serve.dev/": "x"}}
    }
    written: JsonObject = {"metadata": {"name": "a", "annotations": {key: "x"}}}
    assert called("deployments", object=written)
    assert called("deployments", object=written, oldObject=plain)
    assert called("deployments", object=written, oldObject={"metadata": {"name": "a"}})
    assert not called("deployments", object=written, oldObject=written), "an existing annotation blocks no update"
    assert not called("deployments", object=plain, oldObject=written), "nor does its removal"
    assert not called("deployments", object=plain)


def test_what_knative_makes_of_a_revision_is_left_to_it() -> None:
    made: JsonObject = {"metadata": {"name": "a-00001-deployment", "annotations": {"kubectl-serve.dev/scale": "1"}}}
    assert not called("deployments", object=made, request={"userInfo": {"username": KNATIVE_USERNAME}})
    assert called("deployments", object=made)


@pytest.mark.attack(37)
def test_what_the_server_writes_to_a_deployment_needs_no_second_review() -> None:
    """Admission policies limit these writes; the objects that it creates are reviewed by themselves."""
    served: JsonObject = {"metadata": {"annotations": {"kubectl-serve.dev/model": "s3://a/b"}}}
    for user, reviewed in ((SERVER_USERNAME, False), ("system:serviceaccount:models:kubectl-serve", True)):
        request = {"userInfo": {"username": user}}
        for name in ("deployments", "policies"):
            assert called(name, object=served, oldObject=served, request=request) == reviewed, (name, user)
    assert called("own", object=served, request={"userInfo": {"username": SERVER_USERNAME}})
    assert "deployments" in {r for rule in rules_of_the_server("kubectl-serve-deployments") for r in rule["resources"]}


def rules_of_the_server(name: str) -> list[Any]:
    """What an admission policy on the server's user applies to."""
    found: list[Any] = POLICIES[name]["spec"]["matchConstraints"]["resourceRules"]
    return found


@pytest.mark.attack(4)
def test_no_label_that_users_can_set_exempts_a_namespace() -> None:
    for name, webhook in WEBHOOKS.items():
        assert "objectSelector" not in webhook, name
        selector = webhook.get("namespaceSelector")
        if name in ("policies-documents", "own"):
            assert selector is None
            continue
        (requirement,) = selector.pop("matchExpressions")
        assert not selector, name
        # The API server sets this label itself, and users cannot change it.
        assert requirement["key"] == "kubernetes.io/metadata.name"
        assert (requirement["operator"], frozenset(requirement["values"])) == ("NotIn", NEVER_JUDGED)


@pytest.mark.attack(5)
def test_exemptions_depend_on_the_user_name_alone() -> None:
    claims = {"labels": {"app.kubernetes.io/managed-by": "kubectl-serve"}, "ownerReferences": [{"controller": True}]}
    assert called("policies-knative", object={"metadata": claims})
    for user in ("kubectl-serve:kubectl-serve", "knative-serving:controller", "kserve:kserve-controller-manager"):
        request = {"userInfo": {"username": f"system:serviceaccount:{user}"}}
        assert not called("policies-knative", object={"metadata": {}}, request=request)


@pytest.mark.attack(18)
def test_no_webhook_is_waited_for_longer_than_five_seconds() -> None:
    assert all(0 < webhook["timeoutSeconds"] <= 5 for webhook in WEBHOOKS.values())


@pytest.mark.attack(20)
def test_what_can_be_closed_is_closed_from_the_start() -> None:
    """Those without a failurePolicy are closed (the API's default) until the leader has read the policies."""
    open_ = {name for name, webhook in WEBHOOKS.items() if webhook.get("failurePolicy") == "Ignore"}
    assert open_ == {"pods", "scale", "policies-scale"}
