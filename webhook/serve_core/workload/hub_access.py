"""How a container of the user's own reads a repository of the Hugging Face Hub: its name, its cache, its token.

Sources: huggingface_hub, "Environment variables"; transformers 4, "Installation".
"""

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from model_uri import ModelURI, hub
from serve_core.api import hub_on_claim
from serve_core.api.servers import KnownServer
from serve_core.base.constants import HUB_MOUNT, HUB_SUBPATH, MODEL_VOLUME
from serve_core.base.json import JsonObject, object_at, objects_in, value_at
from serve_core.syntax import mount_path
from serve_core.workload.command_line import CommandLine

_CACHES = ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "TRANSFORMERS_CACHE", "SENTENCE_TRANSFORMERS_HOME")
"""Variables that name the cache, each for other libraries or versions of them."""
_OTHER_HUBS = ("VLLM_USE_MODELSCOPE", "SGLANG_USE_MODELSCOPE", "LMDEPLOY_USE_MODELSCOPE", "LMDEPLOY_USE_OPENMIND_HUB")
"""Switches that make a server take the repository from another hub."""
_CACHE_FLAGS = ("--download-dir", "--huggingface-hub-cache", "--cache-dir", "--cache_dir")

_MORE_FLAGS = (
    "--tokenizer", "--tokenizer-path", "--hf-config-path", "--lora-modules", "--lora-paths", "--lora-adapters",
    "--speculative-config", "--speculative-model", "--speculative-draft-model-path",
)  # fmt: skip
_MORE_VARIABLES = ("LORA_ADAPTERS",)
"""What names repositories beside the model's: flags of vLLM, SGLang and TGI, and variables of TGI."""
_REVISION_FLAGS = ("--revision", "--model-revision", "--model_revision")
_REVISION_VARIABLE = "REVISION"
"""Of TGI and TEI."""
_REPOSITORY = re.compile(r"\w[\w.-]{0,95}/\w[\w.-]{0,95}", re.ASCII)
_LONGEST = 10_000

TOKENS = (
    "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN",
    "HUGGINGFACE_HUB_TOKEN",
    "HUGGINGFACE_TOKEN",
    "HUGGING_FACE_TOKEN",
    "HUGGINGFACEHUB_API_TOKEN",
    "HF_API_TOKEN",
    "HF_ACCESS_TOKEN",
)
"""Variables with a token for the hub: the library's own first."""


@dataclass(frozen=True)
class SecretKey:
    """A key of a Secret, as ``secretKeyRef`` names it."""

    secret: str
    key: str
    optional: bool | None = None

    def render(self) -> JsonObject:
        """The ``secretKeyRef``."""
        optional = {} if self.optional is None else {"optional": self.optional}
        return {"name": self.secret, "key": self.key, **optional}


def repository(uri: ModelURI) -> str | None:
    """The repository of a hub's URI, or of a folder of the hub's cache on a claim; ``None`` for another URI."""
    return uri.repository if uri.scheme == "hf" else hub_on_claim.repository(uri)


def named_repository(line: CommandLine, uris: Collection[ModelURI]) -> str | None:
    """The first of the models' repositories that a container names, in the case in which the URI has it: the hub's
    libraries look a name up in their cache as it is written."""
    known = (name for uri in uris if (name := repository(uri)) is not None)
    return next((name for name in known if line.names_repository(name, exact=True)), None)


def reads_cache(line: CommandLine, server: KnownServer | None, uris: Collection[ModelURI], mount: str) -> bool:
    """Whether a container names a repository, instead of the path ``mount``, and can find it in a cache."""
    return (
        (server is None or server.hub_cache) and not line.names_path(mount) and named_repository(line, uris) is not None
    )


