"""``kubectl serve diff``: what an apply would change in the Knative Service, as ``kubectl diff`` shows it."""

import asyncio
import difflib
import re
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from kubectl_serve.cli import options
from kubectl_serve.cli.streams import Output, Streams
from kubectl_serve.cli.verbs import BY_NAME
from kubectl_serve.cluster import Connect, namespace_of
from kubectl_serve.diff.changes import Change, Preview, ServerSide
from kubectl_serve.errors import ServeError, UsageError, for_user
from kubectl_serve.io import documents
from kubectl_serve.io.documents import Document
from serve_core.base.json import value_at
from serve_kube import errors
from serve_kube.errors import ApiError

EXAMPLES = """\
  kubectl serve diff -f iris.yaml
  kubectl serve diff -R -f models/ -n team-a
  KUBECTL_EXTERNAL_DIFF="colordiff -u -N" kubectl serve diff -f iris.yaml

exit codes: 0 without a difference, 1 with one, 2 when something is refused or fails"""

EXTERNAL = "KUBECTL_EXTERNAL_DIFF"
"""kubectl's variable for another program that shows differences."""

_FAILED = BY_NAME["diff"].failed


def configure(parser: options.Parser) -> None:
    options.files(parser)
    parser.switch("--server-side", help="simulate `kubectl apply --server-side`")
    parser.switch("--force-conflicts", help="with --server-side: take ownership of the fields of other managers")
    parser.add_argument(
        "--field-manager",
        metavar="NAME",
        default="kubectl",
        help="with --server-side: name of the field manager (default kubectl)",
    )
    options.namespace(parser)
    options.connection(parser)


def prepare(args: Namespace, streams: Streams, _: Connect) -> None:
    """Read the files, or wait for standard input."""
    if args.force_conflicts and not args.server_side:
        raise UsageError("--force-conflicts requires --server-side.", "Add --server-side.")
    args.documents = documents.from_arguments(args, streams)


async def run(args: Namespace, streams: Streams, connect: Connect) -> int:
    changes: list[Change] = []
    passed_over: list[Document] = []
    failed = 0
    async with connect(args, streams) as cluster:
        server_side = ServerSide(args.field_manager, args.force_conflicts) if args.server_side else None
        files = [documents.in_namespace(each.object, namespace_of(args, cluster)) for each in args.documents]
        preview = Preview(cluster, server_side, lambda sentence: streams.note(f"Warning: {sentence}"), files)
        for document in args.documents:
            try:
                found = await _changes(document, preview, namespace_of(args, cluster))
            except errors.UnreachableError:
                raise
            except (ServeError, ApiError) as error:
                failed += 1
                _report(document, error, streams)
                continue
            if found is None:
                passed_over.append(document)
            changes += found or []
    documents.report_ignored(passed_over, streams)
    differ = await _show(changes, streams)
    return _FAILED if failed else int(differ)


async def _changes(document: Document, preview: Preview, namespace: str) -> list[Change] | None:
    manifest = document.object
    if manifest.get("kind") != "Deployment":
        return None
    name = value_at(manifest, "metadata", "name")
    if not isinstance(name, str) or not name:
        raise ServeError("the object has no name.", "Set metadata.name.")
    namespace = str(value_at(manifest, "metadata", "namespace") or namespace)
    return await preview.changes(manifest | {"metadata": manifest["metadata"] | {"namespace": namespace}})


def _report(document: Document, error: ServeError | ApiError, streams: Streams) -> None:
    title = documents.title(document)
    if isinstance(error, errors.DeniedError):
        streams.error(f"{title} is refused:")
        streams.note(error.denial)
    else:
        shown = for_user(error)
        streams.error(f"{title}: {shown.sentence}", shown.hint)


async def _show(changes: Sequence[Change], streams: Streams) -> bool:
    """Print the differences; returns whether there are any."""
    texts = {change.title: change.texts for change in changes}
    program = streams.environment.get(EXTERNAL)
    if program and texts:
        return await _show_by(program, texts, streams)
    differ = {title: both for title, both in texts.items() if both[0] != both[1]}
    for title, (live, merged) in differ.items():
        names = f"LIVE/{title}", f"MERGED/{title}"
        streams.out(f"diff -u -N {names[0]} {names[1]}")
        for line in difflib.unified_diff(live.splitlines(), merged.splitlines(), *names, lineterm=""):
            streams.out(line)
    return bool(differ)


async def _show_by(command: str, texts: dict[str, tuple[str, str]], streams: Streams) -> bool:
    """Run the user's program on two folders, with the arguments that kubectl would pass.

    Source: kubectl 1.35, ``pkg/cmd/diff/diff.go``: no shell; arguments with other characters are dropped.
    """
    program, *words = command.split(" ")
    arguments = [word for word in words if re.fullmatch(r"[a-zA-Z0-9=-]+", word)]
    streams.stdout.flush()
    with TemporaryDirectory(prefix="LIVE-") as live, TemporaryDirectory(prefix="MERGED-") as merged:
        try:
            _write(texts, Path(live), Path(merged))
            process = await asyncio.create_subprocess_exec(
                program, live, merged, *arguments, stdout=_handed_on(streams.stdout), stderr=_handed_on(streams.stderr)
            )
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or error
            raise ServeError(
                f'the program "{program}" of {EXTERNAL} cannot compare: {why}.', "Correct the variable, or unset it."
            ) from error
        out, err = await process.communicate()
    streams.stdout.write((out or b"").decode(errors="replace"))
    streams.stderr.write((err or b"").decode(errors="replace"))
    if process.returncode not in (0, 1):
        raise ServeError(
            f'the program "{program}" of {EXTERNAL} failed with exit code {process.returncode}.',
            "It must exit with 0 if there is no difference, and with 1 if there is one.",
        )
    return process.returncode == 1


def _write(texts: dict[str, tuple[str, str]], live: Path, merged: Path) -> None:
    for title, both in texts.items():
        for folder, text in zip((live, merged), both, strict=True):
            if text:
                (folder / title).write_text(text, encoding="utf-8")


def _handed_on(stream: Output) -> int:
    """The stream's file descriptor, so that the program sees a terminal; a pipe if it has none."""
    try:
        return stream.fileno()
    except OSError:
        return asyncio.subprocess.PIPE
