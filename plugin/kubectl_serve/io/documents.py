"""YAML and JSON documents in and out, as kubectl reads and writes them."""

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

import yaml

from kubectl_serve.cli.streams import Streams
from kubectl_serve.errors import ServeError, UsageError
from serve_core.api.annotations import MODEL
from serve_core.base.escaping import in_json, in_yaml, is_visible
from serve_core.base.json import JsonObject, value_at
from serve_core.base.reasons import meant
from serve_core.base.yaml import check_aliases

if TYPE_CHECKING:
    from argparse import Namespace

_SUFFIXES = (".yaml", ".yml", ".json")
_LONGEST_FILE = 32 * 1024 * 1024
"""Bytes. The API server accepts objects of at most 3 MiB."""


@dataclass(frozen=True)
class Document:
    source: str
    """Its file, for messages."""
    object: JsonObject


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Kubernetes' YAML: no dates, and no duplicate keys, of which Python would silently keep the last."""

    yaml_implicit_resolvers = {  # noqa: RUF012  # as in the base class
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if key.tag != "tag:yaml.org,2002:merge" and isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(None, None, f'"{key.value}" occurs twice', key.start_mark)
                seen.add(key.value)
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping


class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
    """Readable YAML: texts of several lines as blocks, and no anchors."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def _represent_text(dumper: Any, text: str) -> Any:
    style = '"' if not is_visible(text) else "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)


def title(document: Document) -> str:
    """A Deployment and its file, for messages."""
    metadata = document.object.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    return f"deployment.apps/{name or '<unknown>'} in {document.source}"


def in_namespace(manifest: JsonObject, namespace: str | None) -> JsonObject:
    """The object with this namespace, if it names none itself."""
    metadata = manifest.get("metadata")
    if namespace is None or not isinstance(metadata, dict) or "namespace" in metadata:
        return manifest
    return manifest | {"metadata": metadata | {"namespace": namespace}}


def from_arguments(args: "Namespace", streams: Streams) -> list[Document]:
    """All objects of ``-f`` and ``-R``. Raises ServeError."""
    if not args.filename:
        raise UsageError("-f is missing.", "Name a file, a directory, or - for standard input.")
    found = read(args.filename, streams, recursive=args.recursive)
    if not found:
        raise ServeError(f"there is no object in {', '.join(args.filename)}.", "Is it the right file?")
    return found


def report_ignored(passed_over: list[Document], streams: Streams) -> None:
    """Report how many objects have no model, and which of them have the annotation in a place where it has no
    effect."""
    for document in passed_over:
        thing = document.object
        places = ("metadata",), ("spec", "template", "metadata")
        if any(value_at(thing, *place, "annotations", MODEL) is not None for place in places):
            name = f"{str(thing.get('kind')).lower()}/{value_at(thing, 'metadata', 'name') or '<unknown>'}"
            streams.note(
                f"Warning: {name} in {document.source}: {MODEL} has no effect there. "
                "Move it to metadata.annotations of a Deployment."
            )
    if passed_over:
        count = len(passed_over)
        streams.note(f"{count} {'object' if count == 1 else 'objects'} without a model skipped")


def read(paths: Iterable[str], streams: Streams, *, recursive: bool = False) -> list[Document]:
    """All objects of the files, directories or standard input (``-``), and the items of lists.

    Raises ServeError, with the line where there is one.
    """
    return [document for path in paths for document in _read(path, streams, recursive)]


def _read(path: str, streams: Streams, recursive: bool) -> Iterator[Document]:
    if path == "-":
        yield from parse(streams.stdin.read(), "standard input")
        return
    if re.match(r"https?://", path):
        raise ServeError(
            f"{path} is a URL, and this command downloads nothing.", f"Pipe it in: `curl -fsS {quote(path)} | … -f -`"
        )
    folder = Path(path)
    if not folder.is_dir():
        yield from parse(_text(folder), path)
        return
    files = sorted(file for file in (folder.rglob("*") if recursive else folder.glob("*")) if file.suffix in _SUFFIXES)
    if not files:
        raise ServeError(f"{path} contains no .yaml, .yml or .json file.", "-R also reads its subdirectories.")
    for file in files:
        yield from parse(_text(file), str(file))


def unreadable(file: Path, error: OSError) -> ServeError:
    """The error for a file that cannot be read, with similar names in its folder."""
    hint = "Check what it is, and its permissions; - is standard input."
    if isinstance(error, FileNotFoundError):
        try:
            beside = [str(file.with_name(each)) for each in os.listdir(file.parent)]
        except OSError:
            beside = []
        hint = f"{meant(str(file), beside)}Check the path; - is standard input."
    return ServeError(f"{file} cannot be read: {error.strerror}.", hint)


def _text(file: Path) -> str:
    try:
        if file.stat().st_size > _LONGEST_FILE:
            raise ServeError(f"{file} is larger than {_LONGEST_FILE // 2**20} MiB.", "Is this the right file?")
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise unreadable(file, error) from error
    except UnicodeDecodeError as error:
        raise ServeError(f"{file} is not text in UTF-8.", "Is this the right file?") from error


def parse(text: str, source: str) -> Iterator[Document]:
    """The objects in a text of YAML or JSON. Raises ServeError."""
    try:
        check_aliases(text)
        documents = list(yaml.load_all(text, _Loader))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f", line {mark.line + 1}" if mark else ""
        raise ServeError(f"{source}{where}: {error.problem or error.context}.", "It must be YAML or JSON.") from error
    except (yaml.YAMLError, ValueError, RecursionError, TypeError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error).rstrip(".")
        raise ServeError(f"{source}: {reason}.", "It must be YAML or JSON.") from error
    for number, document in enumerate(documents, 1):
        if document is None:
            continue
        if not isinstance(document, dict):
            raise ServeError(f"{source}: document {number} is not an object.", "Kubernetes objects are YAML mappings.")
        items = document.get("items")
        if str(document.get("kind", "")).endswith("List") and isinstance(items, list):
            yield from (Document(source, item) for item in items if isinstance(item, dict))
        else:
            yield Document(source, document)


def to_yaml(objects: Iterable[object]) -> str:
    """Objects as YAML documents; Kubernetes objects with their keys in the usual order."""
    ordered = [_ordered(each) if isinstance(each, dict) and "kind" in each else each for each in objects]
    return in_yaml(yaml.dump_all(ordered, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1000))


_FIRST = {key: index for index, key in enumerate(
    ("apiVersion", "kind", "metadata", "name", "namespace", "labels", "annotations", "replicas", "image")
)}  # fmt: skip


def _ordered(value: Any) -> Any:
    """``value`` with identifying keys first; the order of all others stays."""
    if isinstance(value, dict):
        keys = sorted(value, key=lambda key: _FIRST.get(key, len(_FIRST)))
        return {key: _ordered(value[key]) for key in keys}
    return [_ordered(each) for each in value] if isinstance(value, list) else value


def to_json(value: object, indent: int | None = 4) -> str:
    """A JSON document with a line end; invisible characters are written as escapes."""
    import json

    return in_json(json.dumps(value, indent=indent, ensure_ascii=False)) + "\n"


def dump(document: object, output: str) -> str:
    """One document in the format of ``-o``: json or yaml."""
    return to_json(document) if output == "json" else to_yaml([document])


def as_list(objects: list[JsonObject]) -> JsonObject:
    """Several objects as one List, as in kubectl's JSON."""
    return {"apiVersion": "v1", "kind": "List", "items": objects}
