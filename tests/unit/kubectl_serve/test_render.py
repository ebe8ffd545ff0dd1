"""render: whole screens, offline."""

import json
from pathlib import Path

import pytest
import yaml

from kubectl_serve import __version__
from kubectl_serve.errors import ServeError
from kubectl_serve.install import manifests
from kubectl_serve.io import documents
from serve_core.api import annotations
from support.recorded_state import with_state
from unit.kubectl_serve.conftest import Run

IRIS = """\
apiVersion: apps/v1
kind: Deployment
metadata:
  name: iris
  annotations:
    kubectl-serve.dev/model: s3://models/iris/model.joblib
"""
OTHERS = """\
---
apiVersion: v1
kind: ConfigMap
metadata: {name: notes}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: plain}
"""


IMAGES = "Images are the defaults of this command; `kubectl serve runtimes -o wide` shows those of the cluster.\n"


def test_four_lines_become_a_deployment_and_a_knative_service(run: Run) -> None:
    screen = run("render", "-f", "-", stdin=IRIS)
    assert (screen.code, screen.err) == (0, IMAGES)
    deployment, service = yaml.safe_load_all(screen.out)
    assert (deployment["kind"], deployment["spec"]["replicas"]) == ("Deployment", 0)
    assert (service["apiVersion"], service["kind"]) == ("serving.knative.dev/v1", "Service")
    loader = service["spec"]["template"]["spec"]["initContainers"][0]
    assert loader["image"] == f"{manifests.PREFIX}/model-loader:{__version__}"


@pytest.mark.parametrize(("only", "kind"), [("deployment", "Deployment"), ("service", "Service")])
def test_only_one_of_the_two(run: Run, only: str, kind: str) -> None:
    screen = run("render", "-f", "-", "--only", only, "-o", "json", stdin=IRIS)
    assert json.loads(screen.out)["kind"] == kind


def test_two_objects_in_json_are_a_list(run: Run) -> None:
    document = json.loads(run("render", "-f", "-", "-o", "json", stdin=IRIS).out)
    assert (document["kind"], [each["kind"] for each in document["items"]]) == ("List", ["Deployment", "Service"])


def test_what_has_no_model_is_passed_over_with_a_count(run: Run) -> None:
    screen = run("render", "-f", "-", "--only", "service", stdin=IRIS + OTHERS)
    assert (screen.code, screen.err) == (0, "2 objects without a model skipped\n" + IMAGES)
    assert len(list(yaml.safe_load_all(screen.out))) == 1


@pytest.mark.parametrize(
    ("kind", "metadata"),
    [("StatefulSet", "metadata: {name: a, annotations: {kubectl-serve.dev/model: s3://a/b.joblib}}"),
     ("Deployment", "metadata: {name: a}\nspec: {template: {metadata: {annotations: {kubectl-serve.dev/model: b}}}}")],
)  # fmt: skip
def test_an_annotation_in_the_wrong_place_is_reported(run: Run, kind: str, metadata: str) -> None:
    screen = run("render", "-f", "-", stdin=f"apiVersion: apps/v1\nkind: {kind}\n{metadata}\n")
    assert screen.err == (
        f"Warning: {kind.lower()}/a in standard input: kubectl-serve.dev/model has no effect there. "
        "Move it to metadata.annotations of a Deployment.\n1 object without a model skipped\n"
    )


def test_knatives_flags_are_those_of_the_file_that_has_them(run: Run) -> None:
    claim = IRIS.replace("s3://", "pvc://")
    flag = "kubernetes.podspec-persistent-volume-claim"
    flags = f"---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: config-features}}\ndata: {{{flag}: enabled}}\n"
    assert f"FeatureDisabled: spec.template.spec.volumes[0].persistentVolumeClaim: Knative's feature flag {flag}" in (
        run("render", "-f", "-", stdin=claim).err
    )
    screen = run("render", "-f", "-", "--only", "service", stdin=claim + flags)
    assert (screen.code, screen.err) == (0, IMAGES)
    assert yaml.safe_load(screen.out)["spec"]["template"]["spec"]["volumes"][0]["persistentVolumeClaim"]


