"""KServe's LLMInferenceServices: the Deployment that each becomes, and what has no equivalent."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from kubectl_serve.install import manifests
from kubectl_serve.kserve.base.converted import Converted
from kubectl_serve.kserve.llm import config as llm_config
from kubectl_serve.kserve.llm import inference_service
from kubectl_serve.kserve.llm.inference_service import KIND, VERSIONS
from serve_core.admission.decide import judge
from serve_core.base.json import JsonObject, value_at
from serve_core.knative.features import FIELD_FLAGS
from unit.kubectl_serve.conftest import Run

CONTEXT = replace(manifests.default_context(), features=dict.fromkeys(FIELD_FLAGS, "enabled"))
MODEL = "model: {uri: 'hf://acme/chat-7b', name: acme/chat}"


def service(spec: str, *, metadata: str = "{}", version: str = VERSIONS[1]) -> JsonObject:
    about = {"name": "chat", **yaml.safe_load(metadata)}
    return {"apiVersion": version, "kind": KIND, "metadata": about, "spec": yaml.safe_load(spec)}


def convert(spec: str, configs: Mapping[str, JsonObject] | None = None, **others: str) -> Converted:
    return inference_service.convert(service(spec, **others), configs or {}, CONTEXT)


def deployment_of(found: Converted) -> JsonObject:
    assert found.deployment is not None, found.notes
    return found.deployment


def asked(found: Converted) -> dict[str, str]:
    annotations = deployment_of(found)["metadata"]["annotations"]
    return {key.removeprefix("kubectl-serve.dev/"): value for key, value in annotations.items()}


def server_of(found: Converted) -> JsonObject:
    server: JsonObject = deployment_of(found)["spec"]["template"]["spec"]["containers"][0]
    return server


def notes_at(found: Converted, path: str) -> str:
    return " ".join(note.sentence for note in found.notes if note.path == path)


def main(container: str) -> str:
    return f"{MODEL}\ntemplate: {{containers: [{{name: main, {container}}}]}}"


@pytest.mark.parametrize("version", VERSIONS)
def test_a_model_with_a_plain_router_is_vllm_of_the_catalogue(version: str) -> None:
    found = convert(f"{MODEL}\nreplicas: 2\nrouter: {{route: {{}}, gateway: {{}}}}", version=version)
    assert asked(found) == {
        "model": "hf://acme/chat-7b",
        "runtime": "vllm",
        "protocol": "openai",
        "scale": "2",
        "timeout": "600s",
    }
    assert server_of(found) == {"name": "model-server", "args": ["--served-model-name=acme/chat"]}
    assert found.problems == ()


def test_without_a_router_only_the_cluster_reaches_the_model() -> None:
    assert asked(convert(MODEL))["visibility"] == "cluster-local"


def test_a_model_with_the_name_of_the_service_needs_no_argument() -> None:
    assert "args" not in server_of(convert("model: {uri: 'hf://acme/chat-7b'}"))


@pytest.mark.parametrize(
    ("container", "expected"),
    [
        ("args: ['--max-model-len', '8192']", ["--max-model-len", "8192"]),
        ("env: [{name: VLLM_ADDITIONAL_ARGS, value: '--seed 1 --dtype=half'}]", ["--seed", "1", "--dtype=half"]),
        ("env: [{name: VLLM_ADDITIONAL_ARGS, value: '--seed 1'}], args: ['--seed=2']", ["--seed", "1", "--seed=2"]),
        ("""args: ["--chat-template '{\\"a\\": 1}'"]""", ["--chat-template", '{"a": 1}']),
        ("args: [\"--name='a b'\"]", ["--name=a b"]),
        ("args: ['--host=${POD_IP}', '--seed=$SEED']", ["--host=$(POD_IP)", "--seed=$(SEED)"]),
    ],
)  # fmt: skip
def test_arguments_are_split_as_kserves_shell_splits_them(container: str, expected: list[str]) -> None:
    server = server_of(convert(main(container)))
    assert server["args"] == ["--served-model-name=acme/chat", *expected]
    assert not any(each["name"] == "VLLM_ADDITIONAL_ARGS" for each in server.get("env", []))


@pytest.mark.parametrize("args", ["['--seed=$(date +%s)']", "['`id`']", "['--seed=${SEED:-1}']", '["--open=\'"]'])
def test_what_only_a_shell_evaluates_is_refused(args: str) -> None:
    found = convert(main(f"args: {args}"))
    assert (found.deployment, "only a shell" in notes_at(found, "spec.template.containers[0].args")) == (None, True)


def test_arguments_for_kserves_scheduler_and_certificates_are_left_out() -> None:
    args = "[--kv-events-config, '{}', --enable-ssl-refresh, --ssl-certfile=/var/run/kserve/tls/tls.crt, --seed=1]"
    assert server_of(convert(main(f"args: {args}")))["args"] == ["--served-model-name=acme/chat", "--seed=1"]


def test_tensor_parallelism_is_an_argument() -> None:
    found = convert(f"{main('resources: {limits: {nvidia.com/gpu: 2}}')}\nparallelism: {{tensor: 2}}")
    assert "--tensor-parallel-size=2" in server_of(found)["args"]
    without = convert(f"{main('image: a/b')}\nparallelism: {{tensor: 2}}")
    assert "must request 2 accelerators" in notes_at(without, "spec.template.containers[0].resources")
    one = convert(f"{main('resources: {limits: {nvidia.com/gpu: 2}}')}\nparallelism: {{tensor: 1}}")
    assert "--tensor-parallel-size=1" in server_of(one)["args"]


@pytest.mark.parametrize(
    ("field", "path"),
    [
        ("prefill: {replicas: 1}", "spec.prefill"),
        ("worker: {containers: [{name: main}]}", "spec.worker"),
        ("parallelism: {data: 2, dataLocal: 2}", "spec.parallelism.data"),
        ("parallelism: {pipeline: 2}", "spec.parallelism.pipeline"),
        ("parallelism: {expert: true}", "spec.parallelism.expert"),
        ("baseRefs: [{name: absent}]", "spec.baseRefs[0]"),
    ],
)
def test_what_changes_the_service_is_refused(field: str, path: str) -> None:
    found = convert(f"{MODEL}\n{field}")
    assert found.deployment is None
    assert "refused" in notes_at(found, path)


def test_a_probe_asks_the_port_of_the_runtime_over_http() -> None:
    found = convert(
        main("livenessProbe: {httpGet: {path: /health, port: 8000, scheme: HTTPS}, initialDelaySeconds: 9}")
    )
    server = server_of(found)
    assert server["livenessProbe"] == {"httpGet": {"path": "/health", "port": 8080}, "initialDelaySeconds": 9}
    assert server["startupProbe"]["failureThreshold"] == 60
    assert convert(main("livenessProbe: {periodSeconds: 3}")).problems == ()


def test_a_command_of_ones_own_is_a_custom_server_on_kserves_port() -> None:
    found = convert(
        main("image: a/simulator, command: [/sim], args: ['{{ .Spec.Model.Name }}', '{{ .ObjectMeta.Name }}']")
    )
    server = server_of(found)
    assert asked(found)["runtime"] == "custom"
    assert (server["args"], server["ports"]) == (["acme/chat", "chat"], [{"containerPort": 8000}])
    assert server["readinessProbe"] == {"httpGet": {"path": "/health", "port": 8000}}


def test_what_a_command_of_ones_own_does_not_say_is_noted() -> None:
    lora = "lora: {adapters: [{name: a, uri: 'hf://a/b'}]}"
    found = convert(
        f"model: {{uri: 'hf://acme/chat', name: other, {lora}}}\nparallelism: {{tensor: 2}}\n"
        "template: {containers: [{name: main, image: a/b, command: [serve]}]}"
    )
    noted = {note.path for note in found.notes}
    assert {"spec.model.name", "spec.model.lora", "spec.parallelism.tensor"} <= noted
    said = convert(main("image: a/b, command: [serve, '--name={{ .Spec.Model.Name }}']"))
    assert not notes_at(said, "spec.model.name")


@pytest.mark.parametrize(
    ("hook", "is_left_out"),
    [
        ("{preStop: {exec: {command: [/bin/sleep, '15']}}}", True),
        ("{preStop: {exec: {command: [/bin/sh, -c, sleep 15]}}}", True),
        ("{preStop: {sleep: {seconds: 15}}}", True),
        ("{preStop: {exec: {command: [/bin/sh, -c, save && sleep 15]}}}", False),
        ("{postStart: {exec: {command: [sleep, '1']}}}", False),
    ],
)
def test_a_hook_that_only_sleeps_is_left_out(hook: str, is_left_out: bool) -> None:
    found = convert(main(f"lifecycle: {hook}"))
    assert ("lifecycle" not in server_of(found)) is is_left_out
    assert ("not necessary" in notes_at(found, "spec.template.containers[0].lifecycle")) is is_left_out


def test_names_of_kserves_own_objects_are_noted_and_other_expressions_refused() -> None:
    found = convert(main("image: a/b, command: [a], args: ['tcp://{{ ChildName .ObjectMeta.Name `-epp-service` }}']"))
    assert server_of(found)["args"] == ["tcp://chat-epp-service"]
    assert "chat-epp-service, which KServe made" in notes_at(found, "spec.template")
    refused = convert(main("image: a/b, command: [a], args: ['{{ .GlobalConfig.EnableTLS }}']"))
    assert refused.deployment is None


def test_adapters_are_loaded_into_folders_or_mounted() -> None:
    adapters = "[{name: a/b, uri: 'hf://acme/ab'}, {name: law, uri: 'pvc://claim/law'}]"
    found = convert(f"model: {{uri: 'hf://acme/chat', lora: {{maxRank: 64, adapters: {adapters}}}}}")
    assert asked(found)["model"] == "hf://acme/chat=. hf://acme/ab=lora/a-b"
    server = server_of(found)
    assert server["args"] == [
        "--enable-lora",
        "--max-lora-rank=64",
        "--lora-modules",
        '{"name": "a/b", "path": "/mnt/models/lora/a-b"}',
        '{"name": "law", "path": "/mnt/lora/law"}',
    ]
    assert server["volumeMounts"] == [
        {"name": "lora-2", "mountPath": "/mnt/lora/law", "readOnly": True, "subPath": "law"}
    ]
    assert found.problems == ()


def test_adapters_with_one_folder_are_refused() -> None:
    found = convert(
        "model: {uri: 'hf://a/b', lora: {adapters: [{name: a/b, uri: 'hf://a/c'}, {name: a-b, uri: 'hf://a/d'}]}}"
    )
    assert (found.deployment, "folder a-b" in notes_at(found, "spec.model.lora.adapters[1]")) == (None, True)


def test_downloaded_adapters_of_a_model_on_a_claim_are_refused() -> None:
    found = convert("model: {uri: 'pvc://claim', lora: {adapters: [{name: a, uri: 'hf://a/b'}]}}")
    assert (found.deployment, "claim" in notes_at(found, "spec.model.lora")) == (None, True)


@pytest.mark.parametrize(
    ("field", "scale"),
    [
        ("replicas: 3", "3"),
        ("replicas: 0", "0..1"),
        ("scaling: {maxReplicas: 4, wva: {hpa: {}}}", "1..4"),
        ("scaling: {minReplicas: 2, maxReplicas: 4, keda: {triggers: []}}", "2..4"),
        ("", "1"),
    ],
)
def test_replicas(field: str, scale: str) -> None:
    assert asked(convert(f"{MODEL}\n{field}"))["scale"] == scale


def test_what_knative_lacks_is_served_without_it() -> None:
    found = convert(f"{MODEL}\nrouter: {{route: {{}}}}\ntemplate: {{hostUsers: false, subdomain: a}}")
    annotations = asked(found)
    assert (annotations["mode"], "timeout" in annotations, found.problems) == ("deployment", False, ())


def test_devices_by_claims() -> None:
    devices = {"device-class": "gpu.example.com", "device-count": "2"}
    annotations = {f"serving.kserve.io/exp-dra-{key}": value for key, value in devices.items()}
    metadata = json.dumps({"namespace": "team", "annotations": annotations})
    found = convert(f"{main('image: a/b')}\nreplicas: 1", metadata=metadata)
    (template,) = found.others
    assert template["metadata"] == {"name": "chat-managed-dra", "namespace": "team"}
    request = {"name": "device", "exactly": {"deviceClassName": "gpu.example.com", "count": 2}}
    assert template["spec"]["spec"]["devices"]["requests"] == [request]
    pod = deployment_of(found)["spec"]["template"]["spec"]
    assert pod["resourceClaims"] == [{"name": "managed-device", "resourceClaimTemplateName": "chat-managed-dra"}]
    assert pod["containers"][0]["resources"] == {"claims": [{"name": "managed-device"}]}
    assert (asked(found)["mode"], found.problems) == ("deployment", ())
    more = "resourceClaims: [{name: nic, resourceClaimName: nic}]"
    both = convert(f"{MODEL}\ntemplate: {{{more}, containers: [{{name: main, image: a/b}}]}}", metadata=metadata)
    claims = deployment_of(both)["spec"]["template"]["spec"]["resourceClaims"]
    assert [each["name"] for each in claims] == ["nic", "managed-device"]


class TestConfigs:
    def config(self, spec: str) -> JsonObject:
        return {"spec": yaml.safe_load(spec)}

    def test_the_service_comes_last_and_lists_are_merged_by_name(self) -> None:
        one = self.config("""\
