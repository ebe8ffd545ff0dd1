"""The loader is recognised field by field. Everything else that can write to the model's folder is unknown."""

import copy
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from serve_core.admission.decide import judge
from serve_core.base.json import JsonObject
from serve_core.context.cluster import ClusterContext, LoaderConfig
from serve_core.policy.evaluate import judge_policies
from serve_core.policy.parse import read_policy
from serve_core.subjects.build import subject_of
from serve_core.workload import loader_container
from serve_core.workload.loader_container import LoaderRequest
from support.policy_objects import DIGEST
from support.reviews import document

RULES = {
    "sources": "{allow: ['s3://models']}",
    "pinned": "{by: [digest, revision]}",
    "signed": "{keys: [ml-team]}",
    "images": "{allow: [dev.local/kubectl-serve]}",
}
LOADER = LoaderConfig("dev.local/loaders/plain:1", ("10.0.0.0/8",), "dev.local/loaders/verifying:1")
POLICY = read_policy(
    document("ServingPolicy", "rules:\n" + "".join(f"  - {{name: {n}, {n}: {r}}}\n" for n, r in RULES.items()))
)


@pytest.fixture(scope="module")
def context() -> ClusterContext:
    from kubectl_serve.install.manifests import default_context

    base = default_context()
    return ClusterContext(LOADER, base.runtimes, policies=(POLICY,))


def deployment(**spec: Any) -> JsonObject:
    notes = {"model": "s3://models/iris/model.joblib", "digest": DIGEST, "signature-key": "ml-team"}
    notes |= {"credentials": "reader"}
    metadata: JsonObject = {"name": "iris", "namespace": "ml"}
    metadata |= {"annotations": {f"kubectl-serve.dev/{key}": value for key, value in notes.items()}}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata} | ({"spec": spec} if spec else {})


def made(kind: str, context: ClusterContext) -> tuple[JsonObject, JsonObject]:
    """An honest object of a kind, and its pod's spec to be changed."""
    verdict = judge(deployment(), context)
    assert verdict.deployment is not None
    assert verdict.service is not None
    if kind == "Deployment":
        found = copy.deepcopy(verdict.deployment)
        return found, found["spec"]["template"]["spec"]
    service = copy.deepcopy(verdict.service)
    spec = service["spec"]["template"]["spec"]
    if kind in ("Service", "Configuration"):
        return service | {"kind": kind}, spec
    head = {"kind": kind, "metadata": {"name": "iris-00001", "namespace": "ml"}, "spec": spec}
    return head | {"apiVersion": "v1" if kind == "Pod" else "serving.knative.dev/v1"}, spec


def broken(manifest: JsonObject, context: ClusterContext) -> dict[str, set[str]]:
    """The rules that an object breaks, each with the codes of its findings."""
    subject = subject_of(manifest, context)
    assert subject is not None
    results = judge_policies(subject, context.policies, (), datetime(2026, 11, 30, tzinfo=UTC)).results
    return {result.rule: {found.code for found in result.findings} for result in results if result.findings}


