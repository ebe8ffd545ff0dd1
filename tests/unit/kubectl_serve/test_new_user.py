"""Messages for a new user: the cause first, the nearest name, and no ignored input without a message."""

import copy
from pathlib import Path

import pytest

from serve_core.base.json import JsonObject
from serve_kube import errors
from support.fake_cluster import FakeCluster, at_the_end
from unit.kubectl_serve.conftest import Run

IRIS = """\
apiVersion: apps/v1
kind: Deployment
metadata:
  name: iris
  annotations:
    {key}: s3://models/iris/model.joblib
"""
POLICY = """\
apiVersion: kubectl-serve.dev/v1alpha1
kind: ServingPolicy
metadata: {{name: pinned}}
spec:
  match: {{namespaces: [{namespace}]}}
  rules:
    - name: models
      pinned: {{by: [digest, revision]}}
---
"""


@pytest.fixture
def models() -> FakeCluster:
    return FakeCluster([*at_the_end("iris"), *at_the_end("nope")], namespace="models", elapsed=300)


# Nothing passes in silence.


@pytest.mark.parametrize(
    ("files", "words", "why"),
    [
        (POLICY.format(namespace="team-a"), [], "the files contain no object to which a policy applies"),
        (IRIS.format(key="kubectl-serve.dev/model"), [], "the files contain no ServingPolicy"),
        (
            POLICY.format(namespace="team-a") + IRIS.format(key="kubectl-serve.dev/model"),
            [],
            "no policy selects namespace default",
        ),
        (
            POLICY.format(namespace="team-a") + IRIS.format(key="kubectl-serve.dev/model"),
            ["-n", "team-b"],
            "no policy selects namespace team-b",
        ),
        (
            POLICY.format(namespace="team-a") + IRIS.format(key="example.com/owner"),
            ["-n", "team-a"],
            "the files contain no object to which a policy applies",
        ),
    ],
)
def test_a_test_of_policies_that_judges_nothing_is_no_success(files: str, words: list[str], why: str, run: Run) -> None:
    screen = run("policy", "test", "-f", "-", *words, stdin=files)
    assert screen.code == 1
    assert f"error: nothing was evaluated: {why}.\nhint: " in screen.err
    assert run("policy", "test", "-f", "-", *words, "--allow-empty", stdin=files).code == 0


def test_a_test_of_policies_that_judges_something_is_as_before(run: Run) -> None:
    files = POLICY.format(namespace="team-a") + IRIS.format(key="kubectl-serve.dev/model")
    assert run("policy", "test", "-f", "-", "-n", "team-a", stdin=files).code == 1
    assert "nothing was evaluated" not in run("policy", "test", "-f", "-", "-n", "team-a", stdin=files).err


@pytest.mark.parametrize(
    "key", ["kubectl-serve.io/model", "kubectl-serv.dev/model", "kubectlserve.dev/model", "KUBECTL-SERVE.DEV/model"]
)
def test_a_similar_key_is_reported(key: str, run: Run) -> None:
    screen = run("render", "-f", "-", stdin=IRIS.format(key=key))
    assert (screen.code, screen.out) == (1, "")
    assert f'"{key}" is not a key of kubectl-serve.\nhint: Did you mean kubectl-serve.dev/model?\n' in screen.err


@pytest.mark.parametrize(
    ("keys", "meant"),
    [
        (["model: s3://models/iris/model.joblib"], ["model"]),
        (["model: s3://models/iris/model.joblib", "runtime: triton", "team: ml"], ["model", "runtime"]),
        (["kubectl-serve.dev/model: s3://models/iris/model.joblib", "scale: 1..3", "owner: ada"], ["scale"]),
        (["kubectl-serve.dev/model: s3://models/iris/model.joblib", "team: ml"], []),
        (["size: large", "domain: sales"], []),
    ],
)
def test_a_key_without_its_prefix_is_said(keys: list[str], meant: list[str], run: Run) -> None:
    start = IRIS.partition("    {key}")[0]
    screen = run("render", "-f", "-", "--only", "deployment", stdin=start + "".join(f"    {each}\n" for each in keys))
    assert screen.code == 0
    assert [line for line in screen.err.splitlines() if "has no effect" in line] == [
        f'Warning: deployment.apps/iris in standard input: the annotation "{key}" has no effect. '
        f"Did you mean kubectl-serve.dev/{key}?"
        for key in meant
    ]


def test_a_similar_key_beside_a_model_is_reported_as_well(run: Run) -> None:
    files = IRIS.format(key="kubectl-serve.dev/model") + "    kubectl-serve.io/scale: 1..3\n"
    screen = run("render", "-f", "-", "--only", "deployment", stdin=files)
    assert screen.code == 1
    assert screen.err.startswith(
        'error: deployment.apps/iris in standard input: "kubectl-serve.io/scale" is not a key of kubectl-serve.\n'
        "hint: Did you mean kubectl-serve.dev/scale?\n"
    )