replicas: 1
template: {containers: [{name: main, env: [{name: A, value: '1'}, {name: B, value: '1'}]}]}
""")
        two = self.config("""\
replicas: 2
template:
  tolerations: [{key: a}]
  containers: [{name: main, env: [{name: B, value: '2'}]}, {name: side, image: a/b}]
""")
        spec = yaml.safe_load("""\
baseRefs: [{name: one}, {name: two}]
template: {tolerations: [{key: b}], containers: [{name: main, image: a/c}]}
""")
        made = llm_config.merged(spec, {"one": one, "two": two})
        assert (made["replicas"], made["template"]["tolerations"]) == (2, [{"key": "b"}])
        assert made["template"]["containers"] == [
            {"name": "main", "image": "a/c", "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]},
            {"name": "side", "image": "a/b"},
        ]

    def test_kserves_own_config_says_what_the_runtime_does(self) -> None:
        assert convert(f"{MODEL}\nbaseRefs: [{{name: kserve-config-llm-template}}]").deployment is not None

    def test_one_that_nothing_refers_to_is_noted(self, run: Run) -> None:
        config = {"apiVersion": VERSIONS[1], "kind": "LLMInferenceServiceConfig", "metadata": {"name": "small"}}
        alone = run("convert", "-f", "-", stdin=yaml.safe_dump(config))
        assert (alone.code, alone.out) == (0, "")
        assert "becomes no object" in alone.err
        user = service(f"{MODEL}\nbaseRefs: [{{name: small}}]")
        together = run("convert", "-f", "-", stdin=yaml.safe_dump_all([config, user]))
        assert (together.code, together.err) == (0, "")


TEXT = st.text("abcdefghij", min_size=4, max_size=8)
NAMES = TEXT | st.sampled_from(["VLLM_ADDITIONAL_ARGS", "KSERVE_INFER_ROCE"])
HTTP = st.fixed_dictionaries({}, optional={"path": TEXT, "scheme": st.just("HTTPS"), "port": st.just(8000)})
OBJECT = st.dictionaries(TEXT, TEXT, max_size=1)


def lists(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[list[JsonObject]]:
    return st.lists(st.fixed_dictionaries(fields), max_size=2)


def objects(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[JsonObject]:
    return st.fixed_dictionaries({}, optional=fields)


CONTAINER = st.fixed_dictionaries(
    {"name": st.sampled_from(["main", "side"])},
    optional={
        "image": TEXT,
        "args": st.lists(TEXT, max_size=2),
        "env": lists(name=NAMES, value=TEXT),
        "ports": lists(containerPort=st.sampled_from([8000, 9123])),
        "livenessProbe": objects(httpGet=HTTP, periodSeconds=st.integers(20001, 29999)),
        "volumeMounts": lists(name=TEXT | st.just("tls-certs"), mountPath=TEXT),
        "unknown": TEXT,
    },
)
LORA = objects(adapters=lists(name=TEXT, uri=TEXT.map("hf://acme/{}".format)), maxRank=st.integers(30001, 39999))
TEMPLATE = objects(
    containers=st.lists(CONTAINER, max_size=2),
    nodeSelector=OBJECT,
    volumes=lists(name=TEXT, emptyDir=st.just({})),
    serviceAccountName=TEXT,
    unknown=TEXT,
)
SPEC = st.fixed_dictionaries(
    {
        "model": st.fixed_dictionaries(
            {"uri": st.just("hf://acme/chat")}, optional={"name": TEXT, "criticality": TEXT, "lora": LORA}
        )
    },
    optional={
        "replicas": st.integers(2, 9),
        "scaling": st.fixed_dictionaries({"maxReplicas": st.integers(2, 9)}, optional={"wva": OBJECT}),
        "labels": OBJECT,
        "annotations": OBJECT,
        "router": objects(route=OBJECT, scheduler=OBJECT, unknown=TEXT),
        "tracing": OBJECT,
        "rolloutStrategy": objects(maxSurge=st.integers(1, 3)),
        "workload": OBJECT,
        "template": TEMPLATE,
        "unknown": TEXT,
    },
)


def leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, each in value.items():
            yield from leaves(each, f"{path}.{key}")
    elif isinstance(value, list) and value:
        for index, each in enumerate(value):
            yield from leaves(each, f"{path}[{index}]")
    elif value not in ({}, []):
        yield path, value


@given(spec=SPEC)
def test_no_field_is_lost(spec: JsonObject) -> None:
    document = {"apiVersion": VERSIONS[1], "kind": KIND, "metadata": {"name": "chat"}, "spec": spec}
    found = inference_service.convert(document, {}, CONTEXT)
    noted = tuple(note.path for note in found.notes)
    if found.deployment is None:
        assert noted
        return
    made = json.dumps(found.deployment)
    for path, value in leaves(spec, "spec"):
        is_noted = any(path == each or path.startswith((f"{each}.", f"{each}[")) for each in noted)
        is_translated = path.rpartition(".")[2] in ("scheme", "port", "containerPort") or value in (
            "VLLM_ADDITIONAL_ARGS",
            "main",
        )
        assert is_noted or is_translated or str(value) in made, (path, value, found)


KEYS = (
    "model", "uri", "name", "lora", "adapters", "template", "containers", "env", "value", "args", "router", "replicas",
    "baseRefs", "labels", "annotations", "ports", "livenessProbe", "httpGet", "parallelism",
)  # fmt: skip
ANYTHING = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=5)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=12,
)


@given(metadata=ANYTHING, spec=ANYTHING, template=ANYTHING)
def test_malformed_input_is_reported_and_never_raises(metadata: object, spec: object, template: object) -> None:
    inner = {**spec, "template": template} if isinstance(spec, dict) else spec
    made = {"apiVersion": VERSIONS[0], "kind": KIND, "metadata": metadata, "spec": inner}
    found = inference_service.convert(made, {}, CONTEXT)
    assert found.deployment is not None or found.notes


def test_every_accepted_deployment_can_be_judged_again() -> None:
    found = convert(f"{MODEL}\nreplicas: 1")
    assert judge(deployment_of(found), CONTEXT).service is not None
    assert value_at(deployment_of(found), "metadata", "name") == "chat"
