"""The operator's settings, from mounted files, which are read again when they change."""

import asyncio
import ipaddress
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NoReturn

from cryptography import x509
from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError
from pydantic.alias_generators import to_camel
from yaml import YAMLError

from model_uri import Store
from serve_core.api import runtimes, servers
from serve_core.api.runtimes import Runtime
from serve_core.api.schema import doc
from serve_core.api.servers import KnownServer
from serve_core.base import yaml
from serve_core.base.json import field_path
from serve_core.context.cluster import PRIVATE_NETWORKS, LoaderConfig
from serve_core.policy import field_types

POLL_SECONDS = 5.0
"""Between two checks. The kubelet replaces a symbolic link up to a minute after a ConfigMap changes; there is no
event."""

logger = logging.getLogger(__name__)


class SettingsError(ValueError):
    """The files cannot be used; the message has one line for each fault."""


def _network(text: str) -> str:
    return str(ipaddress.ip_network(text))


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", alias_generator=to_camel)


class LoaderSettings(_Strict):
    image: str = doc("Image of the init container that downloads models.", min_length=1)
    signing_image: str | None = doc(
        "The same image with the libraries that verify signatures, for models with the annotation signature-key.",
        default=None,
        min_length=1,
    )
    allow_networks: tuple[Annotated[str, AfterValidator(_network)], ...] = doc(
        "Private networks that models can come from. Leave out link-local addresses: clouds have their metadata there.",
        default=PRIVATE_NETWORKS,
    )


def _authorities(text: str) -> str:
    try:
        found = x509.load_pem_x509_certificates(text.encode())
    except ValueError:
        found = []
    if not found:
        raise ValueError("it holds no certificate in PEM")
    return text


class CallerSettings(_Strict):
    """Which clients can send reviews: those with a certificate of this authority and one of these names."""

    certificate_authority: Annotated[str, AfterValidator(_authorities)] = doc(
        "Certificate authority of the client certificates, in PEM."
    )
    names: tuple[str, ...] = doc("Common names of subjects; empty: every certificate of the authority.", default=())


def _store(written: field_types.StoreAt) -> field_types.StoreAt:
    _ = written.store  # raises ValueError
    return written


class ServerSettings(_Strict):
    """The file ``settings.yaml``."""

    loader: LoaderSettings = doc("The init container that downloads models.")
    callers: CallerSettings | None = doc(
        "Clients that can request reviews. Default: every client that reaches the port. Read when a replica starts.",
        default=None,
    )
    stores: tuple[Annotated[field_types.StoreAt, AfterValidator(_store)], ...] = doc(
        "Endpoints and authorities of places, for the whole cluster, whatever a user's Secret contains.", default=()
    )
    sidecar_images: tuple[str, ...] = doc(
        "Images of containers that the platform adds to pods, such as a mesh's proxy, exactly as in the pods. Policies "
        "skip them.",
        default=(),
    )


@dataclass(frozen=True)
class Configuration:
    """The part of the cluster context that comes from files."""

    loader: LoaderConfig
    runtimes: tuple[Runtime, ...]
    sidecar_images: frozenset[str] = frozenset()
    callers: CallerSettings | None = None
    """``None``: every client that reaches the port."""
    stores: tuple[Store, ...] = ()
    servers: tuple[KnownServer, ...] = ()


def load(settings: Path, runtimes_folder: Path, servers_folder: Path | None = None) -> Configuration:
    """Read the settings file, and every ``*.yaml`` of the folders. Raises :class:`SettingsError`."""
    faults: list[str] = []
    read = _settings(settings, faults)
    found, known = [], []
    for file in _yaml_files(runtimes_folder):
        try:
            found.append(runtimes.parse(_yaml(file)))
        except ValueError as error:
            faults.append(f"{file}: {error}.")
    for file in _yaml_files(servers_folder):
        try:
            known.append(servers.parse(_yaml(file)))
        except ValueError as error:
            faults.append(f"{file}: {error}.")
    names = [runtime.name for runtime in found]
    faults += [
        f"{runtimes_folder}: two runtimes are called {name}." for name in sorted(set(names)) if names.count(name) > 1
    ]
    if faults or read is None:
        raise SettingsError("\n".join(faults))
    loader = LoaderConfig(read.loader.image, read.loader.allow_networks, read.loader.signing_image)
    stores = tuple(each.store for each in read.stores)
    return Configuration(loader, tuple(found), frozenset(read.sidecar_images), read.callers, stores, tuple(known))


def _yaml_files(folder: Path | None) -> list[Path]:
    return sorted(folder.glob("*.yaml")) if folder is not None else []


def _settings(file: Path, faults: list[str]) -> ServerSettings | None:
    try:
        return ServerSettings.model_validate(_yaml(file))
    except ValidationError as error:
        faults += [f"{file}: {field_path(*fault['loc'])}: {fault['msg']}." for fault in error.errors()]
    except ValueError as error:
        faults.append(f"{file}: {error}.")
    return None


def _yaml(file: Path) -> dict[str, Any]:
    try:
        document = yaml.load(file.read_bytes())
    except OSError as error:
        raise ValueError(error.strerror or "it cannot be read") from error
    except (YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        raise ValueError("it is not YAML" + (f" (line {mark.line + 1})" if mark else "")) from error
    if not isinstance(document, dict):
        raise ValueError("it is not a mapping")
    return document


async def follow(
    settings: Path,
    runtimes_folder: Path,
    changed: Callable[[Configuration], None],
    valid: Callable[[bool], None],
    servers_folder: Path | None = None,
) -> NoReturn:
    """Call ``changed`` when the files change. Errors are logged, and the last valid settings stay."""
    known = ""
    while True:
        await asyncio.sleep(POLL_SECONDS)
        if (present := _stamp(settings, runtimes_folder, servers_folder)) == known:
            continue
        known = present
        try:
            changed(load(settings, runtimes_folder, servers_folder))
            valid(True)
        except SettingsError as error:
            logger.error("The settings cannot be read, the last valid ones stay: %s", error)
            valid(False)


def _stamp(settings: Path, *folders: Path | None) -> str:
    """Changes when a file changes: names, inodes and modification times."""
    try:
        files = [settings, *(file for folder in folders for file in _yaml_files(folder))]
        return repr([(str(file), stat.st_ino, stat.st_mtime_ns) for file in files for stat in (file.stat(),)])
    except OSError:
        return ""
