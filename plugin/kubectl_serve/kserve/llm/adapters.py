"""Adapters of a language model (LoRA): further models in folders of their own, or mounts of claims. Pure.

Source: KServe 0.20, ``pkg/controller/v1alpha2/llmisvc/workload_lora.go``.
"""

import json
import re

from kubectl_serve.kserve.base.accounting import Field
from kubectl_serve.kserve.base.draft import Draft
from kubectl_serve.kserve.llm.server import ModelArguments
from kubectl_serve.kserve.services import model
from serve_core.api.annotations import MODEL
from serve_core.base.constants import MODEL_MOUNT

_MOUNTED = "/mnt/lora"
_FOLDER = "lora"
_CLAIM = "pvc://"
_LIMITS = (("maxRank", "--max-lora-rank"), ("maxAdapters", "--max-loras"), ("maxCpuAdapters", "--max-cpu-loras"))


def read(lora: Field, said: ModelArguments, draft: Draft) -> None:
    """The adapters beside the model that the draft already has."""
    modules: dict[str, str] = {}
    places = []
    for each in lora.at("adapters").objects():
        name, uri = each.at("name").text(), each.at("uri").text()
        if name is None or uri is None:
            each.refuse("refused: an adapter needs a name and a uri.")
            continue
        folder = re.sub(r"[^A-Za-z0-9._-]", "-", name)
        folder = "adapter" if folder in ("", ".", "..") else folder
        if folder in modules:
            each.refuse(f"refused: another adapter has the folder {folder} too.")
        elif uri.startswith(_CLAIM):
            modules[folder] = _module(name, f"{_MOUNTED}/{folder}")
            _mount(uri.removeprefix(_CLAIM), f"lora-{len(modules)}", f"{_MOUNTED}/{folder}", said, draft)
        else:
            modules[folder] = _module(name, f"{MODEL_MOUNT}/{_FOLDER}/{folder}")
            places.append(f"{model.source(uri).uri}={_FOLDER}/{folder}")
    if places and draft.asked.get(MODEL, "").startswith(_CLAIM):
        lora.refuse("refused: a model on a claim has no downloaded models beside it. Put the adapters on claims.")
    elif places and MODEL in draft.asked:
        draft.asked[MODEL] = " ".join([f"{draft.asked[MODEL]}=.", *places])
    if modules:
        numbers = [(option, lora.at(key).number()) for key, option in _LIMITS]
        limits = [f"{option}={number}" for option, number in numbers if number is not None]
        said.words += ["--enable-lora", *limits, "--lora-modules", *modules.values()]


def _module(name: str, path: str) -> str:
    """An adapter as vLLM's ``--lora-modules`` reads it."""
    return json.dumps({"name": name, "path": path})


def _mount(place: str, volume: str, path: str, said: ModelArguments, draft: Draft) -> None:
    claim, _, inside = place.partition("/")
    inside = inside.strip("/")
    mount = {"name": volume, "mountPath": path, "readOnly": True} | ({"subPath": inside} if inside else {})
    said.mounts.append(mount)
    source = {"persistentVolumeClaim": {"claimName": claim, "readOnly": True}}
    draft.pod.setdefault("volumes", []).append({"name": volume, **source})
