"""KServe's ServingRuntimes: the ModelRuntime that each becomes, and what goes into the Deployments that use it."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from kubectl_serve.install import manifests
from kubectl_serve.kserve.base.converted_runtime import ConvertedRuntime
from kubectl_serve.kserve.runtimes import given_runtime, serving_runtime
from kubectl_serve.kserve.runtimes.serving_runtime import RUNTIME_KINDS, RUNTIME_VERSION
from serve_core.admission.decide import judge
from serve_core.api import runtimes
from serve_core.base.json import JsonObject
from unit.kubectl_serve.conftest import Run

CONTEXT = manifests.default_context()


def document(spec: str, *, name: str = "ours", kind: str = "ClusterServingRuntime", metadata: str = "{}") -> JsonObject:
    return {
        "apiVersion": RUNTIME_VERSION,
        "kind": kind,
        "metadata": {"name": name, **yaml.safe_load(metadata)},
        "spec": yaml.safe_load(spec),
    }


def convert(spec: str, **others: Any) -> ConvertedRuntime:
    return serving_runtime.convert(document(spec, **others), CONTEXT)


def spec_of(found: ConvertedRuntime) -> JsonObject:
    assert found.document is not None, found.notes
    spec: JsonObject = found.document["spec"]
    return spec


def container_of(found: ConvertedRuntime) -> JsonObject:
    container: JsonObject = spec_of(found)["container"]
    return container


def notes_at(found: ConvertedRuntime, path: str) -> str:
    return " ".join(note.sentence for note in found.notes if note.path == path)


PLAIN = """\
supportedModelFormats: [{name: sklearn, version: "1", autoSelect: true, priority: 3}]
protocolVersions: [v2, v1]
containers:
- name: kserve-container
  image: registry.example.com/sklearn:1
"""


def test_a_plain_runtime_becomes_a_model_runtime_without_a_note() -> None:
    found = convert(PLAIN)
    assert found.notes == ()
    assert found.document == {
        "apiVersion": "kubectl-serve.dev/v1alpha1",
        "kind": "ModelRuntime",
        "metadata": {"name": "ours"},
        "spec": {
            "formats": [{"name": "sklearn", "version": "1"}],
            "protocols": ["v1", "v2"],
            "priority": 3,
            "container": {
                "image": "registry.example.com/sklearn:1",
                "ports": [{"name": "http1", "containerPort": 8080}],
                "securityContext": {},
            },
        },
    }


@pytest.mark.parametrize("kind", RUNTIME_KINDS)
def test_a_deployment_with_the_runtime_is_accepted(kind: str) -> None:
    found = convert(PLAIN, kind=kind)
    assert found.runtime is not None
    context = replace(CONTEXT, runtimes=runtimes.extended(CONTEXT.runtimes, [found.runtime]))
    annotations = {"kubectl-serve.dev/model": "s3://bucket/model", "kubectl-serve.dev/runtime": "ours"}
    made = judge(
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "iris", "annotations": annotations}},
        context,
    )
    assert made.problems == ()
    assert made.service is not None


def test_the_name_of_the_model_is_a_variable_in_arguments_variables_and_probes() -> None:
    found = convert("""\
supportedModelFormats: [{name: sklearn, autoSelect: true}]
containers:
- name: kserve-container
  image: a/b
  command: [serve, "--name={{.Name}}"]
  args: ["--model_name={{ .Name }}"]
  env: [{name: WHO, value: "the {{.Name}}"}, {name: MODEL_NAME, value: "{{.Name}}"}]
  readinessProbe: {httpGet: {path: "/v2/models/{{.Name}}/ready", port: 8080}}
""")
    container = container_of(found)
    assert container["command"] == ["serve", "--name=$(MODEL_NAME)"]
    assert container["args"] == ["--model_name=$(MODEL_NAME)"]
    assert container["env"] == [{"name": "WHO", "value": "the $(MODEL_NAME)"}]
    assert container["readinessProbe"]["httpGet"]["path"] == "/v2/models/$(MODEL_NAME)/ready"


@pytest.mark.parametrize(
    ("field", "why"),
    [
        ('image: "a/{{.Name}}"', "only in command, args, env"),
        ('lifecycle: {preStop: {exec: {command: ["echo {{.Name}}"]}}}', "only in command, args, env"),
        ('args: ["{{ if .Name }}x{{ end }}"]', "the expression"),
        ("env: [{name: MODEL_NAME, value: other}]", "kubectl-serve itself sets MODEL_NAME"),
    ],
)
def test_what_cannot_be_evaluated_here_is_refused(field: str, why: str) -> None:
    name, _, value = field.partition(": ")
    image = {"image": "a/b"} | {name: yaml.safe_load(value)}
    found = serving_runtime.convert(
        document(
            json.dumps(
                {"supportedModelFormats": [{"name": "a"}], "containers": [{"name": "kserve-container", **image}]}
            )
        ),
        CONTEXT,
    )
    assert found.document is None
    assert any(why in note.sentence for note in found.notes)


def test_what_depends_on_labels_is_set_by_each_deployment() -> None:
    found = convert("""\
