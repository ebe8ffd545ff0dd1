"""The request for a user's input, by protocol."""

import json
from typing import Any

import pytest

from kubectl_serve.errors import ServeError
from kubectl_serve.predict import protocols
from kubectl_serve.predict.protocols import InferenceRequest, Piece
from serve_core.base.json import JsonObject


def asked(text: str, protocol: str) -> JsonObject:
    return protocols.request(text, protocol, "iris").body


def test_rows_become_a_tensor_of_the_open_inference_protocol() -> None:
    assert asked("[[5.1, 3.5], [6, 2]]", "v2") == {
        "inputs": [{"name": "input-0", "shape": [2, 2], "datatype": "FP64", "data": [5.1, 3.5, 6.0, 2.0]}]
    }


@pytest.mark.parametrize(
    ("text", "datatype", "shape"),
    [
        ("[[1, 2, 3]]", "INT64", [1, 3]),
        ("[1, 2, 3]", "INT64", [1, 3]),
        ("[[true]]", "BOOL", [1, 1]),
        ('[["yes", "no"]]', "BYTES", [1, 2]),
        ("[[[1.0], [2.0]]]", "FP64", [1, 2, 1]),
    ],
)
def test_type_and_shape_follow_the_values(text: str, datatype: str, shape: list[int]) -> None:
    tensor = asked(text, "v2")["inputs"][0]
    assert (tensor["datatype"], tensor["shape"]) == (datatype, shape)


@pytest.mark.parametrize(
    ("text", "datatype", "sent"),
    [
        ("[[5.1, 3.5]]", "FP32", "FP32"),
        ("[[5.1, 3.5]]", "INT32", "FP64"),
        ("[[5.1, 3.5]]", "FP16", "FP64"),
        ("[[5, 3]]", "FP32", "FP32"),
        ("[[5, 3]]", "UINT8", "UINT8"),
        ("[[5, 3]]", "BYTES", "INT64"),
        ('[["yes"]]', "FP32", "BYTES"),
        ("[[5, 3]]", ["FP32"], "INT64"),
    ],
)
def test_rows_have_the_name_and_the_numeric_type_of_a_models_only_input(text: str, datatype: Any, sent: str) -> None:
    rows = asked(text, "v2")
    metadata = {"inputs": [{"name": "pixels", "datatype": datatype}]}
    assert protocols.as_named(rows, metadata) == {"inputs": [rows["inputs"][0] | {"name": "pixels", "datatype": sent}]}


@pytest.mark.parametrize(
    "metadata", [None, {}, {"inputs": []}, {"inputs": [{}]}, {"inputs": [{"name": 7}]}, {"inputs": [{"name": "a"}] * 2}]
)
def test_rows_keep_their_name_without_the_metadata_of_one_input(metadata: Any) -> None:
    rows = asked("[[1.5]]", "v2")
    assert protocols.as_named(rows, metadata) == rows


def test_rows_become_instances_of_the_v1_protocol() -> None:
    assert asked("[[1, 2]]", "v1") == {"instances": [[1, 2]]}


@pytest.mark.parametrize("protocol", ["v1", "v2"])
def test_an_object_is_sent_as_it_is(protocol: str) -> None:
    assert asked('{"inputs": []}', protocol) == {"inputs": []}


@pytest.mark.parametrize(
    "text", ["Why is the sky blue?", "Why is the sky blue?\n", "42", '"quoted"', "[1, 2]", "{not JSON"]
)
def test_text_is_what_the_user_says_in_a_chat(text: str) -> None:
    said = {"role": "user", "content": text.rstrip("\n")}
    body = {"model": "llm", "messages": [said], "stream": True}
    assert protocols.request(text, "openai", "llm") == InferenceRequest("/v1/chat/completions", body, is_text=True)
    assert not protocols.request(text, "openai", "llm", whole=True).streams


def test_messages_are_a_whole_chat() -> None:
    messages = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Hello"}]
    assert protocols.request(json.dumps(messages), "openai", "llm").body["messages"] == messages


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"messages": []}, "/v1/chat/completions"),
        ({"prompt": "Once"}, "/v1/completions"),
        ({"input": "Once"}, "/v1/embeddings"),
        ({"prompt": "Once", "stream": True}, "/v1/completions"),
    ],
)
def test_an_object_of_openais_goes_where_it_belongs_and_needs_no_model(body: JsonObject, path: str) -> None:
    request = protocols.request(json.dumps(body), "openai", "llm")
    assert request == InferenceRequest(path, {"model": "llm"} | body)
    assert request.streams == ("stream" in body)
    named = protocols.request(json.dumps(body | {"model": "adapter"}), "openai", "llm")
    assert named.body["model"] == "adapter"


