"""The CSI driver's services, and its registration with the kubelet.

Sources: https://github.com/container-storage-interface/spec/blob/master/spec.md;
https://kubernetes.io/docs/reference/node/kubelet-device-plugin-and-registration
"""

import contextlib
import os
import re
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as WaitTimeout
from pathlib import Path
from typing import Any, NamedTuple

import grpc

from model_cache import messages, mounts, request
from model_cache.models import Models
from model_cache.request import Request
from model_cache.turns import Shares
from model_loader.outcomes import OUTCOMES, Code, LoadError

NAME = "cache.kubectl-serve.dev"
_WAIT = 90.0
"""Seconds that one call waits for a download. The kubelet ends calls after two minutes, and repeats them."""
_GLANCE = 0.1
"""Seconds that a call waits if its namespace has many calls that wait."""
_WAITING, _SPARE = 96, 32
"""Maximum of calls that wait for a download, and of other calls, at once. A call that waits takes only a thread."""
_JOBS = 512
"""Maximum of mounts that are under way."""
_TARGET = re.compile(r"/pods/[0-9A-Za-z-]{1,64}/volumes/kubernetes\.io~csi/[^/]{1,253}/mount", re.ASCII)
_STATUS = {
    Code.INVALID_SOURCE: grpc.StatusCode.INVALID_ARGUMENT,
    Code.UNAUTHORIZED: grpc.StatusCode.PERMISSION_DENIED,
    Code.NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    Code.NO_SPACE: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Code.INTERNAL: grpc.StatusCode.INTERNAL,
}


class Paths(NamedTuple):
    """`kubelet`: its folder on the node, mounted at the same path."""

    kubelet: Path

    @property
    def endpoint(self) -> Path:
        """The driver's socket."""
        return self.kubelet / "plugins" / NAME / "csi.sock"

    @property
    def registration(self) -> Path:
        """The socket by which the kubelet finds the driver."""
        return self.kubelet / "plugins_registry" / f"{NAME}-reg.sock"


class _Job:
    """The mount of one volume, over all calls for it."""

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace
        self.done: Future[None] = Future()
        self.last: Mapping[str, Any] = {}
        """The latest event of the download."""
        self.cancelled = False

    def progress(self, event: Mapping[str, Any]) -> None:
        """Record an event of the download."""
        if event.get("event") in ("plan", "progress", "retry"):
            self.last = event


class Node:
    """Mounts and unmounts volumes."""

    def __init__(self, models: Models, paths: Paths, node: str) -> None:
        self._models = models
        self._paths = paths
        self._node = node
        self._lock = threading.Lock()
        self._jobs: dict[str, _Job] = {}
        self._shares = Shares(_JOBS)
        self._waits = Shares(_WAITING)

    def info(self, _: bytes, context: grpc.ServicerContext) -> bytes:
        """NodeGetInfo."""
        return messages.node_info(self._node)

    def publish(self, wanted: messages.PublishRequest, context: grpc.ServicerContext) -> None:
        """NodePublishVolume. The error has the loader's code and hint; the kubelet shows it as an event of the pod."""
        try:
            target = self._target(wanted.target)
            if wanted.block:
                raise LoadError(Code.INVALID_SOURCE, "a model is a folder, not a device")
            if mounts.is_mounted(target):
                return
            job = self._job(wanted, target)
            try:
                with self._waits.unit(job.namespace) as waits:
                    # The kubelet repeats a call that does not wait, too.
                    job.done.result(_WAIT if waits else _GLANCE)
            except WaitTimeout:
                context.abort(grpc.StatusCode.ABORTED, f"Loading: the download continues{_share(job.last)}")
        except LoadError as failure:
            context.abort(_status(failure), f"{failure.code}: {failure.message}. {failure.hint}".strip())
        except OSError as error:
            context.abort(grpc.StatusCode.INTERNAL, f"{error.strerror}: {error.filename}")

    def unpublish(self, wanted: messages.UnpublishRequest, context: grpc.ServicerContext) -> None:
        """NodeUnpublishVolume."""
        try:
            target = self._target(wanted.target)
            with self._lock:
                job = self._jobs.pop(str(target), None)
                if job is not None:
                    job.cancelled = True
                while mounts.is_mounted(target):
                    mounts.unmount(target)
                with contextlib.suppress(FileNotFoundError):
                    target.rmdir()
        except LoadError as failure:
            context.abort(_status(failure), failure.message)
        except OSError as error:
            context.abort(grpc.StatusCode.INTERNAL, f"{error.strerror}: {error.filename}")

    def _target(self, text: str) -> Path:
        """Return where the kubelet wants the volume: nothing else of the node is ever mounted on."""
        inside = text.removeprefix(str(self._paths.kubelet))
        if inside == text or not _TARGET.fullmatch(inside) or ".." in inside.split("/"):
            raise LoadError(Code.INVALID_SOURCE, f"{text[:300]!a} is not the folder of a volume of a pod")
        return Path(text)

    def _job(self, wanted: messages.PublishRequest, target: Path) -> _Job:
        """Return the mount that is under way, or begin it."""
        with self._lock:
            job = self._jobs.get(str(target))
            if job is not None and not job.done.done():
                return job
            asked = request.read(wanted.attributes, wanted.secrets)
            with contextlib.ExitStack() as share:
                if not share.enter_context(self._shares.unit(asked.namespace)):
                    raise LoadError(
                        Code.INTERRUPTED,
                        "too many other pods of the namespace wait for models on this node",
                        hint="Wait: Kubernetes tries again.",
                    )
                job = self._jobs[str(target)] = _Job(asked.namespace)
                threading.Thread(target=self._run, args=(job, asked, target, share.pop_all()), daemon=True).start()
            return job

    def _run(self, job: _Job, asked: Request, target: Path, share: contextlib.ExitStack) -> None:
        try:
            with self._models.model(asked, job.progress, lambda: not job.cancelled) as folder, self._lock:
                if not job.cancelled:
                    target.mkdir(mode=0o750, exist_ok=True)
                    mounts.bind(folder, target)
        except BaseException as error:  # noqa: BLE001  # the calls that wait raise it
            job.done.set_exception(error)
        else:
            job.done.set_result(None)
        finally:
            share.close()
            with self._lock:
                if self._jobs.get(str(target)) is job:
                    del self._jobs[str(target)]