supportedModelFormats: [{name: sklearn, autoSelect: true}]
containers:
- name: kserve-container
  image: a/b
  args: ["--framework={{.Annotations.modelFormat}}"]
  env: [{name: CLASS, value: "{{.Labels.modelClass}}"}]
""")
    assert container_of(found)["args"] == ["--framework=$(ANNOTATION_MODELFORMAT)"]
    assert "env" not in container_of(found)
    metadata = {"name": "iris", "labels": {"modelClass": "a.B"}, "annotations": {"modelFormat": "sklearn"}}
    added = given_runtime.additions(found, metadata, "sklearn", None)
    assert added.container["env"] == [
        {"name": "ANNOTATION_MODELFORMAT", "value": "sklearn"},
        {"name": "CLASS", "value": "a.B"},
    ]
    assert "set the variable ANNOTATION_MODELFORMAT" in notes_at(found, "spec.containers[0].args[0]")


def test_kserves_own_servers_get_what_its_webhook_adds() -> None:
    mlserver = convert(PLAIN, metadata="{annotations: {serving.kserve.io/server-type: mlserver}}")
    assert container_of(mlserver)["env"] == [
        {"name": "MLSERVER_MODEL_NAME", "value": "$(MODEL_NAME)"},
        {"name": "MLSERVER_MODEL_URI", "value": "/mnt/models"},
    ]
    torchserve = convert(
        PLAIN.replace("sklearn:1", "torchserve:1\n  env: [{name: E, value: '{{.Labels.serviceEnvelope}}'}]"),
        metadata="{annotations: {serving.kserve.io/server-type: torchserve}}",
    )
    for protocol, envelope in ((None, "kserve"), ("v2", "kservev2")):
        env = given_runtime.additions(torchserve, {"name": "a"}, "pytorch", protocol).container["env"]
        assert env == [{"name": "E", "value": envelope}, {"name": "PROTOCOL_VERSION", "value": protocol or "v1"}]


def test_the_images_for_gpus_are_those_of_kserve() -> None:
    vllm = convert(
        PLAIN.replace("sklearn:1", "vllm:2"), metadata="{annotations: {serving.kserve.io/server-type: vllmserver}}"
    )
    assert container_of(vllm)["image"] == "registry.example.com/vllm-cpu:2"
    assert spec_of(vllm)["variants"][0]["container"] == {"image": "registry.example.com/vllm:2"}
    tensorflow = convert(PLAIN, name="kserve-tensorflow-serving")
    assert container_of(tensorflow)["image"] == "registry.example.com/sklearn:1"
    assert spec_of(tensorflow)["variants"][0]["container"] == {"image": "registry.example.com/sklearn:1-gpu"}


@pytest.mark.parametrize(
    ("container", "port"),
    [
        ("args: [--http-port=8080, --grpc-port=9000]", 9000),
        ("args: [--rest_port=8080, --port, '9001']", 9001),
        ("env: [{name: MLSERVER_GRPC_PORT, value: '9002'}]", 9002),
        ("ports: [{containerPort: 8080}, {name: h2c, containerPort: 9003}]", 9003),
    ],
)
def test_grpc_has_a_port_of_its_own(container: str, port: int) -> None:
    found = convert(f"""\