DEFAULTS = """\
---
apiVersion: v1
kind: ConfigMap
metadata: {name: config-defaults}
data: {max-revision-timeout-seconds: "1800"}
"""
BATCH = IRIS + "    kubectl-serve.dev/timeout: 30m\n"


def test_the_maximum_timeout_is_that_of_the_file_that_has_it(run: Run) -> None:
    refused = run("render", "-f", "-", stdin=BATCH)
    assert (refused.code, "TimeoutTooLong" in refused.err) == (1, True)
    assert '{"data":{"max-revision-timeout-seconds":"1800"}}' in refused.err
    screen = run("render", "-f", "-", "--only", "service", stdin=BATCH + DEFAULTS)
    assert (screen.code, screen.err) == (0, IMAGES)
    pod = yaml.safe_load(screen.out)["spec"]["template"]["spec"]
    assert (pod["timeoutSeconds"], pod["responseStartTimeoutSeconds"]) == (1800, 1800)


POLICY = """\
---
apiVersion: kubectl-serve.dev/v1alpha1
kind: ServingPolicy
metadata: {name: sources}
spec: {rules: [{name: s3, sources: {allow: ["s3://models"]}}]}
"""
ISVC = """\
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata: {name: batch}
spec: {predictor: {timeout: 1800, model: {modelFormat: {name: sklearn}, storageUri: "s3://models/iris/model.joblib"}}}
"""


@pytest.mark.parametrize(
    ("verb", "document"), [("policy test", BATCH + POLICY), ("convert", ISVC), ("render", BATCH + POLICY)]
)
def test_every_offline_command_reads_knatives_defaults(run: Run, verb: str, document: str) -> None:
    assert run(*verb.split(), "-f", "-", stdin=document).code == 1
    screen = run(*verb.split(), "-f", "-", stdin=document + DEFAULTS)
    assert screen.code == 0, screen.err


LLM = """\
apiVersion: serving.kserve.io/v1alpha2
kind: LLMInferenceService
metadata: {name: chat}
spec: {model: {uri: "hf://acme/tiny"}, router: {route: {}}}
"""


@pytest.mark.parametrize(("document", "expected"), [(LLM, "600s"), (LLM + DEFAULTS, "1800s")])
def test_a_language_model_of_kserve_gets_the_maximum_timeout_of_the_cluster(
    run: Run, document: str, expected: str
) -> None:
    (made,) = yaml.safe_load_all(run("convert", "-f", "-", stdin=document).out)
    assert made["metadata"]["annotations"][annotations.TIMEOUT] == expected


@pytest.mark.parametrize("verb", ["render", "diff", "convert"])
def test_a_file_without_an_object_is_no_success(run: Run, verb: str) -> None:
    screen = run(verb, "-f", "-", stdin="# nothing yet\n---\n")
    assert screen.err == "error: there is no object in -.\nhint: Is it the right file?\n"
    assert screen.code == (2 if verb == "diff" else 1)


def test_rendering_twice_changes_nothing(run: Run) -> None:
    once = run("render", "-f", "-", "--only", "deployment", stdin=IRIS).out
    assert yaml.safe_load(run("render", "-f", "-", "--only", "deployment", stdin=once).out) == yaml.safe_load(once)


