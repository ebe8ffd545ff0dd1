"""KServe's LLMInferenceServices as annotated Deployments. Pure: an object in, objects and notes out.

Source: KServe 0.20, ``pkg/apis/serving/v1alpha2/llm_inference_service_types.go`` and
``pkg/controller/v1alpha2/llmisvc`` (``workload_single_node.go``, ``workload_lora.go``, ``managed_dra.go``).
"""

import copy
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from kubectl_serve.kserve.base.accounting import Field, Ledger, Note
from kubectl_serve.kserve.base.converted import Converted
from kubectl_serve.kserve.base.draft import Draft
from kubectl_serve.kserve.base.names import GROUP, LLM_SERVER
from kubectl_serve.kserve.llm import adapters, config, devices, metadata
from kubectl_serve.kserve.llm import server as llm_server
from kubectl_serve.kserve.llm.server import ModelArguments
from kubectl_serve.kserve.services import credentials, model
from kubectl_serve.kserve.services import pod as pods
from serve_core.admission.decide import judge
from serve_core.api.annotations import CUSTOM, DEPLOYMENT, MODE, MODEL, PROTOCOL, RUNTIME, SCALE, TIMEOUT, VISIBILITY
from serve_core.api.runtimes import Runtime
from serve_core.base.json import JsonObject, object_at, value_at
from serve_core.base.reasons import Diagnostic, quote
from serve_core.context.cluster import ClusterContext
from serve_core.knative import timeouts
from serve_core.workload import command_line

KIND = "LLMInferenceService"
CONFIG_KIND = "LLMInferenceServiceConfig"
VERSIONS = (f"{GROUP}/v1alpha1", f"{GROUP}/v1alpha2")

_RUNTIME = "vllm"
_INITIALIZER = "storage-initializer"
_NOT_SPREAD = "refused: kubectl-serve serves a model on one node."
_WAYS = {
    "route": f"the model gets a URL of its own, without KServe's path /NAMESPACE/NAME; {TIMEOUT} limits a request.",
    "gateway": "has no equivalent: requests pass Knative's ingress.",
    "ingress": "has no equivalent: requests pass Knative's ingress.",
}
"""Ways to the model from outside the cluster, and what is different with Knative."""
_NO_WAY = "has no equivalent without Knative: write a route to the Service of the model."
_NO_EQUIVALENT = {
    "tracing": "has no equivalent: set vLLM's options and the variables OTEL_… in the container.",
    "kvCacheOffloading": "has no equivalent: write vLLM's option --kv-transfer-config into args.",
    "rolloutStrategy": "has no effect: Knative moves the traffic to a new revision when that is ready.",
}


def convert(
    document: JsonObject,
    configs: Mapping[str, JsonObject],
    context: ClusterContext,
    others: Sequence[JsonObject] = (),
) -> Converted:
    """The Deployment for an LLMInferenceService. ``configs``: the LLMInferenceServiceConfigs, by name. ``others``:
    objects of Kubernetes itself among the same files. The input is not changed."""
    spec = config.merged(object_at(document, "spec"), configs)
    whole = {**document, "spec": spec} if isinstance(document.get("spec"), dict) else document
    template = config.evaluated(spec.get("template"), whole)
    if template.value is not None:
        whole = {**whole, "spec": {**spec, "template": template.value}}
    ledger = Ledger(whole)
    draft = Draft(context, str(value_at(document, "metadata", "name") or ""), others=others)
    return _Conversion(ledger, configs, draft).result(template)