@pytest.mark.parametrize("command", [["render"], ["policy", "test"], ["predict", "iris"], ["convert"], ["diff"]])
def test_a_file_that_is_missing_has_a_hint(
    command: list[str], run: Run, models: FakeCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "iris.yaml").write_text("")
    why = "cannot be read: No such file or directory.\nhint: "
    near = run(*command, "-f", "iris.yml", cluster=models)
    assert (near.code, near.out) == (2 if command == ["diff"] else 1, "")
    assert near.err == f"error: iris.yml {why}Did you mean iris.yaml? Check the path; - is standard input.\n"
    far = run(*command, "-f", "away/from-here.yaml", cluster=models)
    assert far.err == f"error: away/from-here.yaml {why}Check the path; - is standard input.\n"


@pytest.mark.parametrize("key", ["serving.kserve.io/model", "example.com/model", "argocd.argoproj.io/format"])
def test_a_key_of_another_tool_is_ignored(key: str, run: Run) -> None:
    screen = run("render", "-f", "-", stdin=IRIS.format(key=key))
    assert (screen.code, screen.err) == (0, "1 object without a model skipped\n")


def test_rendering_says_what_policies_deny(run: Run) -> None:
    files = POLICY.format(namespace="team-a") + IRIS.format(key="kubectl-serve.dev/model")
    screen = run("render", "-f", "-", "-n", "team-a", "--only", "deployment", stdin=files)
    assert screen.code == 1
    assert "error: deployment/iris is denied:\nModelNotPinned: " in screen.err
    assert run("render", "-f", "-", "-n", "team-b", "--only", "deployment", stdin=files).code == 0


# The cause comes first.


def test_a_description_begins_with_the_cause(run: Run, models: FakeCluster) -> None:
    screen = run("describe", "nope", cluster=models)
    first, second, *_ = screen.out.splitlines()
    assert first.startswith("Cause:      http://store.example.com/iris/nope.joblib answered 404.")
    assert second == "Name:       nope"
    assert run("describe", "iris", cluster=models).out.startswith("Name: ")


def test_a_description_does_not_advise_itself(run: Run, models: FakeCluster) -> None:
    for each in models.objects:
        for condition in (each.get("status") or {}).get("conditions") or []:
            if each["kind"] == "Deployment":
                condition["message"] = "It failed. Run `kubectl serve describe nope -n models`. It is over."
    screen = run("describe", "nope", cluster=models)
    assert "It failed. It is over." in screen.out
    assert "kubectl serve describe" not in screen.out


def test_get_has_a_reason_where_something_is_not_ready(run: Run, models: FakeCluster) -> None:
    assert "REASON" not in run("get", "iris", cluster=models).out
    lines = run("get", cluster=models).out.splitlines()
    assert "REASON" in lines[0]
    assert "NotFound" in lines[2]


# What was meant.


def test_of_several_names_those_that_are_there_are_shown(run: Run, models: FakeCluster) -> None:
    screen = run("get", "iris", "missing", "nope", "gone", "-o", "name", cluster=models)
    assert (screen.code, screen.out) == (1, "deployment.apps/iris\ndeployment.apps/nope\n")
    assert screen.err.count("error: there is no Deployment ") == 2


def test_a_model_of_another_namespace_is_found(run: Run, models: FakeCluster) -> None:
    screen = run("describe", "iris", "-n", "default", cluster=models)
    assert screen.err == (
        "error: there is no Deployment iris in namespace default.\nhint: There is one in namespace models: -n models.\n"
    )


def test_a_user_without_permissions_gets_a_hint(run: Run) -> None:
    class Blind(FakeCluster):
        async def list(self, *_: object, **__: object) -> tuple[list[JsonObject], str]:
            raise errors.ForbiddenError("no")

    screen = run("describe", "iris", cluster=Blind())
    assert screen.err.endswith("hint: `kubectl serve get` lists what is served.\n")


@pytest.mark.parametrize(("action", "flag", "not_its"), [("test", "--expect", "-A"), ("audit", "-A", "--expect")])
def test_each_action_has_its_own_help(action: str, flag: str, not_its: str, run: Run) -> None:
    out = run("policy", action, "--help").out
    assert out.startswith(f"usage: kubectl serve policy {action} ")
    assert flag in out
    assert not_its not in out.partition("examples:")[0]