def test_all_problems_of_all_objects_are_reported_as_by_the_webhook(run: Run, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(IRIS + "    kubectl-serve.dev/scale: many\n    kubectl-serve.dev/modle: x\n")
    (tmp_path / "b.yaml").write_text(IRIS.replace("s3:", "ftp:"))
    (tmp_path / "c.yaml").write_text(IRIS.replace("name: iris", "name: good"))
    screen = run("render", "-f", str(tmp_path), "--only", "service")
    assert screen.code == 1
    assert yaml.safe_load(screen.out)["metadata"]["name"] == "good"
    lines = screen.err.splitlines()
    assert lines[0] == f"error: deployment.apps/iris in {tmp_path}/a.yaml is refused:"
    assert {line.split(":")[0] for line in lines[1:3]} == {"UnknownAnnotation", "InvalidAnnotation"}
    assert lines[3] == f"error: deployment.apps/iris in {tmp_path}/b.yaml is refused:"
    assert lines[4].startswith("UnknownScheme: metadata.annotations[kubectl-serve.dev/model]: ")
    assert lines[5:] == IMAGES.splitlines()


def test_the_namespace_is_filled_in_where_there_is_none(run: Run) -> None:
    service = yaml.safe_load(run("render", "-f", "-", "-n", "models", "--only", "service", stdin=IRIS).out)
    assert service["metadata"]["namespace"] == "models"


def test_reasons_are_printed_on_request(run: Run) -> None:
    assert "RuntimeByFormat: runtime mlserver-sklearn" in run("render", "-f", "-", "--reasons", stdin=IRIS).err


def test_without_a_file_there_is_a_hint(run: Run) -> None:
    assert run("render").err == ("error: -f is missing.\nhint: Name a file, a directory, or - for standard input.\n")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a: [1, 2\nb: 3\n", "x.yaml, line 2: "),
        ("a: 1\nb: 2\na: 3\n", 'x.yaml, line 3: "a" occurs twice.'),
        ("- 1\n", "x.yaml: document 1 is not an object."),
        ("a: !!python/object:os.system x\n", "x.yaml, line 1: could not determine a constructor"),
        ("[" * 5000, "x.yaml"),
        ("a: \x00", "x.yaml"),
    ],
)
def test_what_is_not_yaml_is_an_error_with_its_place(text: str, sentence: str) -> None:
    with pytest.raises(ServeError) as refused:
        list(documents.parse(text, "x.yaml"))
    assert refused.value.sentence.startswith(sentence)