supportedModelFormats: [{{name: triton, autoSelect: true}}]
protocolVersions: [v2, grpc-v2]
containers: [{{name: kserve-container, image: a/b, {container}}}]
""")
    ports = [{"name": "h2c", "containerPort": port}]
    assert spec_of(found)["variants"] == [{"when": {"protocol": "grpc-v2"}, "container": {"ports": ports}}]
    assert [each["containerPort"] for each in container_of(found)["ports"]] == [8080]


def test_grpc_without_a_known_port_is_left_out_with_a_note() -> None:
    found = convert(PLAIN.replace("[v2, v1]", "[v2, grpc-v2, grpc-v1]"))
    assert spec_of(found)["protocols"] == ["v2"]
    assert "does not have protocol grpc-v2" in notes_at(found, "spec.protocolVersions")
    assert notes_at(found, "spec.protocolVersions[2]") == "grpc-v1 has no equivalent."


def test_vllm_reads_the_layout_of_the_hub_and_speaks_openais_protocol() -> None:
    found = convert("""\
supportedModelFormats: [{name: vLLM, version: "1", autoSelect: true}]
containers:
- {name: kserve-container, image: "quay.io/modh/vllm:a", command: [python, -m, vllm.entrypoints.openai.api_server]}
""")
    assert (spec_of(found)["formats"], spec_of(found)["protocols"]) == ([{"name": "huggingface"}], ["openai"])


def test_a_runtime_that_kserve_chooses_only_by_name_comes_behind_the_catalogue() -> None:
    found = convert(PLAIN.replace("autoSelect: true, priority: 3", "autoSelect: false"))
    assert spec_of(found)["priority"] == -1
    assert "comes behind those of kubectl-serve" in notes_at(found, "spec.supportedModelFormats")


def test_formats_with_other_priorities_and_without_choice_are_noted() -> None:
    listed = "[{name: a, autoSelect: true, priority: 1}, {name: b, autoSelect: true}, {name: c}]"
    found = convert(f"supportedModelFormats: {listed}\ncontainers: [{{name: kserve-container, image: a/b}}]")
    assert spec_of(found)["priority"] == -1
    assert "one priority for all formats, in the whole cluster: -1" in notes_at(found, "spec.supportedModelFormats")
    assert "can also be chosen for c" in notes_at(found, "spec.supportedModelFormats")


def test_a_runtime_of_one_namespace_comes_behind_those_of_the_cluster() -> None:
    found = convert(PLAIN, kind="ServingRuntime")
    assert spec_of(found)["priority"] == -1
    assert "in the whole cluster: -1" in notes_at(found, "spec.supportedModelFormats")
    assert "whole cluster" in notes_at(found, "kind")


@pytest.mark.parametrize(
    ("field", "path"),
    [
        ("disabled: true", "spec.disabled"),
        ("multiModel: true", "spec.multiModel"),
        ("workerSpec: {pipelineParallelSize: 2, containers: [{name: worker-container}]}", "spec.workerSpec"),
    ],
)
def test_what_serves_no_single_model_on_one_node_is_refused(field: str, path: str) -> None:
    found = convert(PLAIN + field)
    assert (found.document, [note.path for note in found.notes]) == (None, [path])
    assert not found.is_offered


@pytest.mark.parametrize("field", ["disabled: false", "multiModel: false", "hostIPC: false"])
def test_defaults_need_no_note(field: str) -> None:
    assert convert(PLAIN + field).notes == ()


@pytest.mark.parametrize(
    "field",
    ["replicas: 1", "grpcEndpoint: port:8085", "grpcDataEndpoint: port:8001", "storageHelper: {disabled: true}",
     "builtInAdapter: {serverType: triton, memBufferBytes: 134217728}"],
)  # fmt: skip
def test_fields_of_modelmesh_are_noted(field: str) -> None:
    path = f"spec.{field.partition(':')[0]}"
    assert notes_at(convert(PLAIN + field), path) == "has no equivalent: only ModelMesh reads it."


POD = """\
nodeSelector: {disk: fast}
tolerations: [{key: gpu, operator: Exists}]
imagePullSecrets: [{name: registry}]
labels: {team: a}
annotations: {prometheus.io/port: "8080", prometheus.kserve.io/port: "8080"}
volumes:
- {name: shm, emptyDir: {medium: Memory, sizeLimit: 2Gi}}
- {name: settings, configMap: {name: settings}}
"""


def test_what_a_model_runtime_does_not_have_goes_into_the_deployments() -> None:
    mounts = "[{name: shm, mountPath: /dev/shm}, {name: settings, mountPath: /etc/server}]"
    found = convert(f"{PLAIN}  volumeMounts: {mounts}\n- {{name: agent, image: a/agent}}\n{POD}")
    assert container_of(found)["volumeMounts"] == [{"name": "shm", "mountPath": "/dev/shm"}]
    assert spec_of(found)["volumes"] == [{"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "2Gi"}}]
    assert found.container == {"volumeMounts": [{"name": "settings", "mountPath": "/etc/server"}]}
    assert found.pod == {
        "nodeSelector": {"disk": "fast"},
        "tolerations": [{"key": "gpu", "operator": "Exists"}],
        "imagePullSecrets": [{"name": "registry"}],
        "volumes": [{"name": "settings", "configMap": {"name": "settings"}}],
        "containers": [{"name": "agent", "image": "a/agent"}],
    }
    assert (found.labels, found.annotations) == ({"team": "a"}, {"prometheus.io/port": "8080"})
    assert "queue proxy" in notes_at(found, "spec.annotations[prometheus.kserve.io/port]")


def test_metadata_is_kept_without_that_of_tools_and_of_openshift_ai() -> None:
    metadata = """{
        namespace: team, uid: a-b,
        labels: {app.kubernetes.io/managed-by: Helm, opendatahub.io/dashboard: "true", tier: gold},
        annotations: {openshift.io/display-name: vLLM, meta.helm.sh/release-name: a, opendatahub.io/apiProtocol: REST}
    }"""
    found = convert(PLAIN, metadata=metadata)
    assert found.document is not None
    assert found.document["metadata"] == {
        "name": "ours",
        "labels": {"tier": "gold"},
        "annotations": {"openshift.io/display-name": "vLLM"},
    }
    noted = {note.path for note in found.notes}
    assert noted == {"metadata.labels[opendatahub.io/dashboard]", "metadata.annotations[opendatahub.io/apiProtocol]"}


def test_a_name_of_the_catalogue_replaces_its_runtime_with_a_note() -> None:
    found = convert(PLAIN, name="kserve-sklearnserver")
    assert "replaces it in the whole cluster" in notes_at(found, "metadata.name")


def test_an_image_of_the_catalogue_in_another_version_has_its_entrypoint() -> None:
    found = convert(PLAIN.replace("registry.example.com/sklearn:1", "kserve/sklearnserver:v0.15.0"))
    assert spec_of(found)["entrypoint"] == ["python", "-m", "sklearnserver"]


def test_runtimes_of_several_namespaces_with_one_name() -> None:
    here, same, other, clusters = (
        document(PLAIN, metadata="{namespace: a}", kind="ServingRuntime"),
        document(PLAIN, metadata="{namespace: b}", kind="ServingRuntime"),
        document(PLAIN.replace("sklearn:1", "sklearn:2"), metadata="{namespace: c}", kind="ServingRuntime"),
        document(PLAIN.replace("sklearn:1", "sklearn:2"), kind="ClusterServingRuntime"),
    )
    names = [
        each.document["metadata"]["name"]
        for each in serving_runtime.convert_all([here, same, other], CONTEXT)
        if each.document
    ]
    assert names == ["ours", "ours", "c-ours"]
    names = [
        each.document["metadata"]["name"]
        for each in serving_runtime.convert_all([here, clusters], CONTEXT)
        if each.document
    ]
    assert names == ["a-ours", "ours"]


PREDICTOR = """\
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata: {name: iris, namespace: team, labels: {owner: a}}
spec:
  predictor:
    nodeSelector: {zone: b}
    affinity: {podAffinity: {}}
    tolerations: [{key: mine}]
    imagePullSecrets: [{name: mine}]
    model:
      modelFormat: {name: sklearn, version: "1"}
      storageUri: s3://bucket/iris
      env: [{name: WHO, value: me}]
