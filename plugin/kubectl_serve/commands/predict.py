"""``kubectl serve predict``: send a request to a model, also where its ingress cannot be reached directly."""

import asyncio
import contextlib
import json
import re
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass, replace
from http import HTTPStatus
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

from kubectl_serve import PROGRAM
from kubectl_serve.cli import options
from kubectl_serve.cli.streams import Streams
from kubectl_serve.cluster import Cluster, Connect
from kubectl_serve.errors import ReportedError, ServeError, UsageError
from kubectl_serve.io import documents
from kubectl_serve.predict import http, ingress, protocols, target
from kubectl_serve.predict.ingress import Way
from kubectl_serve.predict.protocols import InferenceRequest, NamesRequest
from kubectl_serve.predict.target import Interface
from kubectl_serve.status import lookup, model
from serve_core.base.constants import DEPLOYMENT_LABEL
from serve_core.base.json import JsonObject
from serve_core.knative.name_conflict import service_name
from serve_kube import errors
from serve_kube.resources import PODS

if TYPE_CHECKING:
    from aiohttp import ClientResponse

EXAMPLES = """\
  kubectl serve predict iris '[[5.1, 3.5, 1.4, 0.2]]'
  kubectl serve predict iris -f request.json
  head -1 rows.json | kubectl serve predict iris -
  kubectl serve predict llm 'Why is the sky blue?'
  kubectl serve predict llm '{"prompt": "Once upon a time", "max_tokens": 50}'"""

_COLD_START_SECONDS = 2.0
_ERROR = re.compile(r"error|exception|traceback|fatal|panic", re.IGNORECASE)
_LOG_LINES = 50
_MAX_CAUSE = 500


@dataclass(frozen=True)
class InferenceResponse:
    status: int
    text: str
    is_printed: bool = False
    """Whether it was printed while it arrived."""


@dataclass(frozen=True)
class Question:
    """What is asked, before the model's name in the server is known."""

    request: Callable[[str], InferenceRequest]
    """The request for the model of that name."""
    names: NamesRequest | None = None
    """Asks the server for the name; ``None`` if it is known."""


def configure(parser: options.Parser) -> None:
    options.name(parser)
    parser.add_argument(
        "data",
        metavar="DATA",
        nargs="?",
        help="JSON: rows of values, or a whole request as an object; text for a language model; - is standard input",
    )
    parser.add_argument("-f", "--filename", metavar="FILE", help="read the JSON from this file; - is standard input")
    parser.add_argument(
        "--protocol",
        choices=protocols.PROTOCOLS,
        help="inference protocol; default: from the annotation, the runtime or the known server",
    )
    parser.add_argument(
        "--model-name",
        metavar="NAME",
        help="name of the model in the server; default: the Deployment's, or the one that your own server lists",
    )
    parser.add_argument("--path", metavar="PATH", help="path of the request; default: from the protocol")
    parser.add_argument(
        "--ingress",
        metavar="URL",
        help=f"address of the ingress (or set {ingress.ENVIRONMENT}); default: found in the cluster",
    )
    parser.add_argument(
        "-o",
        "--output",
        choices=("json", "yaml"),
        metavar="FORMAT",
        help="json (indented) or yaml: show the whole response",
    )
    parser.switch("-v", "--verbose", help="show the connection path and the times")
    options.timeout(parser, "5m", "timeout for the response, including a cold start")
    options.namespace(parser)
    options.connection(parser)


async def run(args: Namespace, streams: Streams, connect: Connect) -> int:
    text = _data(args, streams)

    def verbose(line: str) -> None:
        if args.verbose:
            streams.note(line)

    async with lookup.open_deployment(args, streams, connect) as (cluster, namespace, deployment):
        url = target.url_of(deployment, options.again(args))
        question = _question(text, args, target.interface_of(deployment))
        request = question.request(args.model_name or args.name)
        if request.streams and args.output is not None:
            raise UsageError("-o cannot be combined with a request for a stream.", "Remove one of them.")
        override = args.ingress or streams.environment.get(ingress.ENVIRONMENT)
        start = streams.now()
        async with ingress.way_to(url, cluster, namespace, service_name(deployment), override, verbose) as way:
            verbose(f"way: {way.how} ({_milliseconds(streams, start)})")
            start = streams.now()
            answer = await _ask(args, streams, url, question, way, verbose)
            verbose(f"status {answer.status} ({_milliseconds(streams, start)})")
        if answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            cause = await _last_error(cluster, namespace, deployment)
            answer = replace(answer, text=f"{protocols.fault(answer.status, answer.text)}{cause}")
    _print(answer, request, args, streams)
    return 0


def _question(text: str, args: Namespace, interface: Interface) -> Question:
    protocol, base_path = args.protocol or interface.protocol, interface.base_path

    def request(name: str) -> InferenceRequest:
        return protocols.request(text, protocol, name, base_path, whole=args.output is not None)

    names = protocols.names_request(protocol, base_path) if interface.is_own_server else None
    is_named = args.model_name is not None or (args.path is not None and protocol != "openai")
    return Question(request, None if is_named else names)


