"""``kubectl serve convert``: KServe's InferenceServices to annotated Deployments, offline."""

from argparse import Namespace
from typing import NamedTuple

from kubectl_serve.cli import options
from kubectl_serve.cli.streams import Streams
from kubectl_serve.install import manifests
from kubectl_serve.io import documents
from kubectl_serve.kserve.accounting import Note
from kubectl_serve.kserve.convert import convert
from kubectl_serve.kserve.converted import Converted
from kubectl_serve.kserve.names import GROUP
from serve_core.base.json import JsonObject

EXAMPLES = """\
  kubectl serve convert -f iris.yaml
  kubectl get inferenceservices -o yaml | kubectl serve convert -f - > deployments.yaml
  kubectl serve convert -f iris.yaml -o json | jq .notes"""


def configure(parser: options.Parser) -> None:
    options.files(parser)
    options.output(parser, "yaml", "json")


def run(args: Namespace, streams: Streams) -> int:
    found = [document.object for document in documents.from_arguments(args, streams)]
    kserves = [each for each in found if str(each.get("apiVersion")).startswith(f"{GROUP}/")]
    context = manifests.default_context()
    results = [(_title(each), convert(each, context)) for each in kserves]
    notes = [_ObjectNote(title, note.path, note.sentence) for title, result in results for note in _notes(result)]
    for note in notes:
        streams.note(f"{note.object}: {note.path}: {note.message}")
    if len(kserves) < len(found):
        streams.note(f"{len(found) - len(kserves)} of {len(found)} objects are not KServe's and are skipped")
    deployments = [result.deployment for _, result in results if result.deployment is not None]
    if args.output == "json":
        document = {**documents.as_list(deployments), "notes": [note._asdict() for note in notes]}
        streams.stdout.write(documents.to_json(document))
    elif deployments:
        streams.stdout.write(documents.to_yaml(deployments))
    return 1 if any(result.deployment is None or result.problems for _, result in results) else 0


class _ObjectNote(NamedTuple):
    object: str
    path: str
    message: str


def _notes(result: Converted) -> list[Note]:
    refusals = [Note(each.path, f"refused: {each.message} {each.hint}".rstrip()) for each in result.problems]
    return [*result.notes, *refusals]


def _title(manifest: JsonObject) -> str:
    metadata = manifest.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    return f"{str(manifest.get('kind')).lower()}/{name or '<unknown>'}"