def _status(failure: LoadError) -> grpc.StatusCode:
    unavailable = OUTCOMES[failure.code].retryable
    return _STATUS.get(
        failure.code, grpc.StatusCode.UNAVAILABLE if unavailable else grpc.StatusCode.FAILED_PRECONDITION
    )


def _share(event: Mapping[str, Any]) -> str:
    done, total = event.get("bytes"), event.get("total")
    if event.get("event") == "progress" and isinstance(done, int) and isinstance(total, int):
        return f": {done >> 20} of {total >> 20} MiB"
    return ""


class Server:
    """The gRPC servers of the driver and of its registration."""

    def __init__(
        self, node: Node, paths: Paths, version: str, registered: Callable[[messages.RegistrationStatus], None]
    ) -> None:
        """`registered` gets the kubelet's answer to the registration."""
        self._paths = paths
        self._server = _serve(
            paths.endpoint,
            {
                "csi.v1.Identity": {
                    "GetPluginInfo": _bytes(lambda: messages.plugin_info(NAME, version)),
                    "GetPluginCapabilities": _bytes(lambda: b""),
                    "Probe": _bytes(lambda: b""),
                },
                "csi.v1.Node": {
                    "NodeGetInfo": _method(node.info, messages.empty, bytes),
                    "NodeGetCapabilities": _bytes(lambda: b""),
                    "NodePublishVolume": _method(node.publish, messages.publish_request, messages.nothing),
                    "NodeUnpublishVolume": _method(node.unpublish, messages.unpublish_request, messages.nothing),
                },
            },
        )
        info = messages.registration_info(NAME, str(paths.endpoint), ["1.0.0"])

        def notify(status: messages.RegistrationStatus, _: grpc.ServicerContext) -> None:
            registered(status)

        self._registration = _serve(
            paths.registration,
            {
                "pluginregistration.Registration": {
                    "GetInfo": _bytes(lambda: info),
                    "NotifyRegistrationStatus": _method(notify, messages.registration_status, messages.nothing),
                }
            },
        )

    def stop(self) -> None:
        """Leave the kubelet, and end the calls. Downloads under way are lost, mounts stay."""
        with contextlib.suppress(FileNotFoundError):
            self._paths.registration.unlink()
        self._registration.stop(0)
        self._server.stop(2).wait()


def _serve(path: Path, services: Mapping[str, Mapping[str, grpc.RpcMethodHandler]]) -> grpc.Server:
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        path.unlink()  # of an earlier process
    server = grpc.server(ThreadPoolExecutor(_WAITING + _SPARE))
    for name, methods in services.items():
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, methods),))
    server.add_insecure_port(f"unix://{path}")
    server.start()
    os.chmod(path, 0o600)
    return server


def _method(
    handler: Callable[[Any, grpc.ServicerContext], Any], parse: Callable[[bytes], Any], write: Callable[[Any], bytes]
) -> grpc.RpcMethodHandler:
    return grpc.unary_unary_rpc_method_handler(handler, parse, write)


def _bytes(answer: Callable[[], bytes]) -> grpc.RpcMethodHandler:
    return _method(lambda _, __: answer(), messages.empty, bytes)
