"""An Istio installation as raw objects, from the values of a real one."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from serve_core.base.json import JsonObject
from serve_core.context.istio import IstioInstallation, detect

VALUES = Path(__file__).parent / "istio"


def named(name: str, labels: Mapping[str, str] | None = None, **rest: object) -> JsonObject:
    return {"metadata": {"name": name, "labels": dict(labels or {})}, **rest}


def control_plane(
    *,
    version: str = "1.29.2",
    revision: str = "",
    cni: bool = False,
    mesh: Mapping[str, Any] | None = None,
    values: Mapping[str, Any] | None = None,
    tags: tuple[str, ...] = (),
    readable: bool = True,
) -> dict[str, list[JsonObject]]:
    """The objects of one revision. ``values`` has dotted paths into the injector's values."""
    document = json.loads((VALUES / f"values.{'cni' if cni else 'istio-init'}.json").read_text())
    for path, value in {"global.tag": version, "revision": revision, **(values or {})}.items():
        *steps, last = path.split(".")
        node = document
        for step in steps:
            node = node.setdefault(step, {})
        node[last] = value
    labels = {"istio.io/rev": revision or "default", "app": "sidecar-injector"}
    suffix = f"-{revision}" if revision else ""
    injectors = [named(f"istio-sidecar-injector{suffix}", labels)]
    injectors += [named(f"istio-revision-tag-{tag}", {**labels, "istio.io/tag": tag}) for tag in tags]
    config_maps = [
        named(f"istio-sidecar-injector{suffix}", labels, data={"config": "", "values": json.dumps(document)}),
        named(f"istio{suffix}", labels, data={"mesh": yaml.safe_dump(dict(mesh or {})), "meshNetworks": ""}),
    ]
    return {"injectors": injectors, "config_maps": config_maps if readable else []}


def installation(
    *planes: dict[str, list[JsonObject]],
    kubelets: tuple[str, ...] | list[str] = ("v1.33.2",),
    namespaces: Mapping[str, Mapping[str, str]] | None = None,
    ambient: bool = False,
    service_entries: list[JsonObject] | None = None,
    **plane: Any,
) -> IstioInstallation:
    """A cluster with these control planes, or with the one of ``plane``."""
    planes = planes or (control_plane(**plane),)
    found = detect(
        injectors=[injector for one in planes for injector in one["injectors"]],
        config_maps=[config_map for one in planes for config_map in one["config_maps"]],
        nodes=[named(f"node-{kubelet}", status={"nodeInfo": {"kubeletVersion": kubelet}}) for kubelet in kubelets],
        namespaces=[named(name, labels) for name, labels in (namespaces or {}).items()],
        daemon_sets=[named("ztunnel")] if ambient else [],
        service_entries=service_entries or [],
    )
    assert found is not None
    return found