"""
PLACED_ANYWHERE = re.sub("    (nodeSelector|affinity|tolerations): .*\n", "", PREDICTOR)
"""Without fields that need a feature flag of Knative."""
GIVING = (
    PLAIN
    + """\
  env: [{name: WHO, value: "{{.Labels.owner}}"}, {name: ALSO, value: "{{.Labels.owner}}"}]
- {name: agent, image: a/agent}
nodeSelector: {disk: fast, zone: a}
affinity: {podAntiAffinity: {}, nodeAffinity: {}}
tolerations: [{key: theirs}]
imagePullSecrets: [{name: theirs}]
labels: {team: a}
"""
)


def stream(run: Run, *documents: JsonObject) -> list[JsonObject]:
    """What ``convert`` makes of documents."""
    made = run("convert", "-f", "-", stdin=yaml.safe_dump_all(documents))
    return list(yaml.safe_load_all(made.out))


class TestDeployments:
    def test_what_the_runtime_gives_comes_behind_what_the_service_says(self, run: Run) -> None:
        runtime, deployment = stream(run, document(GIVING), yaml.safe_load(PREDICTOR))
        assert runtime["kind"] == "ModelRuntime"
        assert deployment["metadata"]["annotations"]["kubectl-serve.dev/runtime"] == "ours"
        template = deployment["spec"]["template"]
        server, agent = template["spec"]["containers"]
        assert server["env"] == [{"name": "ALSO", "value": "a"}, {"name": "WHO", "value": "me"}]
        assert agent == {"name": "agent", "image": "a/agent"}
        assert template["spec"]["nodeSelector"] == {"disk": "fast", "zone": "b"}
        assert set(template["spec"]["affinity"]) == {"podAntiAffinity", "nodeAffinity", "podAffinity"}
        assert template["spec"]["tolerations"] == [{"key": "mine"}]
        assert template["spec"]["imagePullSecrets"] == [{"name": "theirs"}, {"name": "mine"}]
        assert template["metadata"]["labels"] == {"team": "a", "owner": "a"}

    def test_a_runtime_behind_the_service_in_the_file_is_found(self, run: Run) -> None:
        runtime, deployment = stream(run, yaml.safe_load(PREDICTOR), document(PLAIN))
        assert deployment["metadata"]["annotations"]["kubectl-serve.dev/runtime"] == runtime["metadata"]["name"]

    def test_without_a_runtime_that_serves_the_model_the_catalogue_is_used(self, run: Run) -> None:
        *_, deployment = stream(run, document(PLAIN.replace("sklearn", "other")), yaml.safe_load(PREDICTOR))
        assert "kubectl-serve.dev/runtime" not in deployment["metadata"]["annotations"]

    def test_the_output_can_be_rendered(self, run: Run) -> None:
        converted = run("convert", "-f", "-", stdin=f"{yaml.safe_dump(document(PLAIN))}---\n{PLACED_ANYWHERE}")
        rendered = run("render", "-f", "-", "--only", "service", stdin=converted.out)
        assert (converted.code, rendered.code) == (0, 0)
        (server,) = yaml.safe_load(rendered.out)["spec"]["template"]["spec"]["containers"]
        assert server["image"] == "registry.example.com/sklearn:1"

    def test_equal_runtimes_of_several_namespaces_are_written_once(self, run: Run) -> None:
        two = (document(PLAIN, kind="ServingRuntime", metadata=f"{{namespace: {each}}}") for each in "ab")
        assert [each["metadata"]["name"] for each in stream(run, *two)] == ["ours"]

    def test_a_device_of_the_service_is_one_of_the_runtime(self, run: Run) -> None:
        service = yaml.safe_load(PREDICTOR)
        service["spec"]["predictor"]["model"] |= {"runtime": "ours", "resources": {"limits": {"example.com/npu": "1"}}}
        runtime, _ = stream(run, document(PLAIN), service)
        image = {"image": "registry.example.com/sklearn:1"}
        assert runtime["spec"]["variants"] == [{"when": {"resource": "example.com/npu"}, "container": image}]

    @pytest.mark.parametrize("prefix", ["kserve-", ""])
    @pytest.mark.parametrize(
        ("name", "kind", "expected"),
        [("tritonserver", "triton", "triton"), ("mlserver", "sklearn", "mlserver-sklearn")],
    )
    def test_kserves_names_of_runtimes_lead_to_the_catalogue(
        self, run: Run, prefix: str, name: str, kind: str, expected: str
    ) -> None:
        service = yaml.safe_load(PREDICTOR)
        service["spec"]["predictor"]["model"] |= {"runtime": f"{prefix}{name}", "modelFormat": {"name": kind}}
        (deployment,) = stream(run, service)
        assert deployment["metadata"]["annotations"]["kubectl-serve.dev/runtime"] == expected

    def test_a_runtime_that_is_not_among_the_files_is_noted(self, run: Run) -> None:
        service = yaml.safe_load(PREDICTOR)
        service["spec"]["predictor"]["model"]["runtime"] = "absent"
        made = run("convert", "-f", "-", stdin=yaml.safe_dump(service))
        assert made.code == 1
        assert "convert KServe's ServingRuntime absent together with this object" in made.err

    @pytest.mark.parametrize(
        ("more", "outcome"), [({}, "Pass"), ({"args": ["--workers=2"]}, "Deny"), ({"image": "a/other"}, "Deny")]
    )
    def test_policies_take_the_runtime_only_as_it_is(self, run: Run, more: JsonObject, outcome: str) -> None:
        service = yaml.safe_load(PLACED_ANYWHERE)
        del service["spec"]["predictor"]["model"]["env"]
        service["spec"]["predictor"]["model"] |= more
        converted = run("convert", "-f", "-", stdin=yaml.safe_dump_all([document(PLAIN), service])).out
        policy = {
            "apiVersion": "kubectl-serve.dev/v1alpha1",
            "kind": "ServingPolicy",
            "metadata": {"name": "ours"},
            "spec": {"rules": [{"name": "servers", "runtimes": {"allow": ["ours"]}}]},
        }
        judged = run("policy", "test", "-f", "-", "--all", stdin=f"{yaml.safe_dump(policy)}---\n{converted}")
        assert outcome in judged.out


def test_a_runtime_that_no_deployment_could_use_is_reported(run: Run) -> None:
    made = run(
        "convert", "-f", "-", stdin=yaml.safe_dump(document(PLAIN + "  lifecycle: {preStop: {sleep: {seconds: 9}}}\n"))
    )
    assert made.code == 1
    assert "clusterservingruntime/ours: spec.containers: refused: Knative does not support this" in made.err


def test_a_runtime_of_a_namespace_does_not_replace_one_of_the_catalogue() -> None:
    own = document(PLAIN, name="vllm", kind="ServingRuntime", metadata="{namespace: team}")
    (found,) = serving_runtime.convert_all([own], CONTEXT)
    assert found.document is not None
    assert found.runtime is not None
    assert (found.document["metadata"]["name"], found.runtime.name) == ("team-vllm", "team-vllm")
    assert notes_at(found, "metadata.name") == "is the name of another runtime: the ModelRuntime is team-vllm."


class TestChoice:
    A = document(PLAIN, name="a", kind="ClusterServingRuntime")
    B = document(PLAIN.replace("priority: 3", "priority: 4"), name="b", kind="ClusterServingRuntime")
    HERE = document(
        PLAIN.replace("priority: 3", "priority: 1"), name="here", metadata="{namespace: team}", kind="ServingRuntime"
    )
    HIDDEN = document(
        PLAIN.replace("autoSelect: true", "autoSelect: false"),
        name="hidden",
        metadata="{namespace: team}",
        kind="ServingRuntime",
    )
    MANY = document(PLAIN + "multiModel: true", name="many", metadata="{namespace: team}", kind="ServingRuntime")

    @pytest.mark.parametrize(
        ("documents", "namespace", "named", "wanted", "protocol", "expected"),
        [
            ([A, B], "team", None, ("sklearn", None), None, "b"),
            ([A, B, HERE], "team", None, ("sklearn", None), None, "here"),
            ([A, B, HERE], "elsewhere", None, ("sklearn", None), None, "b"),
            ([A, HIDDEN, MANY], "team", None, ("sklearn", "1"), None, "a"),
            ([A], "team", None, ("sklearn", "2"), None, None),
            ([A], "team", None, ("xgboost", None), None, None),
            ([A], "team", None, ("sklearn", None), "grpc-v2", None),
            ([A, HIDDEN], "team", "hidden", ("sklearn", None), None, "hidden"),
            ([A, HIDDEN], "elsewhere", "hidden", ("sklearn", None), None, None),
            ([A, HIDDEN], "", "hidden", ("sklearn", None), None, "hidden"),
        ],
    )
    def test_is_that_of_kserve(
        self,
        documents: list[JsonObject],
        namespace: str,
        named: str | None,
        wanted: tuple[str, str | None],
        protocol: str | None,
        expected: str | None,
    ) -> None:
        found = serving_runtime.convert_all(documents, CONTEXT)
        chosen = given_runtime.choose(found, namespace, named, wanted, protocol)
        assert (chosen.name if chosen else None) == expected


TEXT = st.text("abcdefghij", min_size=4, max_size=8)
PROBE = st.fixed_dictionaries(
    {},
    optional={
        "httpGet": st.fixed_dictionaries({"path": TEXT, "port": st.integers(20001, 29999)}),
        "periodSeconds": st.integers(30001, 39999),
    },
)
DEPENDENT = TEXT | st.just("{{.Annotations.a}}")
CONTAINER = st.fixed_dictionaries(
    {"image": TEXT},
    optional={
        "name": st.sampled_from(["kserve-container", "transformer-container", "agent"]),
        "args": st.lists(st.one_of(TEXT, TEXT.map(lambda text: f"--{text}={{{{.Labels.{text}}}}}")), max_size=2),
        "command": st.lists(TEXT, max_size=2),
        "env": st.lists(st.fixed_dictionaries({"name": TEXT, "value": DEPENDENT}), max_size=2),
        "volumeMounts": st.lists(st.fixed_dictionaries({"name": TEXT, "mountPath": TEXT}), max_size=2),
        "resources": st.fixed_dictionaries({"limits": st.dictionaries(TEXT, TEXT, max_size=1)}),
        "readinessProbe": PROBE,
        "workingDir": TEXT,
        "unknown": TEXT,
    },
)  # fmt: skip
SPEC = st.fixed_dictionaries(
    {
        "supportedModelFormats": st.lists(
            st.fixed_dictionaries(
                {"name": TEXT}, optional={"version": TEXT, "autoSelect": st.booleans(), "unknown": TEXT}
            ),
            max_size=2,
        ),
        "containers": st.lists(CONTAINER, max_size=3),
    },
    optional={
        "protocolVersions": st.lists(st.sampled_from(["v1", "v2", "grpc-v2", "grpc-v1", "openai"]), max_size=3),
        "multiModel": st.booleans(),
        "disabled": st.booleans(),
        "replicas": st.integers(40001, 49999),
        "storageHelper": st.fixed_dictionaries({"disabled": st.booleans()}),
        "builtInAdapter": st.fixed_dictionaries({"serverType": TEXT}),
        "workerSpec": st.dictionaries(TEXT, TEXT, max_size=1),
        "nodeSelector": st.dictionaries(TEXT, TEXT, max_size=2),
        "annotations": st.dictionaries(TEXT, TEXT, max_size=2),
        "labels": st.dictionaries(TEXT, TEXT, max_size=2),
        "tolerations": st.lists(st.fixed_dictionaries({"key": TEXT}), max_size=1),
        "volumes": st.lists(
            st.fixed_dictionaries(
                {"name": TEXT},
                optional={
                    "emptyDir": st.dictionaries(TEXT, TEXT, max_size=1),
                    "configMap": st.fixed_dictionaries({"name": TEXT}),
                },
            ),
            max_size=2,
        ),
        "resourceClaims": st.lists(st.fixed_dictionaries({"name": TEXT}), max_size=1),
        "unknown": st.one_of(TEXT, st.dictionaries(TEXT, TEXT, max_size=1)),
    },
)


def leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, each in value.items():
            yield from leaves(each, f"{path}.{key}")
    elif isinstance(value, list):
        for index, each in enumerate(value):
            yield from leaves(each, f"{path}[{index}]")
    else:
        yield path, value


@given(spec=SPEC, kind=st.sampled_from(RUNTIME_KINDS))
def test_no_field_is_lost(spec: JsonObject, kind: str) -> None:
    found = serving_runtime.convert(
        {"apiVersion": RUNTIME_VERSION, "kind": kind, "metadata": {"name": "a"}, "spec": spec}, CONTEXT
    )
    noted = tuple(note.path for note in found.notes)
    if found.document is None:
        assert noted
        return
    made = json.dumps([found.document, found.container, found.pod, found.labels, found.annotations])
    for path, value in leaves(spec, "spec"):
        is_noted = any(path == each or path.startswith((f"{each}.", f"{each}[")) for each in noted)
        text = str(value).lower().replace("{{.labels.", "$(label_").partition("}")[0]
        is_found = isinstance(value, bool) or value == "kserve-container" or text in made.lower()
        assert is_noted or is_found, (path, value, found)


KEYS = ["containers", "supportedModelFormats", "volumes", "volumeMounts", "protocolVersions", "annotations", "name"]
ANYTHING = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=5)),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([*KEYS, "image", "env", "args", "ports", "labels"]), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(metadata=ANYTHING, spec=ANYTHING)
def test_malformed_input_is_reported_and_never_raises(metadata: object, spec: object) -> None:
    made = {"apiVersion": RUNTIME_VERSION, "kind": "ServingRuntime", "metadata": metadata, "spec": spec}
    found = serving_runtime.convert(made, CONTEXT)
    assert found.document is not None or found.notes