async def _last_error(cluster: Cluster, namespace: str, deployment: JsonObject) -> str:
    """The last error in the model server's log; empty if there is none, or the user may not read it."""
    name = model.name_of(deployment)
    container = target.server_container_of(deployment)
    try:
        pods, _ = await cluster.list(PODS, namespace, labels=f"{DEPLOYMENT_LABEL}={name}")
        newest = model.newest_pods(pods)[:1]
        tails = [cluster.logs(namespace, model.name_of(pod), container, tail=_LOG_LINES) for pod in newest]
        lines = [line.strip() for tail in tails async for line in tail]
    except errors.ApiError:
        return ""
    faults = [line for line in lines if _ERROR.search(line)]
    return f"\nIts log says: {faults[-1][:_MAX_CAUSE]}" if faults else ""


def _milliseconds(streams: Streams, start: float) -> str:
    return f"{(streams.now() - start) * 1000:.0f} ms"


def _data(args: Namespace, streams: Streams) -> str:
    if args.data is not None and args.filename is not None:
        raise UsageError("DATA and -f cannot be combined.", "Use only one of them.")
    source = args.filename or ("-" if args.data in (None, "-") else None)
    if source is None and str(args.data).endswith((".json", ".yaml", ".txt", ".csv")):
        raise UsageError(f'"{args.data}" is a file, and -f is missing.', f"Write -f {quote(args.data)}.")
    if source is None:
        return str(args.data)
    if source != "-":
        try:
            return Path(source).read_text(encoding="utf-8")
        except OSError as error:
            raise documents.unreadable(Path(source), error) from error
        except UnicodeDecodeError as error:
            raise ServeError(f"{source} is not text in UTF-8.", "Is this the right file?") from error
    if args.data is None and args.filename is None and streams.stdin.isatty():
        raise UsageError("there is no data.", f"{PROGRAM} predict {args.name} '[[5.1, 3.5, 1.4, 0.2]]'")
    return streams.stdin.read()


async def _ask(
    args: Namespace, streams: Streams, url: str, question: Question, way: Way, verbose: Callable[[str], None]
) -> InferenceResponse:
    note = asyncio.create_task(_note_cold_start(args.name, streams))
    name = args.model_name or args.name
    request = question.request(name)

    async def receive(response: "ClientResponse") -> InferenceResponse:
        note.cancel()
        if request.streams and response.status == 200 and response.content_type == "text/event-stream":
            return await _print_stream(response, args.name, streams)
        return InferenceResponse(response.status, (await response.read()).decode(errors="replace"))

    try:
        async with asyncio.timeout(args.timeout):
            if question.names is not None and request.body.get("model", name) == name:
                listed = await http.metadata(url, question.names.path, way, question.names.body)
                request = question.request(protocols.name_in(listed, name))
            path = args.path or request.path
            if request.shape is not None and args.path is None:
                metadata = await http.metadata(url, request.metadata_path, way)
                protocols.check_shape(request.shape, metadata)
                request = replace(request, body=protocols.as_named(request.body, metadata))
            verbose(f"POST {url}/{path.lstrip('/')}")
            return await http.exchange(url, path, request.body, way, receive)
    except TimeoutError as error:
        raise ServeError(
            f"{args.name} did not answer within {args.timeout:.0f} s.",
            f"--timeout sets a longer wait. `{PROGRAM} describe {args.name}{options.again(args)}` shows its progress.",
        ) from error
    finally:
        note.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await note


async def _note_cold_start(name: str, streams: Streams) -> None:
    await asyncio.sleep(_COLD_START_SECONDS)
    streams.note(f"{name} is starting from zero or busy; waiting for its response.")


async def _print_stream(response: "ClientResponse", name: str, streams: Streams) -> InferenceResponse:
    """Print a streamed answer while it arrives. Raises ServeError if it ends with an error, or is incomplete."""
    from aiohttp.http_exceptions import LineTooLong

    finish, end = None, "\n"
    try:
        async for line in response.content:
            piece = protocols.piece(line.decode(errors="replace").rstrip("\r\n"))
            if piece.text:
                end = piece.text[-1]
                streams.stdout.data(piece.text)
                streams.stdout.flush()
            finish = piece.finish or finish
            if piece.fault is not None:
                raise ServeError(
                    f"the model aborted its response: {piece.fault}", f"`{PROGRAM} logs {name}` shows more."
                )
            if piece.last:
                break
        else:
            if finish is None:
                raise ServeError("the response ended early.", "Try again; -v shows the connection path.")
    except LineTooLong as error:
        raise ServeError(
            "the response is not an event stream: a line does not end.", "--path sets another path."
        ) from error
    finally:
        streams.stdout.write("" if end == "\n" else "\n")
    if finish == "length":
        streams.note(f"{name} stopped at its limit of tokens; a whole request can set max_tokens.")
    return InferenceResponse(response.status, "", is_printed=True)


def _print(answer: InferenceResponse, request: InferenceRequest, args: Namespace, streams: Streams) -> None:
    if not 200 <= answer.status < 300:
        streams.error(
            f"the model responds with status {answer.status}: {protocols.fault(answer.status, answer.text)}",
            protocols.hint(answer.status, f"{args.name}{options.again(args)}", request),
        )
        raise ReportedError
    if answer.is_printed:
        return
    try:
        document = json.loads(answer.text)
    except ValueError:
        streams.stdout.data(answer.text.rstrip("\n") + "\n")
        return
    if args.output in ("json", "yaml"):
        streams.stdout.write(documents.dump(document, args.output))
    elif request.is_text and (text := protocols.answer_text(document)) is not None:
        streams.stdout.data(text + "\n")  # from a server that does not stream
    else:
        streams.stdout.write(documents.to_json(document, indent=None))