KINDS = ["Deployment", "Service", "Configuration", "Revision", "Pod"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_rendered_loader_is_recognised_in_every_kind(kind: str, context: ClusterContext) -> None:
    assert broken(made(kind, context)[0], context) == {}


Change = Callable[[JsonObject], None]
"""Changes the spec of a pod in place."""


def loader(**fields: Any) -> Change:
    def change(pod: JsonObject) -> None:
        pod["initContainers"][0] |= fields

    return change


def inside(key: str, **fields: Any) -> Change:
    def change(pod: JsonObject) -> None:
        pod["initContainers"][0][key] = {**pod["initContainers"][0][key], **fields}

    return change


def more(key: str, *elements: JsonObject) -> Change:
    """Adds to a list of the loader."""

    def change(pod: JsonObject) -> None:
        pod["initContainers"][0][key] = [*pod["initContainers"][0].get(key, []), *elements]

    return change


def said(change_words: Callable[[list[str]], list[str]]) -> Change:
    def change(pod: JsonObject) -> None:
        pod["initContainers"][0]["args"] = change_words(list(pod["initContainers"][0]["args"]))

    return change


def mounting(name: str, **fields: Any) -> Change:
    def change(pod: JsonObject) -> None:
        mounts = pod["initContainers"][0]["volumeMounts"]
        pod["initContainers"][0]["volumeMounts"] = [m | fields if m["name"] == name else m for m in mounts]

    return change


def volume(name: str, **fields: Any) -> Change:
    def change(pod: JsonObject) -> None:
        kept = [each for each in pod["volumes"] if each["name"] != name]
        pod["volumes"] = [*kept, {"name": name, **fields}]

    return change


def beside(key: str, **fields: Any) -> Change:
    """Another container."""

    def change(pod: JsonObject) -> None:
        container = {"name": "beside", "image": "dev.local/kubectl-serve/x:1", **fields}
        pod[key] = [*pod.get(key, []), container]

    return change


def first(key: str, **fields: Any) -> Change:
    def change(pod: JsonObject) -> None:
        beside(key, **fields)(pod)
        pod[key] = [pod[key][-1], *pod[key][:-1]]

    return change


def pod_wide(**fields: Any) -> Change:
    return lambda pod: pod.update(fields)


def both(*changes: Change) -> Change:
    def change(pod: JsonObject) -> None:
        for each in changes:
            each(pod)

    return change


def env(name: str, value: str) -> Change:
    return more("env", {"name": name, "value": value})


def server_mounts(*mounts: JsonObject) -> Change:
    def change(pod: JsonObject) -> None:
        server = pod["containers"][0]
        server["volumeMounts"] = [m for m in server["volumeMounts"] if m["mountPath"] != "/mnt/models"] + list(mounts)

    return change


MODEL = [{"name": "model", "mountPath": "/x"}]
INIT = "initContainers"
NOT_THE_LOADER: dict[str, Change] = {
    "a command": loader(command=["/opt/model-loader/bin/python", "-c"]),
    "a command that is the image's own": loader(command=["/opt/model-loader/bin/model-loader"]),
    "another image": loader(image="evil.example/model-loader:1"),
    "another tag": loader(image="dev.local/loaders/verifying:0"),
    "the image that verifies nothing": loader(image=LOADER.image),
    "an argument before": said(lambda words: ["-c", *words]),
    "an argument of its own": said(lambda words: ["--patience", "1", *words]),
    "no argument": said(lambda words: []),
    "another digest after the first": said(lambda words: ["--digest", "sha256:" + "0" * 64, *words]),
    "an empty digest": said(lambda words: ["" if w == DIGEST else w for w in words]),
    "no digest by another's letters": said(lambda words: [w.upper() if w == DIGEST else w for w in words]),
    "a digest with =": said(lambda words: [f"--digest={DIGEST}", *words]),
    "another key": said(lambda words: ["/mnt/model-volume/key.pub" if "key.pub" in w else w for w in words]),
    "a wider network": said(lambda words: ["--allow-network", "169.254.169.254/32", *words]),
    "another network": said(lambda words: ["0.0.0.0/0" if w == "10.0.0.0/8" else w for w in words]),
    "another volume": said(lambda words: ["/mnt/models" if w == "/mnt/model-volume" else w for w in words]),
    "a variable in an argument": said(lambda words: [*words[:-1], "$(WHERE)"]),
    "no --": said(lambda words: [w for w in words if w != "--"]),
    "a proxy": env("HTTPS_PROXY", "http://evil.example:3128"),
    "a proxy in lower case": env("https_proxy", "http://evil.example:3128"),
    "an endpoint": env("AWS_ENDPOINT_URL", "https://evil.example"),
    "an authority of one's own": env("AZURE_AUTHORITY_HOST", "https://evil.example/"),
    "an authority by its beginning": env("AZURE_AUTHORITY_HOST", "https://login.microsoftonline.com.evil.example/"),
    "certificates": env("SSL_CERT_FILE", "/mnt/ca.pem"),
    "a region that is no name": env("AWS_REGION", "x.evil.example/"),
    "a region of another partition": env("AWS_REGION", "cn-north-1"),
    "a token of one's own": env("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://169.254.170.24/"),
    "metadata elsewhere": env("GCE_METADATA_HOST", "evil.example"),
    "a library": env("LD_PRELOAD", "/mnt/x.so"),
    "Python's path": env("PYTHONPATH", "/mnt"),
    "a variable from a Secret": more("env", {"name": "AWS_ROLE_ARN", "valueFrom": {"secretKeyRef": {"name": "s"}}}),
    "envFrom": loader(envFrom=[{"secretRef": {"name": "mine"}}]),
    "a working directory": loader(workingDir="/mnt/x"),
    "a hook": loader(lifecycle={"postStart": {"exec": {"command": ["sh"]}}}),
    "a probe": loader(startupProbe={"exec": {"command": ["sh"]}}),
    "a sidecar": loader(restartPolicy="Always"),
    "a terminal": loader(stdin=True, tty=True),
    "devices": loader(volumeDevices=[{"name": "d", "devicePath": "/dev/x"}]),
    "a claim for a device": inside("resources", claims=[{"name": "d"}]),
    "a termination message elsewhere": loader(terminationMessagePath="/mnt/model-volume/model/model.joblib"),
    "privileges": inside("securityContext", privileged=True),
    "a root file system to write to": inside("securityContext", readOnlyRootFilesystem=False),
    "a capability": inside("securityContext", capabilities={"add": ["SYS_ADMIN"]}),
    "another mount": more("volumeMounts", {"name": "mine", "mountPath": "/usr/local/bin", "readOnly": True}),
    "a mount over its code": more("volumeMounts", {"name": "mine", "mountPath": "/opt/model-loader"}),
    "a mount in the model": more("volumeMounts", {"name": "mine", "mountPath": "/mnt/model-volume/model"}),
    "a mount over the certificates": more(
        "volumeMounts", {"name": "mine", "mountPath": "/etc/ssl/certs", "readOnly": True}
    ),
    "a token's place for something else": both(
        more("volumeMounts", {"name": "m", "mountPath": "/var/run/secrets/azure/tokens", "readOnly": True}),
        volume("m", configMap={"name": "mine"}),
    ),
    "a part of the volume": mounting("model", subPath="elsewhere"),
    "a part of the key's ConfigMap": mounting("model-signature-key", subPath="another"),
    "a part by a variable": mounting("model", subPathExpr="$(WHERE)"),
    "another key over the key": more(
        "volumeMounts",
        {"name": "mine", "mountPath": "/etc/kubectl-serve.dev/signature-key/key.pub", "subPath": "key.pub"},
    ),
    "another item of the ConfigMap": volume(
        "model-signature-key", configMap={"name": "ml-team", "items": [{"key": "another", "path": "key.pub"}]}
    ),
    "a key in a Secret": volume("model-signature-key", secret={"secretName": "ml-team"}),
    "a key that may be missing": volume("model-signature-key", configMap={"name": "ml-team", "optional": True}),
    "a projected key": volume("model-signature-key", projected={"sources": [{"configMap": {"name": "ml-team"}}]}),
    "a part of the Secret": volume("model-credentials", secret={"secretName": "reader", "items": []}),
    "a claim for a volume": volume("model", persistentVolumeClaim={"claimName": "mine"}),
    "a folder of the node for a volume": volume("model", hostPath={"path": "/m"}),
    "a volume by a driver": volume("model", csi={"driver": "d"}),
    "a volume that is made of a snapshot": volume("model", ephemeral={"volumeClaimTemplate": {}}),
}
WRITERS: dict[str, Change] = {
    "an init container after it": beside(INIT, volumeMounts=MODEL),
    "an init container before it": first(INIT, volumeMounts=MODEL),
    "one that mounts the part that is served": beside(INIT, volumeMounts=[MODEL[0] | {"subPath": "model"}]),
    "a sidecar that starts first": first(INIT, restartPolicy="Always", volumeMounts=MODEL),
    "a container beside": beside("containers", volumeMounts=MODEL),
    "a container that says it writes": beside("containers", volumeMounts=[MODEL[0] | {"readOnly": False}]),
    "an ephemeral container": beside("ephemeralContainers", volumeMounts=MODEL),
    "an ephemeral container in another's processes": beside("ephemeralContainers", targetContainerName="model-server"),
    "the platform's image": beside("containers", image="example.org/queue@sha256:1", volumeMounts=MODEL),
    "shared processes": pod_wide(shareProcessNamespace=True),
    "the node's processes": pod_wide(hostPID=True),
    "the node's folders": volume("node", hostPath={"path": "/var/lib/kubelet"}),
    "a privileged container": beside("containers", securityContext={"privileged": True}),
    "a capability by its whole name": beside(
        "containers", securityContext={"capabilities": {"add": ["CAP_SYS_PTRACE"]}}
    ),
    "all capabilities": beside(INIT, securityContext={"capabilities": {"add": ["ALL"]}}),
    "a process of a Windows node": beside("containers", securityContext={"windowsOptions": {"hostProcess": True}}),
    "the server itself": server_mounts({"name": "model", "mountPath": "/mnt/models", "subPath": "model"}),
    "an init container, where a server reads it elsewhere": both(
        beside(INIT, volumeMounts=MODEL), server_mounts({"name": "model", "mountPath": "/data", "readOnly": True})
    ),
    "another volume where the model is read": both(
        volume("mine", emptyDir={}),
        beside(INIT, volumeMounts=[{"name": "mine", "mountPath": "/x"}]),
        server_mounts({"name": "mine", "mountPath": "/mnt/models", "readOnly": True}),
    ),
    "another volume in the model": both(
        volume("mine", emptyDir={}),
        beside(INIT, volumeMounts=[{"name": "mine", "mountPath": "/x"}]),
        server_mounts(
            {"name": "model", "mountPath": "/mnt/models", "subPath": "model", "readOnly": True},
            {"name": "mine", "mountPath": "/mnt/models/../models//model.joblib", "readOnly": True},
        ),
    ),
    **{
        f"a ConfigMap at {path}": both(
            volume("mine", configMap={"name": "my-pickle"}),
            server_mounts(
                {"name": "model", "mountPath": "/mnt/models", "subPath": "model", "readOnly": True},
                {"name": "mine", "mountPath": path, "readOnly": True},
            ),
        )
        for path in (
            "//mnt/models",
            "mnt/models",
            "./mnt//models/",
            "../mnt/models",
            "/x/../mnt/models/.",
            "mnt/models/a",
        )
    },
    "another volume around the model": both(
        volume("mine", emptyDir={}),
        beside(INIT, volumeMounts=[{"name": "mine", "mountPath": "/x"}]),
        server_mounts({"name": "mine", "mountPath": "/mnt", "readOnly": True}),
    ),
    "a ConfigMap where the model is read": both(
        volume("mine", configMap={"name": "my-pickle"}),
        server_mounts({"name": "mine", "mountPath": "/mnt/models", "readOnly": True}),
    ),
}


@pytest.mark.attack(27)
@pytest.mark.parametrize("change", NOT_THE_LOADER.values(), ids=NOT_THE_LOADER.keys())
@pytest.mark.parametrize("kind", KINDS)
def test_what_differs_in_any_field_is_not_the_loader(kind: str, change: Change, context: ClusterContext) -> None:
    manifest, pod = made(kind, context)
    change(pod)
    found = broken(manifest, context)
    assert all("SourceUnknown" in found[rule] for rule in ("sources", "pinned", "signed"))
    assert found["images"] == {"ImageNotAllowed"}, "its image is one like any other"


@pytest.mark.attack(27)
@pytest.mark.parametrize("change", WRITERS.values(), ids=WRITERS.keys())
@pytest.mark.parametrize("kind", KINDS)
def test_what_can_write_where_the_model_is_read_is_an_unknown_origin(
    kind: str, change: Change, context: ClusterContext
) -> None:
    manifest, pod = made(kind, context)
    change(pod)
    found = broken(manifest, replace(context, sidecar_images=frozenset({"example.org/queue@sha256:1"})))
    assert {"sources", "pinned", "signed"} <= found.keys()


@pytest.mark.attack(27)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("key", ["containers", "ephemeralContainers"])
def test_the_loader_is_an_init_container_or_none(kind: str, key: str, context: ClusterContext) -> None:
    manifest, pod = made(kind, context)
    pod[key] = [*pod.get(key, []), *pod.pop("initContainers")]
    assert {"sources", "pinned", "signed", "images"} <= broken(manifest, context).keys()


@pytest.mark.attack(27)
@pytest.mark.parametrize("name", ["loader", "storage-initializer", "model-loader "])
def test_another_name_is_another_container(name: str, context: ClusterContext) -> None:
    manifest, pod = made("Service", context)
    pod["initContainers"][0]["name"] = name
    assert {"sources", "pinned", "signed", "images"} <= broken(manifest, context).keys()


@pytest.mark.attack(27)
def test_what_the_user_writes_before_completion_is_found(context: ClusterContext) -> None:
    """The rest is filled in around what users can write; another program is refused before any policy."""
    proxy = {"name": "model-loader", "env": [{"name": "NO_PROXY", "value": "a"}]}
    completed = judge(deployment(template={"spec": {"initContainers": [proxy]}}), context).deployment
    assert completed is not None
    assert {"sources", "pinned", "signed", "images"} <= broken(completed, context).keys()
    program = {
        "name": "model-loader",
        "command": ["/opt/model-loader/bin/python", "-c"],
        "args": ["...", "--", "s3://models/a"],
    }
    refused = judge(deployment(template={"spec": {"initContainers": [program]}}), context)
    assert [problem.code for problem in refused.problems] == ["NameReserved"]


@pytest.mark.attack(27)
def test_the_loader_counts_and_not_only_the_annotations(context: ClusterContext) -> None:
    """An honest loader, of another request."""
    manifest, pod = made("Deployment", context)
    request = loader_container.read(pod["initContainers"][0], pod, context.known_loaders)
    assert isinstance(request, LoaderRequest)
    pod["initContainers"] = [loader_container.render(replace(request, digest=None))]
    assert broken(manifest, context) == {"pinned": {"ModelNotPinned"}}
    plain = replace(request, signature_key=None, image=LOADER.image)
    pod["initContainers"] = [loader_container.render(plain)]
    assert broken(manifest, context) == {"signed": {"ModelNotSigned"}}
    pod["initContainers"] = []
    assert broken(manifest, context).keys() == {"pinned", "signed"}


ADDED: dict[str, Change] = {
    "resources": loader(resources={"limits": {"cpu": "1", "memory": "2Gi"}, "requests": {"cpu": "1"}}),
    "no resources": lambda pod: pod["initContainers"][0].pop("resources"),
    "a pull at every start": loader(imagePullPolicy="Always"),
    "a user": inside("securityContext", runAsUser=1_000_650_000, runAsGroup=1),
    "a volume in memory": volume("model", emptyDir={"medium": "Memory", "sizeLimit": "4Gi"}),
    "other bits of the files": volume("model-credentials", secret={"secretName": "reader", "defaultMode": 0o400}),
    "the API server's token": both(
        volume("kube-api-access-x", projected={"defaultMode": 420, "sources": []}),
        more(
            "volumeMounts",
            {
                "name": "kube-api-access-x",
                "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount",
                "readOnly": True,
            },
        ),
    ),
    "an identity of EKS": both(
        env("AWS_STS_REGIONAL_ENDPOINTS", "regional"),
        env("AWS_DEFAULT_REGION", "eu-central-1"),
        env("AWS_REGION", "eu-central-1"),
        env("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/reader"),
        env("AWS_WEB_IDENTITY_TOKEN_FILE", "/var/run/secrets/eks.amazonaws.com/serviceaccount/token"),
        volume("aws-iam-token", projected={"sources": []}),
        more(
            "volumeMounts",
            {
                "name": "aws-iam-token",
                "mountPath": "/var/run/secrets/eks.amazonaws.com/serviceaccount",
                "readOnly": True,
            },
        ),
    ),
    "an identity of Azure": both(
        env("AZURE_CLIENT_ID", "7d2c3b0a-2f60-4a0e-9f9a-0123456789ab"),
        env("AZURE_TENANT_ID", "7d2c3b0a-2f60-4a0e-9f9a-0123456789ab"),
        env("AZURE_FEDERATED_TOKEN_FILE", "/var/run/secrets/azure/tokens/azure-identity-token"),
        env("AZURE_AUTHORITY_HOST", "https://login.microsoftonline.com/"),
        volume("azure-identity-token", projected={"sources": []}),
        more(
            "volumeMounts",
            {"name": "azure-identity-token", "mountPath": "/var/run/secrets/azure/tokens", "readOnly": True},
        ),
    ),
    "a container that reads the model": beside("containers", volumeMounts=[MODEL[0] | {"readOnly": True}]),
    "a container that only debugs": beside("ephemeralContainers"),
    "rights in the pod's own network": beside(
        INIT, securityContext={"capabilities": {"add": ["NET_ADMIN", "NET_RAW"]}}
    ),
}


@pytest.mark.parametrize("change", ADDED.values(), ids=ADDED.keys())
def test_what_the_platform_adds_changes_nothing(change: Change, context: ClusterContext) -> None:
    manifest, pod = made("Pod", context)
    change(pod)
    assert broken(manifest, context) == {}
