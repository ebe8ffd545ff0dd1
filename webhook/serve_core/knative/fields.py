"""Rules for each field of a Deployment's pod template: what it becomes in a Knative Service.

A field is carried, dropped if it only repeats a default of the API server, carried if a feature flag of Knative allows
it, or refused. A field without a rule is refused: nothing is lost silently.

Source of the rules: Knative Serving 1.23, ``pkg/apis/serving/fieldmask.go``, ``k8s_validation.go`` and
``pkg/apis/config/features.go``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from serve_core.base.json import canonical
from serve_core.base.reasons import MAX_PROBLEMS, Diagnostic, diagnostic, quote, step
from serve_core.knative.features import FeatureNeed, state


@dataclass(frozen=True)
class FieldRule:
    """The rule for one field. By default the field is carried unchanged."""

    flag: str | None = None
    """The feature flag that the field needs."""
    exact: bool = False
    """Whether the flag must be ``enabled``; otherwise ``allowed`` is enough."""
    drop: tuple[Any, ...] = ()
    """Values that are the same as no value."""
    only: tuple[Any, ...] | None = None
    """The only values that are carried."""
    ignore: str = ""
    """Why it is left out with a warning: the model is served as well without it."""
    refuse: str = ""
    """Why other values are refused."""
    way_out: str = ""
    inner: Mapping[str, "FieldRule"] | None = field(default=None, repr=False)
    """The rules of an object's fields."""
    key: str = ""
    """The merge key of a list. Knative refuses two elements with the same key; Kubernetes accepts them."""
    each: bool = False
    """Whether ``inner`` has the rules of each element of a list."""

    @cached_property
    def unchecked(self) -> frozenset[str]:
        """Inner fields that are carried with any value."""
        return frozenset(key for key, rule in (self.inner or {}).items() if rule is CARRY)


Rules = Mapping[str, FieldRule]


@dataclass
class FieldMapping:
    """Carries documents by rules and collects the fields that cannot be carried."""

    features: Mapping[str, str]
    problems: list[Diagnostic] = field(default_factory=list)
    warnings: list[Diagnostic] = field(default_factory=list)
    needs: set[FeatureNeed] = field(default_factory=set)
    """The feature flags that the documents need, whatever their state."""

    def require(self, flag: str, path: str, *, exact: bool = False) -> None:
        need = FeatureNeed(flag, exact)
        self.needs.add(need)
        if not need.is_met(self.features):
            self.add("FeatureDisabled", path, flag=flag, state=state(self.features, flag))

    def refuse(self, path: str, why: str, way_out: str = "") -> None:
        self.add("FieldUnsupported", path, why=why, way_out=way_out or "Remove it.")

    def ignore(self, path: str, why: str) -> None:
        """Warn that a field is left out."""
        self.warn("FieldIgnored", path, why=why)

    def warn(self, code: str, path: str, **words: object) -> None:
        """Add a warning, unless there are more than are shown."""
        if len(self.warnings) <= MAX_PROBLEMS:
            self.warnings.append(diagnostic(code, path, **words))

    def add(self, code: str, path: str, **words: object) -> None:
        """Add a problem, up to the number that a refusal shows."""
        if len(self.problems) <= MAX_PROBLEMS:
            self.problems.append(diagnostic(code, path, **words))

    def carry(self, document: Mapping[str, Any], rules: Rules, path: str) -> dict[str, Any]:
        carried = {}
        for key, value in document.items():
            rule = rules.get(key)
            if value is None:
                continue
            if rule is CARRY:
                carried[key] = value
                continue
            here = f"{path}.{key}"
            if rule is None:
                self.refuse(path + "." + step(key), "a Knative Service has no such field")
            elif any(value == dropped and type(value) is type(dropped) for dropped in rule.drop):
                continue
            elif rule.ignore:
                self.ignore(here, rule.ignore)
            elif rule.refuse and (rule.only is None or value not in rule.only):
                self.refuse(here, rule.refuse, rule.way_out)
            else:
                if rule.flag:
                    self.require(rule.flag, here, exact=rule.exact)
                carried[key] = self._inside(value, rule, here)
        return carried

    def _once(self, elements: list[Any], key: str, path: str) -> list[Any]:
        """The elements without duplicates, in linear time. Different elements with the same key are refused."""
        names = [repr(element.get(key, "") if isinstance(element, dict) else element) for element in elements]
        if len({*names}) == len(names):
            return elements
        found: list[Any] = []
        first: dict[str, Any] = {}
        others: set[str] = set()
        for index, (element, name_of) in enumerate(zip(elements, names, strict=True)):
            if name_of not in first:
                first[name_of] = element
            elif element == first[name_of] or (text := canonical(element)) in others:
                continue
            else:
                others.add(text)
                name = element.get(key, "") if isinstance(element, dict) else element
                self.refuse(
                    f"{path}[{_place(element, index, path)}]", f"{quote(name)} is listed twice", "Remove one of them."
                )
            found.append(element)
        return found

    def _inside(self, value: Any, rule: FieldRule, path: str) -> Any:
        if rule.key and isinstance(value, list):
            value = self._once(value, rule.key, path)
        if rule.inner is None:
            return value
        if rule.each and isinstance(value, list):
            return [
                self.carry(element, rule.inner, f"{path}[{_place(element, index, path)}]")
                if isinstance(element, dict) and not _is_unchecked(element, rule)
                else element
                for index, element in enumerate(value)
            ]
        return self.carry(value, rule.inner, path) if isinstance(value, dict) else value


