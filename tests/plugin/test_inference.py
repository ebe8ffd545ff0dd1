"""What is sent to a model for what a user wrote."""

from typing import Any

import pytest

from kubectl_serve import inference
from kubectl_serve.errors import ServeError


def test_rows_become_a_tensor_of_the_open_inference_protocol() -> None:
    assert inference.body("[[5.1, 3.5], [6, 2]]", "v2") == {
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
    tensor = inference.body(text, "v2")["inputs"][0]
    assert (tensor["datatype"], tensor["shape"]) == (datatype, shape)


def test_rows_become_instances_of_the_v1_protocol() -> None:
    assert inference.body("[[1, 2]]", "v1") == {"instances": [[1, 2]]}


@pytest.mark.parametrize("protocol", inference.PROTOCOLS)
def test_an_object_is_sent_as_it_is(protocol: str) -> None:
    assert inference.body('{"inputs": []}', protocol) == {"inputs": []}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[[1, 2], [3]]", "the rows of the data differ in length."),
        ("[[1, [2]]]", "the rows of the data differ in length."),
        ("[[1, 2], 3]", "the rows of the data differ in length."),
        ('[[1, "a"]]', "the data mixes BYTES and INT64."),
        ("[[null]]", "the data holds null, which is no value of a tensor."),
        ("[[]]", "the data has no values."),
        ("[]", "the data is neither a JSON array with rows nor a JSON object."),
        ("3", "the data is neither a JSON array with rows nor a JSON object."),
        ("[[1, 2]", "the data is not JSON (line 1, column 8)."),
        ("[" * 100_000, "the data is not JSON."),
    ],
)
def test_data_that_is_no_tensor_is_refused(text: str, sentence: str) -> None:
    with pytest.raises(ServeError) as refused:
        inference.body(text, "v2")
    assert refused.value.sentence == sentence
    assert refused.value.hint


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ('{"error": "Model iris not found"}', "Model iris not found"),
        ('{"detail": "wrong shape"}', "wrong shape"),
        ("upstream is gone\n", "upstream is gone"),
        ("", "an empty answer with status 503"),
        ("[1]", "[1]"),
    ],
)
def test_a_fault_is_told_in_the_servers_words(answer: Any, said: str) -> None:
    assert inference.fault(503, answer) == said
