"""KServe's names of model formats as kubectl-serve has them. Pure."""

import re

_SAME = {"vllm": "huggingface", "openvino_ir": "openvino"}
"""vLLM reads the layout of the Hugging Face Hub; OpenShift AI calls OpenVINO's format after its files."""


def converted(name: str, version: str | None = None) -> tuple[str, str | None]:
    """The format's name and version here. A format under another name has no version: the two count differently."""
    lowered = name.lower()
    if lowered in _SAME:
        return _SAME[lowered], None
    return re.sub(r"[^a-z0-9-]+", "-", lowered).strip("-"), version
