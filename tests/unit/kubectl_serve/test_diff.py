"""diff: whole screens and exit codes. Admission is the real core; the cluster's defaults are simulated."""

import copy
import json
import shutil
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from kubectl_serve.diff.threeway import LAST_APPLIED
from kubectl_serve.install import manifests
from serve_core.admission.decide import judge
from serve_core.base.constants import FIELD_MANAGER
from serve_core.base.json import JsonObject
from serve_kube import errors
from serve_kube.resources import OWNED, Resource
from support.fake_cluster import FakeCluster
from unit.kubectl_serve.conftest import Run, Screen

IRIS = """\
apiVersion: apps/v1
kind: Deployment
metadata:
  name: iris
  annotations:
    kubectl-serve.dev/model: s3://models/iris/model.joblib
    kubectl-serve.dev/scale: 0..3
"""
WINE = IRIS.replace("iris", "wine")
MORE = IRIS.replace("0..3", "1..5")
WRONG = IRIS.replace("0..3", "many")
PLAIN = """\
apiVersion: apps/v1
kind: Deployment
metadata: {name: iris}
spec:
  selector: {matchLabels: {app: iris}}
  template:
    metadata: {labels: {app: iris}}
    spec: {containers: [{name: model-server, image: "example.com/iris:1", ports: [{containerPort: 8080}]}]}
"""
OTHERS = """\
---
apiVersion: v1
kind: Secret
metadata: {name: store}
stringData: {password: hidden-value}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
"""
KNATIVE_FILLS_IN: JsonObject = {"containerConcurrency": 0, "enableServiceLinks": False, "timeoutSeconds": 300}
HEAD = "diff -u -N LIVE/serving.knative.dev.v1.Service.default.{0} MERGED/serving.knative.dev.v1.Service.default.{0}\n"


def admitted(manifest: JsonObject, live: JsonObject | None) -> JsonObject:
    """What admission makes of a Deployment. Raises DeniedError."""
    verdict = judge(manifest, manifests.default_context(), live)
    if verdict.deployment is None:
        raise errors.DeniedError("\n".join(map(str, verdict.problems)), webhook="deployments.kubectl-serve.dev")
    kept = {"uid": live["metadata"]["uid"]} if live else {}
    return verdict.deployment | {"metadata": verdict.deployment["metadata"] | kept}


@dataclass
class Cluster(FakeCluster):
    """One in which admission completes, and the API server fills in."""

    admits: Callable[[JsonObject, JsonObject | None], JsonObject] = admitted
    """What becomes of a Deployment, and of the one before it."""
    reads_only: frozenset[str] = frozenset()
    """Kinds that this user may not write."""
    takes: dict[str, errors.ApiError] = field(default_factory=dict)
    """By kind, how an apply is answered if not with success."""
    managers: list[tuple[str, bool]] = field(default_factory=list)
    """Who applied, and whether by force."""

    async def create(self, resource: Resource, manifest: JsonObject, *, dry_run: bool = False) -> JsonObject:
        await super().create(resource, manifest, dry_run=dry_run)
        return self.admits(manifest, None)

    async def merge(
        self,
        resource: Resource,
        namespace: str | None,
        name: str,
        patch: JsonObject,
        *,
        dry_run: bool = False,
        strategic: bool = False,
    ) -> JsonObject:
        live = await super().merge(resource, namespace, name, patch, dry_run=dry_run)
        return self.admits(_patched(live, patch), live)

    async def apply(
        self, resource: Resource, manifest: JsonObject, *, manager: str, dry_run: bool = False, force: bool = True
    ) -> JsonObject:
        self.wrote.append(("dry-run" if dry_run else "apply", resource.plural, copy.deepcopy(manifest)))
        self.managers.append((manager, force))
        if resource.kind in self.reads_only:
            raise errors.ForbiddenError(f'cannot patch resource "{resource.plural}"')
        if resource.kind in self.takes:
            raise self.takes[resource.kind]
        live = next((each for each in self.objects if _is(each, manifest)), None)
        if resource.kind == "Deployment":
            return self.admits(manifest, live)
        return _over(manifest, copy.deepcopy(live)) if live else filled_in(manifest)