def _is_unchecked(element: Mapping[str, Any], rule: FieldRule) -> bool:
    """Whether an element is carried unchanged. Most are, and there can be thousands."""
    return element.keys() <= rule.unchecked and None not in element.values()


def _place(element: Mapping[str, Any], index: int, path: str) -> object:
    """An element's step in a path. Variables have their names: the variables that admission sets come first and would
    shift the indexes."""
    return step(element.get("name", index)) if path.endswith(".env") else index


CARRY = FieldRule()
KEEP_DEPLOYMENT = "serve it without Knative: kubectl-serve.dev/mode: deployment"

_NO_CLAIMS = f"Request the device as a resource, such as nvidia.com/gpu, or {KEEP_DEPLOYMENT}."


def _refused(why: str, way_out: str = "", drop: tuple[Any, ...] = ()) -> FieldRule:
    return FieldRule(refuse=why, way_out=way_out, drop=drop)


_VALUE_FROM: Rules = {
    "configMapKeyRef": CARRY,
    "secretKeyRef": CARRY,
    "fieldRef": FieldRule(flag="kubernetes.podspec-fieldref"),
    "resourceFieldRef": FieldRule(flag="kubernetes.podspec-fieldref"),
}

_ENV: Rules = {"name": CARRY, "value": CARRY, "valueFrom": FieldRule(inner=_VALUE_FROM)}

_MOUNT: Rules = {
    "name": CARRY,
    "mountPath": CARRY,
    "readOnly": CARRY,
    "subPath": CARRY,
    "mountPropagation": FieldRule(
        flag="kubernetes.podspec-volumes-mount-propagation",
        exact=True,
        drop=("None",),
        only=("HostToContainer",),
        refuse="only HostToContainer is supported",
        way_out=f"Use HostToContainer, or {KEEP_DEPLOYMENT}.",
    ),
    "subPathExpr": _refused("only subPath is supported", "Use subPath with a fixed path."),
    "recursiveReadOnly": _refused("a Knative Service has no such field", drop=("Disabled",)),
}

_CAPABILITIES: Rules = {
    "drop": CARRY,
    "add": FieldRule(flag="kubernetes.containerspec-addcapabilities", exact=True, drop=([],)),
}

_CONTAINER_SECURITY: Rules = {
    "runAsUser": CARRY,
    "runAsGroup": CARRY,
    "runAsNonRoot": CARRY,
    "readOnlyRootFilesystem": CARRY,
    "allowPrivilegeEscalation": CARRY,
    "seccompProfile": CARRY,
    "capabilities": FieldRule(inner=_CAPABILITIES),
    "privileged": FieldRule(
        only=(False,),
        refuse="Knative runs no privileged containers",
        way_out=f"Remove it, and request devices as resources, such as nvidia.com/gpu; or {KEEP_DEPLOYMENT}.",
    ),
    "seLinuxOptions": _refused("a Knative Service has no such field", drop=({},)),
    "windowsOptions": _refused("a Knative Service has no such field", drop=({},)),
    "procMount": _refused("a Knative Service has no such field", drop=("Default",)),
    "appArmorProfile": _refused("a Knative Service has no such field"),
}

_RESOURCES: Rules = {
    "requests": CARRY,
    "limits": CARRY,
    "claims": _refused("a Knative Service has no resource claims", _NO_CLAIMS, drop=([],)),
}

