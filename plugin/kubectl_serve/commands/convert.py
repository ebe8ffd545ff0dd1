"""``kubectl serve convert``: KServe's InferenceServices, LLMInferenceServices and ServingRuntimes, offline."""

from argparse import Namespace
from typing import NamedTuple

from kubectl_serve.cli import options
from kubectl_serve.cli.streams import Streams
from kubectl_serve.install import manifests
from kubectl_serve.io import documents
from kubectl_serve.kserve import convert
from kubectl_serve.kserve.base.accounting import Note
from kubectl_serve.kserve.base.converted import Converted
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
    kserves = list(convert.objects_of(found))
    converted = convert.convert_all(kserves, manifests.with_knative(manifests.default_context(), found), found)
    results = [(_title(each), result) for each, result in zip(kserves, converted, strict=True)]
    notes = [_ObjectNote(title, note.path, note.sentence) for title, result in results for note in _notes(result)]
    for note in notes:
        streams.note(f"{note.object}: {note.path}: {note.message}")
    skipped = sum(not list(convert.objects_of([each])) for each in found)
    if skipped:
        streams.note(f"{skipped} of {len(found)} objects are not KServe's and are skipped")
    # What Deployments need comes first.
    made = [each for result in converted for each in result.others]
    made += [result.deployment for result in converted if result.deployment is not None]
    if args.output == "json":
        document = {**documents.as_list(made), "notes": [note._asdict() for note in notes]}
        streams.stdout.write(documents.to_json(document))
    elif made:
        streams.stdout.write(documents.to_yaml(made))
    return 1 if any(result.is_refused for result in converted) else 0


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
