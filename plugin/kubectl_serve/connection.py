"""Connects to the cluster: the one module of the plugin that makes a client of the Kubernetes API."""

import contextlib
from argparse import Namespace
from collections.abc import AsyncIterator, Callable, Mapping, Sequence

from kubectl_serve import __version__, kubeconfig
from kubectl_serve.cli.streams import Streams
from kubectl_serve.cluster import Cluster
from kubectl_serve.errors import ServeError, UsageError
from serve_core.base.json import JsonObject
from serve_kube.http_client import HttpClient
from serve_kube.paging import Page, Unread
from serve_kube.resources import Resource
from serve_kube.watch import WatchEvent

FIELD_MANAGER = "kubectl-serve-client"
_REQUEST_SECONDS = 30.0
_CONNECT_SECONDS = 10.0


@contextlib.asynccontextmanager
async def connect(args: Namespace, streams: Streams) -> AsyncIterator[Cluster]:
    """The cluster that kubectl would use with the same flags. Raises ServeError if there is none."""
    connection, namespace = await kubeconfig.connection(args, streams.environment)
    headers = [("Impersonate-Group", group) for group in args.as_groups]
    if args.as_user:
        headers.append(("Impersonate-User", args.as_user))
    elif args.as_groups:
        raise UsageError("--as-group needs --as.", "Name the user to impersonate with --as.")
    note = _once(streams.note)
    try:
        client = HttpClient(
            connection,
            user_agent=f"kubectl-serve/{__version__}",
            field_manager=FIELD_MANAGER,
            request_seconds=args.request_timeout or _REQUEST_SECONDS,
            connect_seconds=_CONNECT_SECONDS,
            headers=headers,
            warn=lambda text: note(f"Warning: {text}"),
        )
    except (OSError, ValueError) as error:
        raise ServeError(
            f"the certificates of the kubeconfig cannot be used: {error}.", "Check that its files exist and are PEM."
        ) from error
    async with client:
        yield _Connected(client, namespace, note)


def _once(note: Callable[[str], None]) -> Callable[[str], None]:
    """``note``, but each line once."""
    written: set[str] = set()

    def write(line: str) -> None:
        if line not in written:
            written.add(line)
            note(line)

    return write


class _Connected:
    """See :class:`kubectl_serve.cluster.Cluster`. Objects that cannot be read are left out, with a note for each."""

    def __init__(self, client: HttpClient, namespace: str, note: Callable[[str], None]) -> None:
        self.namespace = namespace
        self._client = client
        self._note = note
        self.version = client.version
        self.get = client.get
        self.create = client.create
        self.apply = client.apply
        self.merge = client.merge
        self.delete = client.delete
        self.logs = client.log_lines
        self.forward = client.forward

    async def list(
        self, resource: Resource, namespace: str | None, *, labels: str = "", fields: str = ""
    ) -> tuple[list[JsonObject], str]:
        objects: list[JsonObject] = []
        version = ""
        async for page in self._client.pages(resource, namespace, _selectors(labels, fields)):
            objects += self._readable(resource, page)
            version = page.version
        return objects, version

    async def pages(self, resource: Resource, namespace: str | None) -> AsyncIterator[Sequence[JsonObject]]:
        async for page in self._client.pages(resource, namespace):
            yield self._readable(resource, page)

    async def watch(
        self, resource: Resource, namespace: str | None, version: str, *, labels: str = "", fields: str = ""
    ) -> AsyncIterator[WatchEvent[JsonObject]]:
        async for event in self._client.watch(resource, namespace, _selectors(labels, fields), version):
            if isinstance(event.object, Unread):
                self._leave_out(resource, event.object)
            else:
                yield WatchEvent(event.type, event.object)

    def _readable(self, resource: Resource, page: Page) -> Sequence[JsonObject]:
        for unread in page.unread:
            self._leave_out(resource, unread)
        # Items of a list have neither kind nor version of their own.
        head = {"apiVersion": resource.api_version, "kind": resource.kind}
        return [head | item for item in page.items]

    def _leave_out(self, resource: Resource, unread: Unread) -> None:
        parts = (unread.metadata.get("namespace"), unread.metadata.get("name"))
        self._note(f"{resource.title} {'/'.join(filter(None, parts)) or 'without a name'} is left out: {unread.why}.")


def _selectors(labels: str, fields: str) -> Mapping[str, str]:
    return {key: text for key, text in (("labelSelector", labels), ("fieldSelector", fields)) if text}