_ANY_CONTAINER: Rules = {
    "name": CARRY,
    "image": CARRY,
    "command": CARRY,
    "args": CARRY,
    "workingDir": CARRY,
    "imagePullPolicy": CARRY,
    "terminationMessagePath": CARRY,
    "terminationMessagePolicy": CARRY,
    "env": FieldRule(inner=_ENV, each=True, key="name"),
    "envFrom": CARRY,
    "resources": FieldRule(inner=_RESOURCES, drop=({},)),
    "securityContext": FieldRule(inner=_CONTAINER_SECURITY, drop=({},)),
    "volumeMounts": FieldRule(inner=_MOUNT, each=True),
    "lifecycle": _refused(
        "Knative drains the container itself", f"Handle SIGTERM in the container, or {KEEP_DEPLOYMENT}.", drop=({},)
    ),
    "stdin": FieldRule(ignore="clients cannot attach to the containers of a Knative Service", drop=(False,)),
    "stdinOnce": FieldRule(ignore="clients cannot attach to the containers of a Knative Service", drop=(False,)),
    "tty": FieldRule(ignore="clients cannot attach to the containers of a Knative Service", drop=(False,)),
    "volumeDevices": _refused("Knative has no block devices", "Use volumeMounts.", drop=([],)),
    "resizePolicy": _refused("Knative creates new revisions instead of resizing pods", drop=([],)),
    "restartPolicy": _refused("Knative has no sidecar init containers", "Make it a normal container."),
    "restartPolicyRules": _refused("a Knative Service has no restart rules"),
}

_PROBE: Rules = {
    **dict.fromkeys(("exec", "grpc", "httpGet", "tcpSocket"), CARRY),
    **dict.fromkeys(("initialDelaySeconds", "periodSeconds", "timeoutSeconds"), CARRY),
    **dict.fromkeys(("failureThreshold", "successThreshold"), CARRY),
    "terminationGracePeriodSeconds": FieldRule(ignore="Knative derives it from the request timeout"),
}

CONTAINER: Rules = {
    **_ANY_CONTAINER,
    "ports": CARRY,
    **dict.fromkeys(("readinessProbe", "livenessProbe", "startupProbe"), FieldRule(inner=_PROBE)),
}
_SIDE_PROBE = FieldRule(flag="multi-container-probing", exact=True, inner=_PROBE)
SIDE_CONTAINER: Rules = {
    **_ANY_CONTAINER,
    "ports": FieldRule(
        ignore="a Knative Service has one port, that of the container that takes its requests", drop=([],)
    ),
    "readinessProbe": _SIDE_PROBE,
    "livenessProbe": _SIDE_PROBE,
    "startupProbe": _SIDE_PROBE,
}
_NO_PROBE = _refused("init containers are not probed")
INIT_CONTAINER: Rules = {
    **_ANY_CONTAINER,
    "ports": _refused("init containers serve no requests", drop=([],)),
    "readinessProbe": _NO_PROBE,
    "livenessProbe": _NO_PROBE,
    "startupProbe": _NO_PROBE,
}

_PROJECTED: Rules = {
    "defaultMode": CARRY,
    "sources": FieldRule(
        inner=dict.fromkeys(("configMap", "downwardAPI", "secret", "serviceAccountToken"), CARRY), each=True
    ),
}

_EMPTY_DIR: Rules = {
    "medium": FieldRule(
        only=("", "Memory"),
        refuse="Knative has no hugepages: only Memory and the node's disk are",
        way_out=f"Use medium Memory, or {KEEP_DEPLOYMENT}.",
    ),
    "sizeLimit": CARRY,
}

_NO_VOLUME = "Knative has no such volume"
_NETWORK_VOLUMES = (
    "awsElasticBlockStore", "azureDisk", "azureFile", "cephfs", "cinder", "fc", "flexVolume", "flocker",
    "gcePersistentDisk", "glusterfs", "iscsi", "nfs", "photonPersistentDisk", "portworxVolume", "quobyte", "rbd",
    "scaleIO", "storageos", "vsphereVolume",
)  # fmt: skip

