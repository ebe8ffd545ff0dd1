"""The cluster that kubectl would use: kubeconfig and context, chosen from the same files and flags."""

import os
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path

from kubectl_serve.errors import ServeError
from serve_core.base.json import JsonObject
from serve_kube.access import ConfigException, ConfigNode, Connection, KubeConfigLoader, KubeConfigMerger
from serve_kube.errors import reason

_NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


async def connection(args: Namespace, environment: Mapping[str, str]) -> tuple[Connection, str]:
    """The API server that the flags and files name, and the context's namespace. Raises ServeError if there is none."""
    try:
        chosen, namespace = await _load(args, environment)
    except ConfigException as error:
        raise ServeError(
            f"the kubeconfig cannot be used: {str(error).rstrip('.')}.", "`kubectl config view` shows it."
        ) from error
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ServeError(
            f"the kubeconfig cannot be read: {reason(error)}.", "`kubectl config view` shows it."
        ) from error
    if args.server:
        chosen.host = args.server.rstrip("/")
    if args.token:
        chosen.use_token(args.token)
    if args.insecure_skip_tls_verify:
        chosen.verify_ssl = False
    return chosen, namespace


async def _load(args: Namespace, environment: Mapping[str, str]) -> tuple[Connection, str]:
    found = _kubeconfigs(args, environment)
    if args.kubeconfig and not found:
        raise ServeError(f"there is no kubeconfig {args.kubeconfig}.", "Check the path after --kubeconfig.")
    if not found:
        if "KUBERNETES_SERVICE_HOST" in environment:
            return Connection.in_cluster(), _own_namespace()
        if args.server:
            return Connection(), "default"
        raise ServeError(
            "no cluster is configured: no kubeconfig was found.",
            "Set KUBECONFIG, or pass --kubeconfig FILE.",
        )
    merger = KubeConfigMerger(os.pathsep.join(found))
    merged = merger.config
    if merged is None:
        raise ServeError("the kubeconfig is empty.", "`kubectl config view` shows it.")
    # With several files, kubectl uses the current context of the first file that has one; the library, of the last.
    current = (each.get("current-context") for each in merger.config_files.values())
    merged.value["current-context"] = next(filter(None, current), None)
    context = _context(merged, args)
    chosen = Connection()
    await KubeConfigLoader(config_dict=merged, config_base_path=None).load_and_set(chosen)
    return chosen, str(context.get("namespace") or "default")


def contexts(args: Namespace, environment: Mapping[str, str]) -> list[str]:
    """The names of all contexts that can be chosen."""
    files = _kubeconfigs(args, environment)
    found = KubeConfigMerger(os.pathsep.join(files)).config if files else None
    return [] if found is None else [each["name"] for each in found.value.get("contexts") or []]


def _kubeconfigs(args: Namespace, environment: Mapping[str, str]) -> list[str]:
    paths = args.kubeconfig or environment.get("KUBECONFIG") or str(Path.home() / ".kube" / "config")
    files = [(path, Path(path).expanduser()) for path in paths.split(os.pathsep) if path]
    return [path for path, file in files if file.is_file() and file.stat().st_size]


def _own_namespace() -> str:
    """The namespace of this process's pod."""
    return _NAMESPACE_FILE.read_text().strip() if _NAMESPACE_FILE.exists() else "default"


def _context(merged: ConfigNode, args: Namespace) -> JsonObject:
    """Set the context of the flags as the current one of the merged kubeconfig, and return it.

    The library can choose a context, but can neither replace its cluster or user nor work without a user.
    """
    document = merged.value
    wanted = args.context or document.get("current-context")
    context: JsonObject = {}
    if wanted:
        named = merged["contexts"].get_with_name(wanted, safe=True)
        if named is None:
            known = ", ".join(sorted(str(entry["name"]) for entry in document["contexts"])) or "none"
            raise ServeError(f"the kubeconfig has no context {wanted}.", f"It has: {known}.")
        context = dict(named["context"].value)
    elif not args.cluster:
        raise ServeError(
            "the kubeconfig has no current context.", "`kubectl config use-context NAME` sets one, or pass --context."
        )
    context["cluster"] = args.cluster or context.get("cluster")
    context["user"] = args.user or context.get("user")
    for kind in ("cluster", "user"):
        if context[kind] and merged[f"{kind}s"].get_with_name(context[kind], safe=True) is None:
            if kind == "user" and not args.user:
                context["user"] = None
                continue
            raise ServeError(f"the kubeconfig has no {kind} {context[kind]}.", "`kubectl config view` shows it.")
    if not context["user"]:
        context["user"] = "kubectl-serve/anonymous"
        document["users"].append({"name": context["user"], "user": {}})
    document["contexts"].append({"name": "kubectl-serve/chosen", "context": context})
    document["current-context"] = "kubectl-serve/chosen"
    return context