def filled_in(manifest: JsonObject) -> JsonObject:
    """An object as it is stored."""
    stored = copy.deepcopy(manifest)
    stored["metadata"] |= {"uid": "u-1", "resourceVersion": "7", "generation": 1, "managedFields": [{"manager": "x"}]}
    stored["metadata"]["finalizers"] = ["somebodys"]
    stored["metadata"].setdefault("annotations", {})["serving.knative.dev/creator"] = "kubectl-serve"
    if stored["apiVersion"] == "serving.knative.dev/v1":
        stored["spec"]["template"]["spec"] |= KNATIVE_FILLS_IN
    return stored | {"status": {"observedGeneration": 1}}


def stored(*texts: str, **more: Any) -> Cluster:
    """A cluster in which these Deployments were applied, and have become what they become."""
    objects: list[JsonObject] = []
    for text in texts:
        manifest = _in_default(yaml.safe_load(text))
        verdict = judge(manifest, manifests.default_context())
        assert verdict.deployment is not None
        metadata = verdict.deployment["metadata"]
        metadata |= {"uid": f"of-{metadata['name']}", "resourceVersion": "5"}
        metadata["annotations"][LAST_APPLIED] = json.dumps(manifest)
        owner = {"kind": "Deployment", "name": metadata["name"], "uid": metadata["uid"], "controller": True}
        objects.append(verdict.deployment)
        for each in verdict.objects:
            made = filled_in(each)
            made["metadata"]["ownerReferences"] = [owner]
            objects.append(made)
    return Cluster(objects, **more)


def _in_default(manifest: JsonObject) -> JsonObject:
    return manifest | {"metadata": {"namespace": "default"} | manifest["metadata"]}


def _patched(live: Any, patch: Any) -> Any:
    """What a strategic merge patch leaves, but for lists, which are not merged here."""
    if isinstance(patch, list):
        return [_patched(None, each) for each in patch if not (isinstance(each, dict) and "$patch" in each)]
    if not isinstance(patch, dict):
        return patch
    kept = {key: value for key, value in (live or {}).items() if key not in patch}
    return kept | {
        key: _patched((live or {}).get(key), value)
        for key, value in patch.items()
        if value is not None and not key.startswith("$")
    }


def _over(manifest: Any, live: Any) -> Any:
    if isinstance(manifest, dict) and isinstance(live, dict):
        return live | {key: _over(value, live.get(key)) for key, value in manifest.items()}
    return manifest


def _is(one: JsonObject, other: JsonObject) -> bool:
    return (one["apiVersion"], one["kind"], one["metadata"]["name"]) == (
        other["apiVersion"],
        other["kind"],
        other["metadata"]["name"],
    )


def changed(screen: Screen) -> list[str]:
    """The lines that were taken out and put in."""
    lines = screen.out.splitlines()
    return [line for line in lines if line[0] in "+-" and not line.startswith(("---", "+++"))]


def parts(screen: Screen) -> tuple[int, str, str]:
    return screen.code, screen.out, screen.err


def titles(screen: Screen) -> list[str]:
    return [line.split("/")[-1] for line in screen.out.splitlines() if line.startswith("diff ")]


def written(verbs: Iterable[tuple[str, str, JsonObject]]) -> set[str]:
    return {verb for verb, _, _ in verbs}


def test_what_was_applied_shows_no_difference(run: Run) -> None:
    cluster = stored(IRIS)
    screen = run("diff", "-f", "-", stdin=IRIS, cluster=cluster)
    assert parts(screen) == (0, "", "")
    assert written(cluster.wrote) == {"dry-run"}


def test_a_change_is_shown_as_kubectl_shows_it(run: Run) -> None:
    cluster = stored(IRIS)
    screen = run("diff", "-f", "-", stdin=MORE, cluster=cluster)
    assert (screen.code, screen.err) == (1, "")
    assert screen.out == HEAD.format("iris") + (
        "--- LIVE/serving.knative.dev.v1.Service.default.iris\n"
        "+++ MERGED/serving.knative.dev.v1.Service.default.iris\n"
        "@@ -11,8 +11,8 @@\n"
        "       labels:\n"
        "         kubectl-serve.dev/deployment: iris\n"
        "       annotations:\n"
        "-        autoscaling.knative.dev/max-scale: '3'\n"
        "-        autoscaling.knative.dev/min-scale: '0'\n"
        "+        autoscaling.knative.dev/max-scale: '5'\n"
        "+        autoscaling.knative.dev/min-scale: '1'\n"
        "     spec:\n"
        "       automountServiceAccountToken: false\n"
        "       containerConcurrency: 0\n"
    )
    assert written(cluster.wrote) == {"dry-run"}


