"""A container that names its model's repository finds the loaded model, with the hub's own libraries and no way out."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster import hub
from cluster.support import (
    RESTRICTED,
    Ingress,
    Json,
    Namespace,
    config_map,
    deployment,
    pod_template,
)
from serve_core.api import state

HERE = Path(__file__).parent / "hub-client"
IMAGE = "dev.local/kubectl-serve/hub-client-tests:2.4.0"
NOWHERE = "http://127.0.0.1:9"
"""Nothing listens there."""

TOKENIZER: Json = {
    "version": "1.0",
    "truncation": None,
    "padding": None,
    "added_tokens": [],
    "normalizer": None,
    "pre_tokenizer": {"type": "Whitespace"},
    "post_processor": None,
    "decoder": None,
    "model": {"type": "WordLevel", "vocab": {"[UNK]": 0, "hello": 1, "world": 2}, "unk_token": "[UNK]"},
}
FILES = {
    name: json.dumps(content).encode()
    for name, content in {
        "config.json": {"model_type": "bert", "hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1},
        "tokenizer.json": TOKENIZER,
        "tokenizer_config.json": {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "[UNK]"},
    }.items()
}


@pytest.fixture
def hub_address(empty: Namespace) -> Iterator[str]:
    """The address of a hub with the repository ``team/tiny``."""
    with hub.served(empty, "team/tiny", FILES) as address:
        yield address


def test_the_hubs_libraries_find_the_loaded_model_by_its_name(
    empty: Namespace, hub_address: str, ingress: Ingress
) -> None:
    # A file: admission reads the path in the program as one that the command line names.
    empty.apply(
        hub.secret("hub", HF_ENDPOINT=hub_address),
        config_map("program", {"serve.py": (HERE / "serve.py").read_bytes()}),
    )
    token = {"secretKeyRef": {"name": "hub-token", "key": "reader"}}
    container: Json = {
        "name": "server",
        "image": IMAGE,
        "args": ["/program/serve.py"],
        "env": [
            {"name": "MODEL_ID", "value": "team/tiny"},
            {"name": "HUGGING_FACE_HUB_TOKEN", "valueFrom": token},
            *({"name": name, "value": NOWHERE} for name in ("HF_ENDPOINT", "HTTP_PROXY", "HTTPS_PROXY")),
        ],
        "ports": [{"containerPort": 8080}],
        "readinessProbe": {"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 1},
        "resources": {"requests": {"cpu": "100m", "memory": "256Mi"}},
        "securityContext": RESTRICTED,
        "volumeMounts": [{"name": "program", "mountPath": "/program"}],
    }
    template = pod_template(container, {"app": "tiny"})
    template["template"]["spec"]["volumes"] = [{"name": "program", "configMap": {"name": "program"}}]

    empty.apply(deployment("tiny", "hf://team/tiny", template, credentials="hub"))
    served = empty.wait_ready("tiny")

    url = state.read(served).url
    assert url
    assert json.loads(ingress.request(url, "/").body) == {
        "commit": hub.COMMIT,
        "loaded": True,
        "files": sorted(FILES),
        "by commit": True,
        "missing": True,
        "writable": False,
        "hidden size": 8,
        "tokens": [1, 2],
    }
