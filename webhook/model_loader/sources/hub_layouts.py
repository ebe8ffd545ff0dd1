"""Repositories of a hub that have the same weights several times, or several models of which a server reads one.

Of several copies, transformers, vLLM, SGLang and TGI read `model.safetensors` or its parts, and ignore the others. Only
weights under the usual names count as copies: configurations, tokenizers and files with other names stay. Sources:
transformers, `modeling_utils.py`, `_get_resolved_checkpoint_files`; optimum, `export/onnx` and `exporters/openvino`.
"""

import re
from collections.abc import Collection

_INDEX = "model.safetensors.index.json"
_WHOLE = "model.safetensors"
_PIPELINE = "model_index.json"
"""Of diffusers: one repository has several models, each in its folder."""
_PART = re.compile(r"(?P<name>.*)-\d{5,6}-of-(?P<parts>\d{5,6})(?P<suffix>\.\w+)", re.ASCII)
_COPY = re.compile(
    # PyTorch, TensorFlow, Flax and Rust, as transformers names them; Meta's and OpenAI's own files.
    r"pytorch_model[^/]*\.bin|tf_model[^/]*\.h5|flax_model[^/]*\.msgpack|rust_model\.ot|consolidated[^/]*\.pth"
    r"|original/.*\.(pth|pt|bin|safetensors)|metal/.*\.bin"
    # Conversions for other servers.
    r"|[^/]*\.(gguf|tflite)|gguf/.*\.gguf|(onnx/.*|model[^/]*)\.onnx([._]data[^/]*)?|openvino/.*\.bin"
    r"|coreml/.*\.(bin|mlmodel)",
    re.ASCII | re.IGNORECASE,
)
_GGUF = re.compile(r".*\.gguf", re.IGNORECASE)
_BESIDE = re.compile(r"mmproj|imatrix", re.IGNORECASE)
"""GGUF files that belong to a model: a projector for images, and the data of the quantization."""


def copies(paths: Collection[str]) -> frozenset[str]:
    """Return the files of a repository with weights that its `model.safetensors` has too."""
    names = {path for path in paths if "/" not in path}
    has_all = _WHOLE in names or (_INDEX in names and _has_all_parts(names))
    if not has_all or _PIPELINE in names:
        return frozenset()
    return frozenset(path for path in paths if _COPY.fullmatch(path))


def _has_all_parts(names: Collection[str]) -> bool:
    """Return whether there is no part of which others are missing, and at least one."""
    found: dict[tuple[str, str], int] = {}
    for part in filter(None, map(_PART.fullmatch, names)):
        if part["suffix"] == ".safetensors":
            key = part["name"], part["parts"]
            found[key] = found.get(key, 0) + 1
    return bool(found) and all(count >= int(parts) for (_, parts), count in found.items())


def gguf_models(paths: Collection[str]) -> tuple[str, ...]:
    """Return the models in GGUF, such as quantizations of one: each by its file, or by the first of its parts."""
    found: dict[str, str] = {}
    for path in sorted(paths):
        if _GGUF.fullmatch(path) and not _BESIDE.search(path.rpartition("/")[2]):
            part = _PART.fullmatch(path)
            found.setdefault(part["name"] if part else path, path)
    return tuple(found.values())


def parts_of(path: str, paths: Collection[str]) -> frozenset[str]:
    """Return the files that are one GGUF model with the one at `path`, if that is a part of it; else only `path`."""
    part = _PART.fullmatch(path)
    if part is None or part["suffix"].lower() != ".gguf":
        return frozenset({path})
    key = part.group("name", "parts", "suffix")
    return frozenset(
        other for other in paths if (found := _PART.fullmatch(other)) and found.group("name", "parts", "suffix") == key
    )
