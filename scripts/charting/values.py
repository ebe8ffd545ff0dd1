"""The values of the chart, as classes. values.yaml, its JSON schema and docs/chart.md are made from them."""

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema
from pydantic.alias_generators import to_camel

from kubectl_serve.install.manifests import PREFIX, CacheSettings
from serve_webhook.settings import ServerSettings

MANIFESTS = Path(__file__).resolve().parents[2] / "manifests"
POLICIES = tuple(sorted(file.stem for file in (MANIFESTS / "policies").glob("*.yaml")))

Object = dict[str, Any]


def _pod(file: str, kind: str) -> Object:
    """The pod of a workload in the manifests: its fields are the defaults of the values."""
    documents = yaml.safe_load_all((MANIFESTS / file).read_text())
    found: Object = next(each for each in documents if each["kind"] == kind)["spec"]["template"]["spec"]
    return found


def _settings() -> Object:
    """The settings of the manifests, without the images, which other values set."""
    (config_map,) = yaml.safe_load_all((MANIFESTS / "base/20-settings.yaml").read_text())
    found: Object = yaml.safe_load(config_map["data"]["settings.yaml"])
    del found["loader"]["image"], found["loader"]["signingImage"]
    return found


_SERVER = _pod("base/40-deployment.yaml", "Deployment")
_CACHE = _pod("cache/driver.yaml", "DaemonSet")
_RESOURCES = "Requests and limits of the container."
_INTERVAL = "Seconds between two scrapes, as a duration. Default: Prometheus' own interval."
_MONITOR_LABELS = "Labels by which your Prometheus selects it."