VOLUME: Rules = {
    "name": CARRY,
    "secret": CARRY,
    "configMap": CARRY,
    "projected": FieldRule(inner=_PROJECTED),
    "emptyDir": FieldRule(flag="kubernetes.podspec-volumes-emptydir", exact=True, inner=_EMPTY_DIR),
    "persistentVolumeClaim": FieldRule(flag="kubernetes.podspec-persistent-volume-claim", exact=True),
    "hostPath": FieldRule(flag="kubernetes.podspec-volumes-hostpath", exact=True),
    "csi": FieldRule(flag="kubernetes.podspec-volumes-csi", exact=True),
    "image": FieldRule(flag="kubernetes.podspec-volumes-image", exact=True),
    "ephemeral": FieldRule(flag="kubernetes.podspec-volumes-ephemeral", exact=True),
    "downwardAPI": _refused(_NO_VOLUME, "Use a projected volume with a source downwardAPI."),
    "gitRepo": _refused(_NO_VOLUME, "Clone the repository in an init container."),
    **dict.fromkeys(_NETWORK_VOLUMES, _refused(_NO_VOLUME, "Make a PersistentVolume of it, and mount a claim.")),
}

_POD_SECURITY = "kubernetes.podspec-securitycontext"
_NO_FIELD = "a Knative Service has no such field"


def _flagged(name: str, drop: tuple[Any, ...] = ()) -> FieldRule:
    return FieldRule(flag=f"kubernetes.podspec-{name.lower()}", drop=drop)


POD: Rules = {
    "volumes": FieldRule(inner=VOLUME, each=True),
    "serviceAccountName": CARRY,
    "serviceAccount": _refused("it is the deprecated name of serviceAccountName, which says another one", "Remove it."),
    "imagePullSecrets": FieldRule(key="name"),
    "enableServiceLinks": CARRY,
    "automountServiceAccountToken": FieldRule(only=(False,), drop=(True,), refuse="only false is supported"),
    "affinity": _flagged("affinity", ({},)),
    "topologySpreadConstraints": _flagged("topologySpreadConstraints", ([],)),
    "nodeSelector": _flagged("nodeSelector", ({},)),
    "tolerations": _flagged("tolerations", ([],)),
    "hostAliases": _flagged("hostAliases", ([],)),
    "dnsPolicy": _flagged("dnsPolicy", ("ClusterFirst",)),
    "dnsConfig": _flagged("dnsConfig", ({},)),
    "hostIPC": _flagged("hostIPC", (False,)),
    "hostPID": _flagged("hostPID", (False,)),
    "hostNetwork": _flagged("hostNetwork", (False,)),
    "runtimeClassName": _flagged("runtimeClassName"),
    "schedulerName": _flagged("schedulerName", ("default-scheduler",)),
    "priorityClassName": _flagged("priorityClassName", ("",)),
    "shareProcessNamespace": _flagged("shareProcessNamespace", (False,)),
    "securityContext": FieldRule(
        drop=({},),
        inner={
            name: FieldRule(flag=_POD_SECURITY)
            for name in ("runAsUser", "runAsGroup", "runAsNonRoot", "fsGroup", "supplementalGroups", "seccompProfile")
        }
        | {"fsGroupChangePolicy": FieldRule(ignore="Knative always sets the group of the whole volume")},
    ),
    "restartPolicy": _refused("Knative always restarts containers", drop=("Always",)),
    "activeDeadlineSeconds": _refused("a served model has no deadline"),
    "nodeName": _refused("the scheduler chooses the node", "Use nodeSelector."),
    "hostname": _refused(_NO_FIELD, drop=("",)),
    "subdomain": _refused(_NO_FIELD, drop=("",)),
    "priority": _refused(_NO_FIELD, "Use priorityClassName."),
    "preemptionPolicy": _refused(_NO_FIELD, "Use priorityClassName."),
    "readinessGates": _refused(_NO_FIELD, drop=([],)),
    "schedulingGates": _refused(_NO_FIELD, drop=([],)),
    "overhead": _refused(_NO_FIELD, "Use runtimeClassName.", drop=({},)),
    "os": _refused(_NO_FIELD, drop=({"name": "linux"},)),
    "hostUsers": _refused(_NO_FIELD),
    "setHostnameAsFQDN": _refused(_NO_FIELD, drop=(False,)),
    "hostnameOverride": _refused(_NO_FIELD),
    "resourceClaims": _refused(_NO_FIELD, _NO_CLAIMS, drop=([],)),
    "resources": _refused(_NO_FIELD, "Set the resources of each container.", drop=({},)),
    "ephemeralContainers": _refused("ephemeral containers are only for running pods", drop=([],)),
}