@pytest.mark.attack(21)
@pytest.mark.parametrize("verb", ["render -f -", "policy test -f -"])
def test_a_file_whose_aliases_explode_is_an_error_with_its_place(run: Run, verb: str) -> None:
    lines = ["&a0 [x]", *(f"&a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 10))]
    screen = run(*verb.split(), stdin="".join(f"a{i}: {line}\n" for i, line in enumerate(lines)))
    assert (screen.code, screen.out) == (1, "")
    assert screen.err.startswith("error: standard input, line 6: its aliases expand to more than 100,000 values.")


def test_dates_stay_text() -> None:
    (document,) = documents.parse("a: 2026-11-18\n", "x.yaml")
    assert document.object == {"a": "2026-11-18"}


def test_lists_are_taken_apart() -> None:
    found = documents.parse('{"kind": "List", "items": [{"kind": "A"}, {"kind": "B"}]}', "x.yaml")
    assert [each.object["kind"] for each in found] == ["A", "B"]


def test_a_directory_is_read_deeply_on_request(run: Run, tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "iris.yml").write_text(IRIS)
    assert "contains no .yaml" in run("render", "-f", str(tmp_path)).err
    assert run("render", "-R", "-f", str(tmp_path)).code == 0


def test_a_url_is_refused(run: Run) -> None:
    assert "is a URL, and this command downloads nothing" in run("render", "-f", "https://example.com/a.yaml").err


def test_what_comes_from_the_cluster_keeps_what_the_server_noted_on_it(run: Run) -> None:
    made = yaml.safe_load(run("render", "-f", "-", "--only", "deployment", stdin=IRIS).out)
    made = with_state(made, promoted="iris-00002", previous="iris-00001")
    copied = run("render", "-f", "-", "--only", "service", stdin=yaml.safe_dump(made))
    assert ("iris-00001" in copied.out, copied.err) == (False, "")
    made["metadata"]["uid"] = "1"
    stored = run("render", "-f", "-", "--only", "service", stdin=yaml.safe_dump(made))
    assert ("iris-00001" in stored.out, stored.err) == (True, "")


def test_an_unknown_runtime_or_loader_is_reported(run: Run) -> None:
    made = yaml.safe_load(run("render", "-f", "-", "--only", "deployment", stdin=IRIS).out)
    made["metadata"]["uid"] = "1"
    record = json.loads(made["metadata"]["annotations"][annotations.COMPLETED_WITH])
    made["metadata"]["annotations"][annotations.COMPLETED_WITH] = json.dumps(record | {"loader": "0" * 16})
    screen = run("render", "-f", "-", stdin=yaml.safe_dump(made))
    assert (screen.code, "CompletedAgain: metadata.annotations" in screen.err) == (0, True)


BESIDE = """\
apiVersion: apps/v1
kind: Deployment
metadata:
  name: chat
  annotations: {kubectl-serve.dev/model: hf://example/chat}
spec:
  selector: {matchLabels: {app: chat}}
  template:
    metadata: {labels: {app: chat}}
    spec:
      containers:
        - {name: srv, image: "example.com/srv:1", args: [/mnt/models], ports: [{name: http, containerPort: 9500}]}
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: scaler}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: chat}
  minReplicas: 2
  maxReplicas: 6
---
apiVersion: v1
kind: Service
metadata: {name: front}
spec: {selector: {app: chat}, ports: [{port: 80, targetPort: http}]}
"""


@pytest.mark.parametrize("namespace", [(), ("-n", "team-a")])
def test_what_stands_beside_the_deployment_in_the_files_is_warned_of(run: Run, namespace: tuple[str, ...]) -> None:
    screen = run("render", "-f", "-", *namespace, stdin=BESIDE)
    assert screen.code == 0
    warned = [line.split(": ")[2] for line in screen.err.splitlines() if line.startswith("Warning: ")]
    assert warned == ["PortByName", "BoundsLost"]
    assert "min-scale" not in screen.out


RUNTIME = """\
apiVersion: kubectl-serve.dev/v1alpha1
kind: ModelRuntime
metadata: {name: %s}
spec:
  formats: [{name: sklearn}]
  protocols: [v2]
  priority: 100
  container: {image: "registry.example.com/server:1"}
---
"""


def test_a_runtime_among_the_files_is_used_as_if_it_were_applied(run: Run) -> None:
    screen = run("render", "-f", "-", "--only", "service", stdin=RUNTIME % "ours" + IRIS)
    assert (screen.code, screen.err) == (0, IMAGES)
    container = yaml.safe_load(screen.out)["spec"]["template"]["spec"]["containers"][0]
    assert container["image"] == "registry.example.com/server:1"


def test_a_runtime_that_cannot_be_read_ends_render_with_its_faults(run: Run) -> None:
    screen = run("render", "-f", "-", stdin=RUNTIME.replace("protocols: [v2]", "protocols: []") % "ours" + IRIS)
    assert (screen.code, screen.out) == (1, "")
    assert "ModelRuntime ours cannot be read: spec.protocols must be some of" in screen.err


def test_policies_judge_with_the_runtimes_among_the_files(run: Run) -> None:
    policy = """\
apiVersion: kubectl-serve.dev/v1alpha1
kind: ServingPolicy
metadata: {name: ours-only}
spec:
  rules:
    - name: runtimes
      runtimes: {allow: [ours]}
---
"""
    screen = run("policy", "test", "-f", "-", "--all", stdin=policy + RUNTIME % "ours" + IRIS)
    assert (screen.code, "Pass" in screen.out) == (0, True)
    assert run("policy", "test", "-f", "-", stdin=policy + RUNTIME % "theirs" + IRIS).code == 1