# Words of what is in use.


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--scale", "1-2"], 'InvalidAnnotation: --scale: "1-2" is not a valid range of replicas. Did you mean 1..2? '),
        (
            ["--canary", "20"],
            'InvalidAnnotation: --canary: "20" is not a valid traffic percentage. Did you mean 20%? ',
        ),
        (["--tls", "cert"], "MissingAnnotation: --tls: --tls requires --domain. "),
    ],
)
def test_create_speaks_of_flags_and_render_of_annotations(flags: list[str], said: str, run: Run) -> None:
    screen = run("create", "iris", "--model", "s3://models/b.joblib", *flags, "--dry-run", cluster=FakeCluster())
    assert screen.err.startswith(f"error: deployment.apps/iris is refused:\n{said}")
    assert "kubectl-serve.dev/" not in screen.err
    name, value = flags[0].removeprefix("--"), flags[1]
    text = IRIS.format(key="kubectl-serve.dev/model") + f"    kubectl-serve.dev/{name}: '{value}'\n"
    assert f"[kubectl-serve.dev/{name}]: " in run("render", "-f", "-", stdin=text).err


def test_version_shows_both_parts(run: Run) -> None:
    image = {"spec": {"containers": [{"name": "server", "image": "example.com/server:9.9.9"}]}}
    server: JsonObject = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "kubectl-serve", "namespace": "kubectl-serve"},
        "spec": {"template": image},
    }
    screen = run("version", cluster=FakeCluster([server]))
    assert screen.code == 0
    assert screen.out.splitlines()[1] == "installed in the cluster: 9.9.9"
    assert screen.err == "The versions differ: `kubectl serve doctor` shows what to do.\n"
    assert run("version", cluster=FakeCluster()).out.endswith("installed in the cluster: <none>\n")
    assert "installed" not in run("version", "--client").out


def test_the_answer_is_not_what_a_file_is_called(run: Run, models: FakeCluster, tmp_path: Path) -> None:
    screen = run("predict", "iris", str(tmp_path / "rows.json"), cluster=copy.deepcopy(models))
    assert screen.err == (
        f'error: "{tmp_path}/rows.json" is a file, and -f is missing.\nhint: Write -f {tmp_path}/rows.json.\n'
    )


# A known image is recognised.

WITH_IMAGE = """\
apiVersion: apps/v1
kind: Deployment
metadata:
  name: iris
  annotations:
    kubectl-serve.dev/model: s3://models/iris/{file}
    {more}
spec:
  selector: {{matchLabels: {{app: iris}}}}
  template:
    metadata: {{labels: {{app: iris}}}}
    spec:
      containers:
        - {{name: app, image: "{image}", ports: [{{containerPort: 8080}}]}}
"""


@pytest.mark.parametrize(
    ("image", "file", "runtime"),
    [
        ("kserve/sklearnserver", "model.joblib", "kserve-sklearnserver"),
        ("index.docker.io/vllm/vllm-openai:nightly", "", "vllm"),
        ("docker.io/seldonio/mlserver:1.6.0", "model.bst", "mlserver-xgboost"),
        ("docker.io/seldonio/mlserver:1.6.0", "", "mlserver-lightgbm or mlserver-mlflow or mlserver-xgboost"),
        (f"nvcr.io/nvidia/tritonserver@sha256:{'0' * 64}", "", "triton"),
    ],
)
def test_a_runtimes_image_without_the_runtime_gets_a_warning(image: str, file: str, runtime: str, run: Run) -> None:
    screen = run("render", "-f", "-", "--only", "service", stdin=WITH_IMAGE.format(image=image, file=file, more=""))
    assert screen.code == 0
    unseen, _, others = screen.err.partition("\n")
    assert "ModelUnseen" in unseen
    assert others == (
        "Warning: deployment.apps/iris in standard input: KnownImage: spec.template.spec.containers[0].image: "
        "this is the image of runtime "
        f"{runtime}, but the container does not get that runtime's arguments, environment and probes. Add the "
        f"annotation kubectl-serve.dev/runtime: {runtime}. To keep your own model server, set it to custom.\n"
        "Images are the defaults of this command; `kubectl serve runtimes -o wide` shows those of the cluster.\n"
    )


@pytest.mark.parametrize(
    ("image", "more"),
    [
        ("example.com/vllm-openai:v0.30.0", ""),
        ("docker.io/vllm/vllm-openai:nightly", "kubectl-serve.dev/runtime: custom"),
        ("docker.io/vllm/vllm-openai:nightly", "kubectl-serve.dev/runtime: vllm"),
    ],
)
def test_another_image_or_a_runtime_that_is_named_gets_none(image: str, more: str, run: Run) -> None:
    files = WITH_IMAGE.format(image=image, file="", more=more)
    screen = run("render", "-f", "-", "--only", "service", stdin=files)
    assert screen.code == 0
    assert "KnownImage" not in screen.err