def test_it_is_tried_as_the_reconciler_applies_it(run: Run) -> None:
    cluster = stored(IRIS)
    run("diff", "-f", "-", stdin=MORE, cluster=cluster)
    assert cluster.managers == [(FIELD_MANAGER, True)]


def test_of_a_new_model_all_is_added(run: Run) -> None:
    cluster = Cluster()
    screen = run("diff", "-f", "-", stdin=IRIS, cluster=cluster)
    assert screen.code == 1
    assert written(cluster.wrote) == {"dry-run"}
    assert screen.out.startswith(HEAD.format("iris"))
    service = yaml.safe_load("\n".join(line[1:] for line in changed(screen)))
    rendered = judge(_in_default(yaml.safe_load(IRIS)), manifests.default_context()).service
    assert service == rendered
    assert all(line.startswith("+") for line in changed(screen))


def test_without_the_annotation_the_knative_service_goes_and_the_deployment_comes_back(run: Run) -> None:
    served = PLAIN.replace(
        "{name: iris}", "{name: iris, annotations: {kubectl-serve.dev/model: s3://models/iris/model.joblib}}", 1
    )
    screen = run("diff", "-f", "-", stdin=PLAIN, cluster=stored(served))
    assert screen.code == 1
    assert titles(screen) == ["apps.v1.Deployment.default.iris", "serving.knative.dev.v1.Service.default.iris"]
    deployment, service = screen.out.split("diff -u -N ")[1:]
    assert "-  replicas: 0\n+  replicas: 1\n" in deployment
    assert "kubectl-serve.dev/filled" not in deployment
    assert all(line.startswith("-") for line in service.splitlines()[4:])


def test_where_its_own_pods_serve_the_deployment_is_shown_too(run: Run) -> None:
    here = IRIS.replace("0..3", "1..3\n    kubectl-serve.dev/mode: deployment")
    assert run("diff", "-f", "-", stdin=here, cluster=stored(here)).code == 0
    screen = run("diff", "-f", "-", stdin=here.replace("1..3", "1..4"), cluster=stored(here))
    assert "autoscaling.v2.HorizontalPodAutoscaler.default.iris" in titles(screen)
    assert "-  maxReplicas: 3\n+  maxReplicas: 4\n" in screen.out
    new = run("diff", "-f", "-", stdin=here, cluster=Cluster())
    assert titles(new) == [
        "apps.v1.Deployment.default.iris",
        "v1.Service.default.iris",
        "autoscaling.v2.HorizontalPodAutoscaler.default.iris",
    ]


def test_what_is_beside_the_knative_service_is_compared_as_well(run: Run) -> None:
    mapped = IRIS + "    kubectl-serve.dev/domain: iris.example.com\n"
    added = run("diff", "-f", "-", stdin=mapped, cluster=stored(IRIS))
    assert titles(added) == ["serving.knative.dev.v1beta1.DomainMapping.default.iris.example.com"]
    removed = run("diff", "-f", "-", stdin=IRIS, cluster=stored(mapped))
    assert titles(removed) == titles(added)
    assert {line[0] for line in changed(added)} == {"+"}
    assert {line[0] for line in changed(removed)} == {"-"}
    assert [line[1:] for line in changed(removed)] == [line[1:] for line in changed(added)]


def test_knatives_service_of_the_same_name_is_not_in_the_way_of_another_mode(run: Run) -> None:
    cluster = stored(IRIS)
    labels = {"serving.knative.dev/route": "iris", "kubectl-serve.dev/deployment": "iris"}
    metadata = {"name": "iris", "namespace": "default", "labels": labels, "uid": "s-1"}
    cluster.objects.append({"apiVersion": "v1", "kind": "Service", "metadata": metadata})
    here = IRIS.replace("0..3", "1..3\n    kubectl-serve.dev/mode: deployment")
    screen = run("diff", "-f", "-", stdin=here, cluster=cluster)
    assert (screen.code, screen.err) == (1, "")
    assert "v1.Service.default.iris" in titles(screen)
    left, behind = stored(here), cluster.objects[-1]
    left.objects = [each for each in left.objects if each["kind"] != "Service"] + [behind]
    assert parts(run("diff", "-f", "-", stdin=here, cluster=left)) == (0, "", ""), "it comes by itself"