@dataclass
class _Conversion:
    ledger: Ledger
    configs: Mapping[str, JsonObject]
    draft: Draft
    said: ModelArguments = field(default_factory=ModelArguments)

    @property
    def runtime(self) -> Runtime | None:
        """vLLM of the catalogue."""
        return next((each for each in self.draft.context.runtimes if each.name == _RUNTIME), None)

    def result(self, template: config.Evaluated) -> Converted:
        root, draft = self.ledger.root, self.draft
        for key in ("apiVersion", "kind", "status"):
            root.at(key).use()
        spec = root.at("spec")
        self._references(spec.at("baseRefs"))
        self._refuse(spec)
        metadata.read(root.at("metadata"), spec, draft)
        self._model(spec)
        self._scale(spec)
        self._router(spec.at("router"))
        for key, why in _NO_EQUIVALENT.items():
            spec.at(key).note(why)
        self._expressions(spec.at("template"), template)
        self._template(spec.at("template"))
        if draft.asked.get(RUNTIME) == CUSTOM:
            self._note_own_command(spec)
        extras = devices.read(root.at("metadata", "annotations"), self.runtime, self.ledger, draft)
        made = self.ledger.settled(draft.deployment())
        if self.ledger.refused:
            spec.use()  # the refusal stands for all of it
        self.ledger.report()
        notes = [*self.ledger.notes, *self.ledger.faults]
        if self.ledger.refused or self.ledger.faults or MODEL not in draft.asked:
            return Converted(None, tuple(sorted(set(notes))))
        made, problems, lacking = _judged(made, draft.context)
        for key, with_knative in _WAYS.items():
            if spec.at("router", key):
                notes.append(Note(f"spec.router.{key}", _NO_WAY if lacking else with_knative))
        if lacking:
            why = f"Knative does not have {', '.join(lacking)}: the Deployment runs without Knative."
            notes.append(Note("spec.template", why))
        return Converted(made, tuple(sorted(set(notes))), problems, tuple(self.ledger.settled(extras)))

    def _expressions(self, template: Field, found: config.Evaluated) -> None:
        if found.unknown:
            template.refuse(f"refused: the expression {quote(found.unknown[0])} cannot be evaluated here.")
        if found.assumes_namespace:
            why = "names the namespace of the service, which is missing"
            template.remark(f"{why}: {config.NAMESPACE} is assumed.")
        if found.children:
            names = ", ".join(found.children)
            template.remark(f"names {names}, which KServe made and nothing makes here.")

    def _references(self, references: Field) -> None:
        for each in references.objects():
            name = each.at("name").text() or ""
            if name not in self.configs and not name.startswith(config.WELL_KNOWN):
                each.refuse(f"refused: these files have no {CONFIG_KIND} {name}. Add its file.")

    def _refuse(self, spec: Field) -> None:
        """What would be another service without."""
        spec.at("prefill").refuse("refused: kubectl-serve does not split prefill from decode.")
        spec.at("worker").refuse(_NOT_SPREAD)
        parallelism = spec.at("parallelism")
        parallelism.entries()
        for key in ("data", "dataLocal", "pipeline"):
            each = parallelism.at(key)
            if each.number() not in (None, 1):
                each.refuse(_NOT_SPREAD)
        if parallelism.at("expert").use() is True:
            parallelism.at("expert").refuse(_NOT_SPREAD)
        parallelism.at("dataRPCPort").note("has no equivalent without data parallelism.")
        self.said.tensor = parallelism.at("tensor").number()
        confidential = spec.at("model", "confidential")
        if confidential.at("enabled").use() is True:
            confidential.refuse("refused: the loader does not decrypt models.")

    def _model(self, spec: Field) -> None:
        of_model, draft = spec.at("model"), self.draft
        of_model.entries()
        if not of_model.at("uri"):
            self.ledger.notes.append(Note("spec.model.uri", "is missing: there is no model to serve."))
            return
        model.read_uri(of_model.at("uri"), draft)
        draft.asked[PROTOCOL] = "openai"
        called = of_model.at("name").text() or draft.name
        self.said.served_name = "" if called == draft.name else called
        adapters.read(of_model.at("lora"), self.said, draft)
        enabled = spec.at("storageInitializer", "enabled")
        if enabled.use() is False:
            enabled.note("has no equivalent: the loader downloads the model. Remove what else does so.")

    def _scale(self, spec: Field) -> None:
        replicas, scaling = spec.at("replicas"), spec.at("scaling")
        scaling.entries()
        least, most = scaling.at("minReplicas").number(), scaling.at("maxReplicas").number()
        for key in ("wva", "keda"):
            scaling.at(key).note("has no equivalent: Knative scales by the number of concurrent requests, or by rps.")
        if scaling:
            replicas.note("is overridden by spec.scaling.")
        number = replicas.number()
        if scaling:
            self.draft.asked[SCALE] = f"{least or 1}..{most or ''}"
        elif number == 0:
            replicas.remark("0 is no maximum here: the first request starts a replica.")
            self.draft.asked[SCALE] = "0..1"
        else:
            self.draft.asked[SCALE] = str(1 if number is None else number)

    def _router(self, router: Field) -> None:
        router.entries()
        if not any(router.at(key) for key in _WAYS):
            self.draft.asked[VISIBILITY] = "cluster-local"
        else:
            # KServe's routes have none.
            self.draft.asked[TIMEOUT] = f"{timeouts.read(self.draft.context.knative_defaults).maximum}s"
        for key in _WAYS:
            router.at(key).use()
        router.at("scheduler").note(
            "has no equivalent: requests are balanced over the replicas, without regard to prefixes or caches."
        )
        if router.value == {}:
            router.use()

    def _template(self, template: Field) -> None:
        template.entries()
        found = template.at("containers").objects()
        main = next((each for each in found if each.at("name").value == LLM_SERVER), None)
        volumes = template.at("volumes").objects()
        own_volumes = [str(each.at("name").value) for each in volumes]
        claims = self.draft.pod.pop("volumes", [])
        pods.read(template, self.draft)
        for key in ("containers", "volumes", "initContainers"):
            self.draft.pod.pop(key, None)
        if volumes or claims:
            self.draft.pod["volumes"] = [*volumes, *claims]
        initial = []
        for each in template.at("initContainers").objects():
            if each.at("name").value == _INITIALIZER:
                each.note("has no equivalent: kubectl-serve has its own loader.")
            else:
                initial.append(each)
        if initial:
            self.draft.pod["initContainers"] = initial
        if main is None:
            main = template.at(LLM_SERVER)  # absent: KServe's template gives all of it
        if (self.said.tensor or 1) > max(llm_server.devices(main, self.runtime), 1):
            main.at("resources").remark(f"must request {self.said.tensor} accelerators for parallelism.tensor.")
        server = llm_server.read(main, own_volumes, self.said, self.runtime, self.draft)
        beside = [each for each in found if each is not main]
        self.draft.pod["containers"] = [server, *beside]
        credentials.read_of_pod(template, self.draft)

    def _note_own_command(self, spec: Field) -> None:
        """Note what KServe's own command would say to vLLM, unless the user's says it."""
        main = self.draft.pod["containers"][0]
        line = command_line.read(self.ledger.settled({key: main.get(key) for key in ("command", "args", "env")}))
        why = "has no effect: the container has a command of its own."
        if self.said.served_name and not any(self.said.served_name in word for word in line.words):
            spec.at("model", "name").note(why)
        if self.said.tensor is not None and line.flag("--tensor-parallel-size", "-tp") is None:
            spec.at("parallelism", "tensor").note(why)
        if self.said.words and "--lora-modules" not in line.words:
            spec.at("model", "lora").note(f"the container has a command of its own: add {shlex.join(self.said.words)}.")


def _judged(made: JsonObject, context: ClusterContext) -> tuple[JsonObject, tuple[Diagnostic, ...], list[str]]:
    """The Deployment with Knative, or in mode deployment if Knative lacks some of its fields; and these fields."""
    problems = judge(made, context).problems
    lacking = [each for each in problems if each.code == "FieldUnsupported"]
    if not lacking:
        return made, problems, []
    other = _without_knative(made)
    if judge(other, context).problems:
        return made, problems, []
    return other, (), list(dict.fromkeys(each.path.rpartition(".")[2] for each in lacking))


def _without_knative(made: JsonObject) -> JsonObject:
    other = copy.deepcopy(made)
    annotations = other["metadata"]["annotations"]
    annotations[MODE] = DEPLOYMENT
    for key in (TIMEOUT, VISIBILITY):
        annotations.pop(key, None)
    if annotations.get(SCALE, "").startswith("0"):
        annotations[SCALE] = "1"
    return other
