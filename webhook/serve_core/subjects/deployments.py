"""An annotated Deployment, and the Knative Service that it becomes."""

from collections.abc import Mapping
from dataclasses import replace

from serve_core.admission.decide import render_stored
from serve_core.api import annotations, models, runtimes, serving_spec
from serve_core.api.annotations import DEPLOYMENT, KNATIVE, path_of
from serve_core.base.json import JsonObject, object_at, value_at
from serve_core.context.cluster import ClusterContext
from serve_core.policy.subject import Origin, ReplicaBounds, RuntimeUse, Use
from serve_core.subjects.knative import knative_parts
from serve_core.subjects.origins import cached, canonical, from_cache, loaded, loaders
from serve_core.subjects.pod_spec import pod_spec_parts
from serve_core.subjects.replicas import surge
from serve_core.subjects.servers import formats_of, runtime_of
from serve_core.subjects.shapes import Parts, count_of, strings
from serve_core.workload import model_server
from serve_core.workload.loader_container import LoaderRequest


def deployment_parts(document: JsonObject, context: ClusterContext) -> Parts:
    """A Deployment with a model: its own pods, and the Knative Service that it becomes, if it becomes one."""
    notes = strings(document["metadata"].get("annotations"))
    pod = object_at(document, "spec", "template", "spec")
    uris = tuple(canonical(uri) for uri, _ in models.split(notes[annotations.MODEL]))
    made = pod_spec_parts(pod, "spec.template.spec", context, uris[0])
    # The annotation is what the user wrote; what is verified, only the loader that runs shows.
    at = path_of(annotations.MODEL)
    requests = [found for found in loaders(pod, "", context).values() if isinstance(found, LoaderRequest)]
    checked = {origin.text: origin for request in requests for origin in loaded(request, at, pod, context)}
    checked |= {origin.text: origin for volume in cached(pod, "").values() for origin in from_cache(volume, at)}
    annotated = tuple(checked.get(uri) or Origin(uri, at, by_loader=False) for uri in uris)
    made["origins"] = (*annotated, *made["origins"])
    made["formats"] = tuple(formats_of(notes, made["origins"]))
    made["runtime"] = runtime = _annotated_runtime(document, pod, context)
    spoken = next((known.protocols[0] for known in context.known_runtimes if known.name == runtime.name), "unknown")
    made["protocol"] = Use(notes.get(annotations.PROTOCOL, spoken), path_of(annotations.PROTOCOL))
    made["mode"] = Use(notes.get(annotations.MODE, KNATIVE), path_of(annotations.MODE))
    if annotations.CREDENTIALS in notes:
        named = Use(notes[annotations.CREDENTIALS], path_of(annotations.CREDENTIALS))
        made["secrets"] = (named, *(use for use in made["secrets"] if use.name != named.name))
    service = render_stored(document, context).service
    own = (object_at(document, "spec", "template"), "spec.template")
    if service is not None:
        traffic = value_at(service, "spec", "traffic")
        made |= knative_parts(service["metadata"], object_at(service, "spec", "template"), traffic=traffic)
        # The Deployment's own pods serve until Knative's do, with ports and other fields that Knative does not have.
        made["mesh"] = ([*made["mesh"][0], own], "")
        running = count_of(value_at(document, "spec", "replicas"), 0)
        found = made["scale"]
        most = None if found.maximum is None else max(found.maximum, running)
        made["scale"] = ReplicaBounds(found.minimum, most, found.beside)
        made["visibility"] = Use(made["visibility"].name, path_of(annotations.VISIBILITY))
        if annotations.DOMAIN in notes:
            made["visibility"] = Use("public", path_of(annotations.DOMAIN))
    else:
        made |= _running_scale(document, notes)
        made["visibility"] = Use("cluster-local", path_of(annotations.MODE))
        made["mesh"] = ([own], "")
    # The pods decide what Istio does; the annotation only requests it.
    made["mesh"] = (made["mesh"][0], path_of(annotations.MESH))
    made["auth"] = Use(notes.get(annotations.AUTH, "none"), path_of(annotations.AUTH))
    of_tokens = (annotations.AUTH_ISSUER, annotations.AUTH_JWKS)
    made["issuers"] = tuple(Use(notes[key], path_of(key)) for key in of_tokens if key in notes)
    return made


def _running_scale(document: JsonObject, notes: Mapping[str, str]) -> Parts:
    """The replicas of a Deployment that Knative does not serve, at least as many as it has now."""
    spec, _ = serving_spec.read(notes)
    if spec is None or (spec.scale is None and spec.mode != DEPLOYMENT):
        return {"scale": ReplicaBounds(0, None)}
    number = count_of(object_at(document, "spec").get("replicas", 1), 1)
    least, most = (number, number) if spec.scale is None else (spec.scale.minimum, spec.scale.maximum)
    if most is None:
        return {"scale": ReplicaBounds(least, None)}
    most = max(most, number)
    return {"scale": ReplicaBounds(least, most, surge(object_at(document, "spec", "strategy"), most))}


def _annotated_runtime(document: JsonObject, pod: JsonObject, context: ClusterContext) -> RuntimeUse:
    """The runtime of a Deployment. Its annotation can make it ``custom``, but no other runtime than the container's."""
    notes = strings(document["metadata"].get("annotations"))
    spec, _ = serving_spec.read(notes)
    named, likely, file = notes.get(annotations.RUNTIME, ""), "", ""
    if spec is not None:
        file = spec.model_path
        chosen = runtimes.choose(spec, context.known_runtimes, model_server.extended_resources_of(pod))
        likely = chosen.name if chosen else ""
    at = path_of(annotations.RUNTIME)
    use = runtime_of(pod, "spec.template.spec", context, likely, str(document["metadata"].get("name") or ""), file)
    if named == annotations.CUSTOM:
        return RuntimeUse(annotations.CUSTOM, at, use.based_on)
    if named and not use.based_on:
        return RuntimeUse(annotations.CUSTOM, at, (named,), f"its image is not one of runtime {named}")
    return use if use.why else replace(use, path=at)