def inlined(node: Any, definitions: Object) -> Any:
    """A JSON schema without references: they cannot be nested into another schema."""
    if isinstance(node, list):
        return [inlined(each, definitions) for each in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        node = {**definitions[node["$ref"].rpartition("/")[2]], **{key: node[key] for key in node if key != "$ref"}}
    return {key: inlined(each, definitions) for key, each in node.items() if key not in ("$defs", "title")}


def settings_schema() -> Object:
    """The schema of the server's settings. The chart knows the loader's images, so they are not required."""
    schema = ServerSettings.model_json_schema(by_alias=True)
    found: Object = inlined(schema, schema["$defs"])
    del found["required"], found["properties"]["loader"]["required"]
    return found


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", alias_generator=to_camel)


class Image(_Part):
    registry: str = Field(default=PREFIX, description="Registry and path of kubectl-serve's images.", pattern="[^/]$")
    tag: str = Field(default="", description="Tag of the images. Default: the chart's appVersion.")
    pull_policy: Literal["Always", "IfNotPresent", "Never"] = Field(
        default="IfNotPresent", description="For these images."
    )
    pull_secrets: tuple[str, ...] = Field(
        default=(),
        description="Names of Secrets in the namespaces of the server and the node cache. The pods of models use those "
        "of their own service accounts.",
    )


class Definitions(_Part):
    enabled: bool = Field(
        default=True, description="Install the CustomResourceDefinitions. `helm uninstall` keeps them."
    )


class Scheduling(_Part):
    """Where pods run."""

    resources: Object = Field(default={}, description=_RESOURCES)
    affinity: Object = Field(default={}, description="Affinity of the pods.")
    node_selector: dict[str, str] = Field(default={}, description="Labels of the nodes that the pods can run on.")
    tolerations: list[Object] = Field(default=[], description="Tolerations of the pods.")
    priority_class_name: str = Field(default="", description="PriorityClass of the pods.")
    pod_labels: dict[str, str] = Field(default={}, description="More labels of the pods.")
    pod_annotations: dict[str, str] = Field(default={}, description="More annotations of the pods.")


class Server(Scheduling):
    enabled: bool = Field(
        default=True,
        description="Install the server with its webhooks, permissions, settings and catalogue of runtimes.",
    )
    image: str = Field(default="", description="The server's image, for example by digest. Default: by `image`.")
    replicas: int = Field(default=2, description="Replicas. With one, a restart stops admission for seconds.", ge=1)
    resources: Object = Field(default=_SERVER["containers"][0]["resources"], description=_RESOURCES)
    tolerations: list[Object] = Field(default=_SERVER["tolerations"], description="Tolerations of the pods.")
    topology_spread_constraints: list[Object] = Field(
        default=_SERVER["topologySpreadConstraints"], description="How the replicas are spread."
    )


class Runtimes(_Part):
    enabled: bool = Field(
        default=True,
        description="Install the catalogue of runtimes and known model servers. Without it, only the cluster's "
        "ModelRuntimes and containers of users serve models.",
    )


class Issuer(_Part):
    name: str = Field(default="", description="Name of the issuer. Default: an authority of the chart.")
    kind: str = Field(default="Issuer", description="Issuer, in namespace kubectl-serve, or ClusterIssuer.")
    group: str = Field(default="cert-manager.io", description="API group of the issuer.")


class CertManager(_Part):
    enabled: bool = Field(
        default=False, description="Let cert-manager issue the certificate and set the webhooks' caBundle."
    )
    issuer: Issuer = Field(default=Issuer(), description="The issuer. Its Secrets must have a ca.crt.")


class Certificates(_Part):
    secret: str = Field(
        default="",
        description="Secret of type kubernetes.io/tls in namespace kubectl-serve with your own certificate for "
        "kubectl-serve.kubectl-serve.svc. Default: the server makes its certificates and renews them.",
    )
    authority: str = Field(
        default="", description="With `secret`: the certificate authorities (PEM) that the API server trusts."
    )
    cert_manager: CertManager = Field(default=CertManager(), description="cert-manager's certificate.")


class Policies(_Part):
    starter: tuple[Annotated[str, Field(json_schema_extra={"enum": list(POLICIES)})], ...] = Field(
        default=(),
        description="Policies of manifests/policies to install, by name. Their CRD must be in the cluster: install "
        "the chart first, and set this in an upgrade.",
    )


class Istio(_Part):
    enabled: bool = Field(
        default=False, description="Let the server read Istio's configuration in namespace istio-system."
    )


class Cache(Scheduling):
    enabled: bool = Field(default=False, description="Install the node cache in namespace kubectl-serve-cache.")
    image: str = Field(default="", description="The driver's image, for example by digest. Default: by `image`.")
    size: str = Field(
        default=CacheSettings().size,
        description="Limit of its content on each node.",
        pattern="^[1-9][0-9]{0,5}[MGT]i$",
    )
    path: str = Field(default=CacheSettings().path, description="Its folder on each node.", pattern="^/[A-Za-z0-9_]")
    kubelet: str = Field(
        default=CacheSettings().kubelet, description="Root folder of the kubelets.", pattern="^/[A-Za-z0-9_]"
    )
    resources: Object = Field(default=_CACHE["containers"][0]["resources"], description=_RESOURCES)
    tolerations: list[Object] = Field(default=_CACHE["tolerations"], description="Tolerations of the pods.")
    priority_class_name: str = Field(default=_CACHE["priorityClassName"], description="PriorityClass of the pods.")


class NetworkPolicy(_Part):
    enabled: bool = Field(default=False, description="Limit the connections of the server's and the node cache's pods.")
    api_server: tuple[str, ...] = Field(
        default=(), description="Networks (CIDR) of the API servers. Default: every address."
    )
    api_server_ports: tuple[int, ...] = Field(default=(443, 6443), description="Ports of the API servers.")
    metrics_from: list[Object] = Field(
        default=[], description="Peers (NetworkPolicyPeer) that can read the metrics. Default: every pod."
    )


class Monitor(_Part):
    enabled: bool = Field(
        default=False, description="Install it. The cluster needs the CRDs of the Prometheus operator."
    )
    interval: str = Field(default="", description=_INTERVAL)
    labels: dict[str, str] = Field(default={}, description=_MONITOR_LABELS)


class Alerts(_Part):
    enabled: bool = Field(
        default=False, description="Install it. The cluster needs the CRDs of the Prometheus operator."
    )
    labels: dict[str, str] = Field(default={}, description=_MONITOR_LABELS)


class Monitoring(_Part):
    pod_monitor: Monitor = Field(default=Monitor(), description="PodMonitor of the server, and of the node cache.")
    service_monitor: Monitor = Field(
        default=Monitor(), description="ServiceMonitor of the server, where Prometheus selects no PodMonitors."
    )
    prometheus_rule: Alerts = Field(default=Alerts(), description="PrometheusRule with alerts.")


class Tests(_Part):
    namespace: str = Field(
        default="default", description="Namespace in which `helm test` creates a Deployment with a model, as a dry run."
    )


class Values(_Part):
    """The values of the chart."""

    image: Image = Field(
        default=Image(), description="Images of the server, the loader, the node cache and the runtimes."
    )
    labels: dict[str, str] = Field(default={}, description="More labels of every object.")
    crds: Definitions = Field(default=Definitions(), description="ServingPolicy, PolicyException and ModelRuntime.")
    server: Server = Field(default=Server(), description="The server: admission and reconciler.")
    settings: Annotated[Object, WithJsonSchema(settings_schema())] = Field(
        default=_settings(),
        description="The server's settings. It reads a change within a minute or two, without a restart.",
    )
    runtimes: Runtimes = Field(default=Runtimes(), description="The catalogue.")
    policies: Policies = Field(default=Policies(), description="Policies.")
    certificates: Certificates = Field(default=Certificates(), description="The server's certificate.")
    istio: Istio = Field(default=Istio(), description="For clusters with Istio.")
    cache: Cache = Field(default=Cache(), description="The node cache.")
    network_policy: NetworkPolicy = Field(default=NetworkPolicy(), description="NetworkPolicies.")
    monitoring: Monitoring = Field(default=Monitoring(), description="For the Prometheus operator.")
    tests: Tests = Field(default=Tests(), description="`helm test`.")


def schema() -> Object:
    """The JSON schema of the values, without references."""
    made = Values.model_json_schema(by_alias=True)
    found: Object = inlined(made, made["$defs"])
    found["properties"]["global"] = {"type": "object", "description": "Helm sets it for a chart in another chart."}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **found}


def defaults() -> Object:
    found: Object = Values().model_dump(by_alias=True, mode="json")
    return found