def test_what_goes_anyway_is_no_difference(run: Run) -> None:
    """The Knative Service stays until the Deployment's own pods are there: no apply takes it away any more."""
    here = IRIS.replace("0..3", "1..3\n    kubectl-serve.dev/mode: deployment")
    cluster = stored(here)
    left = stored(IRIS).objects[1]
    left["metadata"]["ownerReferences"] = cluster.objects[1]["metadata"]["ownerReferences"]
    cluster.objects.append(left)
    assert parts(run("diff", "-f", "-", stdin=here, cluster=cluster)) == (0, "", "")


def test_a_refusal_is_reported_as_by_create_and_the_others_are_shown(run: Run, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(WRONG)
    (tmp_path / "b.yaml").write_text(WINE)
    screen = run("diff", "-f", str(tmp_path), cluster=Cluster())
    assert screen.code == 2
    first, problem = screen.err.splitlines()
    assert first == f"error: deployment.apps/iris in {tmp_path}/a.yaml is refused:"
    assert problem.startswith("InvalidAnnotation: metadata.annotations[kubectl-serve.dev/scale]: ")
    assert titles(screen) == ["serving.knative.dev.v1.Service.default.wine"]


def test_several_deployments_are_compared_one_by_one(run: Run, tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "iris.yaml").write_text(MORE)
    (tmp_path / "deep" / "wine.yaml").write_text(WINE)
    screen = run("diff", "-R", "-f", str(tmp_path), cluster=stored(IRIS))
    assert screen.code == 1
    assert sorted(titles(screen)) == [f"serving.knative.dev.v1.Service.default.{name}" for name in ("iris", "wine")]


def test_what_has_no_model_is_passed_over_with_a_count(run: Run) -> None:
    screen = run("diff", "-f", "-", stdin=IRIS + OTHERS, cluster=stored(IRIS))
    assert parts(screen) == (0, "", "2 objects without a model skipped\n")


def test_the_namespace_of_the_flags_is_that_of_objects_without_one(run: Run) -> None:
    screen = run("diff", "-n", "models", "-f", "-", stdin=IRIS, cluster=Cluster())
    assert titles(screen) == ["serving.knative.dev.v1.Service.models.iris"]


@pytest.mark.parametrize("argv", [(), ("-f", "/nowhere.yaml"), ("--colour",), ("-f", "x", "--force-conflicts")])
def test_a_wrong_command_line_ends_with_2(run: Run, argv: tuple[str, ...]) -> None:
    screen = run("diff", *argv)
    assert (screen.code, screen.out) == (2, "")
    assert screen.err.startswith("error: ")


def test_a_deployment_without_a_name_is_an_error(run: Run) -> None:
    screen = run("diff", "-f", "-", stdin="{apiVersion: apps/v1, kind: Deployment}", cluster=Cluster())
    assert screen.code == 2
    assert screen.err.startswith("error: deployment.apps/<unknown> in standard input: the object has no name.")


def test_a_cluster_that_does_not_answer_ends_it_with_2(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    async def forbidden(*_: object, **__: object) -> JsonObject:
        raise errors.UnreachableError("the API server cannot be reached.")

    monkeypatch.setattr(Cluster, "get", forbidden)
    screen = run("diff", "-f", "-", stdin=IRIS + "---\n" + WINE, cluster=Cluster())
    assert parts(screen) == (2, "", "error: the API server cannot be reached.\n")


def test_without_the_webhook_it_says_how_to_install_it(run: Run) -> None:
    screen = run("diff", "-f", "-", stdin=IRIS, cluster=Cluster(admits=lambda manifest, _: manifest))
    assert screen.code == 2
    assert "kubectl-serve is not installed in this cluster" in screen.err


def test_server_side_is_tried_as_kubectl_does_it(run: Run) -> None:
    cluster = stored(IRIS)
    flags = ("--server-side", "--field-manager", "argocd-controller")
    assert run("diff", *flags, "-f", "-", stdin=IRIS, cluster=cluster).code == 0
    run("diff", *flags, "--force-conflicts", "-f", "-", stdin=IRIS, cluster=cluster)
    assert cluster.managers == [
        ("argocd-controller", False),
        (FIELD_MANAGER, True),
        ("argocd-controller", True),
        (FIELD_MANAGER, True),
    ]
    assert written(cluster.wrote) == {"dry-run"}


def test_a_conflict_of_server_side_apply_is_reported_with_a_hint(run: Run) -> None:
    cluster = stored(IRIS, takes={"Deployment": errors.ConflictError("conflict with kubectl: .spec.replicas")})
    screen = run("diff", "--server-side", "-f", "-", stdin=IRIS, cluster=cluster)
    assert screen.code > 1
    assert "conflict with kubectl: .spec.replicas" in screen.err
    assert "--force-conflicts takes ownership of these fields." in screen.err


def test_who_may_not_apply_what_is_made_sees_what_is_made_of_the_deployment(run: Run) -> None:
    cluster = stored(IRIS, reads_only=frozenset({"Service"}))
    assert run("diff", "-f", "-", stdin=IRIS, cluster=cluster).code == 0
    screen = run("diff", "-f", "-", stdin=MORE, cluster=cluster)
    assert screen.code == 1
    assert [line.split(": ")[1] for line in changed(screen)] == ["'3'", "'0'", "'5'", "'1'"]
    assert screen.err == (
        'Warning: Cannot dry-run service.serving.knative.dev in namespace default: cannot patch resource "services". '
        "The comparison shows what kubectl-serve makes of the Deployment, without the cluster's defaults.\n"
    )


def test_without_permission_to_read_the_message_is_the_same(run: Run) -> None:
    hidden = frozenset(resource.plural for resource in OWNED)
    mapped = IRIS + "    kubectl-serve.dev/domain: iris.example.com\n"
    screen = run("diff", "-f", "-", stdin=MORE, cluster=stored(mapped, hidden=hidden))
    assert screen.code == 1
    assert [line[0] for line in changed(screen)][:4] == ["-", "-", "+", "+"]
    assert titles(screen)[1:] == ["serving.knative.dev.v1beta1.DomainMapping.default.iris.example.com"]
    assert screen.err.count("Warning: Cannot dry-run service.serving.knative.dev") == 1
    assert "istio" not in screen.err


def test_policies_for_what_is_applied_by_hand_do_not_stand_in_the_way(run: Run) -> None:
    refusal = errors.DeniedError("ModelNotPinned: ...", webhook="policies-knative.kubectl-serve.dev")
    screen = run("diff", "-f", "-", stdin=MORE, cluster=stored(IRIS, takes={"Service": refusal}))
    assert screen.code == 1
    assert len(changed(screen)) == 4
    assert screen.err.startswith("Warning: Cannot dry-run service.serving.knative.dev in namespace default: ModelNot")


def test_what_knative_would_refuse_is_an_error(run: Run) -> None:
    refusal = errors.DeniedError("validation failed:\nno", webhook="validation.webhook.serving.knative.dev")
    screen = run("diff", "-f", "-", stdin=MORE, cluster=stored(IRIS, takes={"Service": refusal}))
    assert (screen.code, screen.out) == (2, "")
    assert screen.err == (
        "error: deployment.apps/iris in standard input: service.serving.knative.dev iris would be refused: "
        "validation failed: no\n"
    )


def test_a_name_conflict_is_an_error(run: Run) -> None:
    cluster = stored(IRIS)
    for key in ("ownerReferences", "labels"):
        del cluster.objects[1]["metadata"][key]
    screen = run("diff", "-f", "-", stdin=MORE, cluster=cluster)
    assert (screen.code, screen.out) == (2, "")
    assert "service.serving.knative.dev iris exists already, and kubectl-serve does not own it." in screen.err


def test_what_istio_enforces_is_not_guessed(run: Run) -> None:
    """Where the webhook has seen Istio, and this user may not."""
    asked = IRIS + "    kubectl-serve.dev/auth: mtls\n"
    completed = admitted(_in_default(yaml.safe_load(IRIS)), None)
    completed["metadata"]["annotations"]["kubectl-serve.dev/auth"] = "mtls"
    screen = run("diff", "-f", "-", stdin=asked, cluster=Cluster(admits=lambda *_: completed))
    assert (screen.code, screen.out) == (2, "")
    assert "the result is unknown: " in screen.err
    assert "hint: You may lack permission to read Istio's configuration" in screen.err


def external(folder: Path, code: str) -> dict[str, str]:
    """The environment of a user with a program of their own, in Python."""
    program = folder / "compare"
    program.write_text(f"#!{sys.executable}\nimport pathlib, sys\n{code}\n")
    program.chmod(0o700)
    return {"KUBECTL_EXTERNAL_DIFF": f"{program} --colour=never -u ;rm $HOME -w"}


def test_another_program_compares_two_folders(run: Run, tmp_path: Path) -> None:
    code = (
        "print(sys.argv[3:], [sorted(p.name for p in pathlib.Path(a).iterdir()) for a in sys.argv[1:3]]); sys.exit(1)"
    )
    screen = run("diff", "-f", "-", stdin=MORE, cluster=stored(IRIS), environment=external(tmp_path, code))
    name = "serving.knative.dev.v1.Service.default.iris"
    assert parts(screen) == (1, f"['--colour=never', '-u', '-w'] [['{name}'], ['{name}']]\n", "")


@pytest.mark.skipif(shutil.which("diff") is None, reason="there is no diff")
def test_the_real_diff_says_the_same(run: Run) -> None:
    environment = {"KUBECTL_EXTERNAL_DIFF": "diff -u -N"}
    same = run("diff", "-f", "-", stdin=IRIS, cluster=stored(IRIS), environment=environment)
    assert parts(same) == (0, "", "")
    ours = run("diff", "-f", "-", stdin=MORE + "---\n" + WINE, cluster=stored(IRIS))
    theirs = run("diff", "-f", "-", stdin=MORE + "---\n" + WINE, cluster=stored(IRIS), environment=environment)
    assert theirs.code == ours.code == 1
    assert changed(theirs) == changed(ours)


def test_another_program_that_fails_ends_it_with_2(run: Run, tmp_path: Path) -> None:
    code = "print('no', file=sys.stderr); sys.exit(3)"
    screen = run("diff", "-f", "-", stdin=MORE, cluster=stored(IRIS), environment=external(tmp_path, code))
    assert screen.code == 2
    assert screen.err.startswith("no\nerror: the program ")
    missing = {"KUBECTL_EXTERNAL_DIFF": "no-such-program"}
    screen = run("diff", "-f", "-", stdin=MORE, cluster=stored(IRIS), environment=missing)
    assert screen.code == 2
    assert 'the program "no-such-program" of KUBECTL_EXTERNAL_DIFF cannot compare: ' in screen.err


def test_every_kind_that_the_reconciler_owns_is_compared() -> None:
    assert {(each.api_version, each.kind) for each in OWNED} == {(each.api_version, each.kind) for each in OWNED}


SCALER = """\
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: scaler}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: iris}
  minReplicas: 2
  maxReplicas: 6
"""
FRONT = """\
---
apiVersion: v1
kind: Service
metadata: {name: front}
spec: {selector: {kubectl-serve.dev/deployment: iris}, ports: [{port: 80}]}
"""


def test_an_autoscaler_is_warned_of_in_the_files_and_in_the_cluster(run: Run) -> None:
    written = IRIS.replace("    kubectl-serve.dev/scale: 0..3\n", "")
    in_files = run("diff", "-f", "-", stdin=written + SCALER, cluster=Cluster())
    assert "Warning: deployment.apps/iris: BoundsLost: " in in_files.err
    live = _in_default(yaml.safe_load(SCALER.removeprefix("---\n")))
    assert "kubectl-serve.dev/scale: 2..6" in run("diff", "-f", "-", stdin=written, cluster=Cluster([live])).err
    unseen = Cluster([live], hidden=frozenset({"horizontalpodautoscalers"}))
    assert "BoundsLost" not in run("diff", "-f", "-", stdin=written, cluster=unseen).err


def test_a_service_of_the_files_is_warned_of_while_admission_does_not_know_it(run: Run) -> None:
    assert "PastKnative" in run("diff", "-f", "-", stdin=IRIS + FRONT, cluster=Cluster()).err
    live = _in_default(yaml.safe_load(FRONT.removeprefix("---\n")))
    assert "PastKnative" not in run("diff", "-f", "-", stdin=IRIS + FRONT, cluster=Cluster([live])).err