def test_no_text_is_refused() -> None:
    with pytest.raises(ServeError, match=r"the text is empty\."):
        protocols.request(" \n", "openai", "llm")


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ('data: {"choices": [{"index": 0, "delta": {"content": "Hi"}, "finish_reason": null}]}', Piece("Hi")),
        ('data:{"choices": [{"index": 0, "text": " a"}]}', Piece(" a")),
        ('data: {"choices": [{"index": 1, "delta": {"content": "another choice"}}]}', Piece()),
        ('data: {"choices": [{"delta": {}, "finish_reason": "length"}]}', Piece(finish="length")),
        ('data: {"choices": [], "usage": {"total_tokens": 3}}', Piece()),
        ('data: {"error": {"message": "out of memory", "code": 500}}', Piece(fault="out of memory")),
        ('data: {"choices": [7, {"delta": {"content": null}}]}', Piece()),
        ("data: not JSON", Piece()),
        ("data: [DONE]", Piece(last=True)),
        (": a comment", Piece()),
        ("event: ping", Piece()),
        ("", Piece()),
    ],
)
def test_a_line_of_a_stream_adds_a_piece(line: str, found: Piece) -> None:
    assert protocols.piece(line) == found


@pytest.mark.parametrize(
    ("document", "text"),
    [
        ({"choices": [{"message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}]}, "Hi"),
        ({"choices": [{"message": {"content": ""}, "finish_reason": "stop"}]}, ""),
        ({"choices": [{"text": "Hi"}]}, "Hi"),
        ({"outputs": []}, None),
        ([], None),
    ],
)
def test_a_whole_answer_has_a_text(document: Any, text: str | None) -> None:
    assert protocols.answer_text(document) == text


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[[1, 2], [3]]", "the rows of the data differ in length."),
        ("[[1, [2]]]", "the rows of the data differ in length."),
        ("[[1, 2], 3]", "the rows of the data differ in length."),
        ('[[1, "a"]]', "the data mixes BYTES and INT64."),
        ("[[null]]", "the data contains null, which cannot be a value of a tensor."),
        ("[[]]", "the data has no values."),
        (" \n", "there is no data."),
        ("[]", "the data is neither a JSON array with rows nor a JSON object."),
        ("3", "the data is neither a JSON array with rows nor a JSON object."),
        ("[[1, 2]", "the data is not JSON (line 1, column 8)."),
        ("[" * 100_000, "the data is not JSON."),
    ],
)
def test_data_that_is_no_tensor_is_refused(text: str, sentence: str) -> None:
    with pytest.raises(ServeError) as refused:
        asked(text, "v2")
    assert refused.value.sentence == sentence
    assert refused.value.hint


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ('{"error": "Model iris not found"}', "Model iris not found"),
        ('{"detail": "wrong shape"}', "wrong shape"),
        ('{"error": {"message": "no chat template", "type": "BadRequestError", "code": 400}}', "no chat template"),
        ("upstream is gone\n", "upstream is gone"),
        ("", "an empty answer with status 503"),
        ("[1]", "[1]"),
    ],
)
def test_an_error_has_the_servers_message(answer: Any, said: str) -> None:
    assert protocols.fault(503, answer) == said


@pytest.mark.parametrize(
    ("base_path", "path"), [("/v1", "/v1/embeddings"), ("", "/embeddings"), ("/a/v1", "/a/v1/embeddings")]
)
def test_openais_paths_begin_with_the_base_path(base_path: str, path: str) -> None:
    assert protocols.request('{"input": "a"}', "openai", "tei", base_path).path == path


@pytest.mark.parametrize(
    ("listed", "name"),
    [
        ({"data": [{"id": "acme/tiny"}]}, "acme/tiny"),
        ({"data": [{"id": "acme/tiny"}, {"id": "iris"}]}, "iris"),
        ({"data": [{"id": "acme/tiny", "parent": None}, {"id": "adapter", "parent": "acme/tiny"}]}, "acme/tiny"),
        ([{"name": "density", "version": "1", "state": "READY"}], "density"),
        ([{"name": "density", "state": "READY"}, {"name": "old", "state": "UNAVAILABLE"}], "density"),
        ({"data": []}, "iris"),
        ({"data": [{"id": 7}, None, "acme/tiny"]}, "iris"),
        ({"detail": "Not Found"}, "iris"),
        (None, "iris"),
    ],
)
def test_the_models_name_is_the_one_that_the_server_lists(listed: Any, name: str) -> None:
    assert protocols.name_in(listed, "iris") == name


def test_of_several_models_none_is_guessed() -> None:
    with pytest.raises(ServeError) as caught:
        protocols.name_in({"data": [{"id": "b"}, {"id": "a"}]}, "iris")
    assert str(caught.value) == "the server has several models: a, b."
    assert caught.value.hint == "Add --model-name NAME."