def own_cache(container: JsonObject, line: CommandLine) -> str | None:
    """What the user wrote that makes the container use another cache than the loader's, or another hub: a variable, a
    flag or a mount. ``None`` if there is nothing."""
    for variable in objects_in(container.get("env")):
        name = variable.get("name")
        if name in _CACHES and variable.get("value") != HUB_MOUNT:
            return str(name)
        if name in _OTHER_HUBS and str(variable.get("value")).lower() not in ("", "0", "false"):
            return str(name)
    flag = next((name for name in _CACHE_FLAGS if line.flag(name) not in (None, HUB_MOUNT)), None)
    if flag is not None:
        return flag
    for mount in objects_in(container.get("volumeMounts")):
        path = mount_path.normalized(str(mount.get("mountPath")))
        if mount_path.is_within(path, HUB_MOUNT):
            return f"the volume at {path}"
    return None


def other_repository(line: CommandLine, uris: Iterable[ModelURI]) -> str | None:
    """The flag or variable with which a container asks for one more repository, such as a draft model's or an
    adapter's. The loader's cache has only those of ``uris``, and is offline. ``None`` if there is none."""
    loaded = {(repository(uri) or "").lower() for uri in uris}
    flag = ""
    for word in line.words:
        name, _, value = word.partition("=")
        if word.startswith("-"):
            flag = name
        else:
            value = word
        if flag in _MORE_FLAGS and _names_another(value, loaded):
            return flag
    found = (name for name in _MORE_VARIABLES if _names_another(line.variables.get(name, ""), loaded))
    return next(found, None)


def other_revision(line: CommandLine, uris: Collection[ModelURI]) -> str | None:
    """The flag or variable with which a container asks for another revision of the repository than the URI names,
    which the loader's cache does not have. ``None`` if there is none."""
    if any(uri.scheme == "pvc" for uri in uris):
        return None  # a user's own cache can have any revision
    name = named_repository(line, uris)
    loaded = {uri.revision or hub.DEFAULT_REVISION for uri in uris if repository(uri) == name}
    for flag in _REVISION_FLAGS:
        if line.flag(flag) not in (None, *loaded):
            return flag
    return None if line.variables.get(_REVISION_VARIABLE) in (None, "", *loaded) else _REVISION_VARIABLE


def _names_another(text: str, loaded: Collection[str]) -> bool:
    """``text``: repositories with commas between them, each with or without ``NAME=`` before it."""
    named = (part.rpartition("=")[2] for part in text[:_LONGEST].split(","))
    return any(_REPOSITORY.fullmatch(each) and each.lower() not in loaded for each in named)


def cache_fields(model: ModelURI, subpath: str = HUB_SUBPATH) -> JsonObject:
    """The fields of a container that reads the loader's cache at ``subpath``, or a user's own on a claim. It downloads
    nothing."""
    place = {"mountPath": HUB_MOUNT, "subPath": subpath}
    if model.scheme == "pvc":
        place = {"mountPath": f"{HUB_MOUNT}/{model.segments[-1]}", "subPath": "/".join(model.segments)}
    return {
        "env": [
            {"name": "HF_HUB_CACHE", "value": HUB_MOUNT},
            # The older name: the launchers of TGI and TEI read only this one.
            {"name": "HUGGINGFACE_HUB_CACHE", "value": HUB_MOUNT},
            {"name": "HF_HUB_OFFLINE", "value": "1"},
        ],
        "volumeMounts": [{"name": MODEL_VOLUME, **place, "readOnly": True}],
    }


def token(container: JsonObject | None) -> SecretKey | None:
    """The key of a Secret from which a container takes its token for the hub, whatever the key is called."""
    found: dict[str, SecretKey] = {}
    for variable in objects_in((container or {}).get("env")):
        key = secret_key(variable)
        if key is not None:
            found[str(variable.get("name"))] = key
    return next((found[name] for name in TOKENS if name in found), None)


def secret_key(variable: JsonObject) -> SecretKey | None:
    """The key of a Secret that a variable has as its value, if that is all that it says."""
    if variable.keys() != {"name", "valueFrom"} or object_at(variable, "valueFrom").keys() != {"secretKeyRef"}:
        return None
    reference = object_at(variable, "valueFrom", "secretKeyRef")
    name, key, optional = (value_at(reference, each) for each in ("name", "key", "optional"))
    if not reference.keys() <= {"name", "key", "optional"} or not isinstance(name, str) or not isinstance(key, str):
        return None
    return SecretKey(name, key, optional) if name and key and isinstance(optional, bool | None) else None
