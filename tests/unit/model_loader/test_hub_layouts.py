"""Which files of a repository are copies of its weights. Each repository is laid out like well-known ones."""

import pytest

from model_loader.sources import hub_layouts

SMALL = ("README.md", ".gitattributes", "config.json", "tokenizer.json", "generation_config.json", "modeling_own.py")


@pytest.mark.parametrize(
    ("kept", "copies"),
    [
        pytest.param(
            ("model.safetensors",),
            (
                "pytorch_model.bin",
                "tf_model.h5",
                "flax_model.msgpack",
                "rust_model.ot",
                "64.tflite",
                "onnx/decoder_model.onnx",
            ),
            id="one of the first language models",
        ),
        pytest.param(
            (
                "model-00001-of-00002.safetensors",
                "model-00002-of-00002.safetensors",
                "model.safetensors.index.json",
                "original/params.json",
                "original/tokenizer.model",
            ),
            ("original/consolidated.00.pth",),
            id="weights in the format of those who trained it",
        ),
        pytest.param(
            (
                "model-00001-of-00002.safetensors",
                "model-00002-of-00002.safetensors",
                "model.safetensors.index.json",
                "pytorch_model.bin.index.json",
            ),
            ("pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"),
            id="parts in two formats",
        ),
        pytest.param(
            ("model-00001-of-000001.safetensors", "model.safetensors.index.json"),
            ("pytorch_model.bin",),
            id="a number of parts with six digits",
        ),
        pytest.param(
            (
                "model.safetensors.index.json",
                "model-00000-of-00001.safetensors",
                "model-00001-of-00001.safetensors",
                "original/config.json",
                "original/dtypes.json",
            ),
            ("original/model--00001-of-00001.safetensors", "metal/model.bin"),
            id="a copy for another machine",
        ),
        pytest.param(
            (
                "model.safetensors",
                "1_Pooling/config.json",
                "2_Dense/pytorch_model.bin",
                "2_Dense/config.json",
                "modules.json",
                "onnx/config.json",
                "openvino/openvino_model.xml",
            ),
            (
                "pytorch_model.bin",
                "onnx/model.onnx",
                "onnx/model_O4.onnx",
                "onnx/model.onnx_data",
                "openvino/openvino_model.bin",
                "openvino/openvino_model_qint8_quantized.bin",
            ),
            id="sentence embeddings",
        ),
        pytest.param(
            ("model.safetensors", "mmproj.json"), ("tiny-Q4_K_M.gguf", "gguf/tiny-F16.gguf"), id="with quantizations"
        ),
        pytest.param(
            (
                "model.safetensors",
                "optimizer.pt",
                "training_args.bin",
                "vae.pth",
                "head.bin",
                "voices/one.pt",
                "extra/model.onnx",
                "consolidated.safetensors",
            ),
            (),
            id="files with names of their own",
        ),
    ],
)
def test_weights_in_other_formats_are_copies_and_nothing_else_is(
    kept: tuple[str, ...], copies: tuple[str, ...]
) -> None:
    assert hub_layouts.copies((*SMALL, *kept, *copies)) == set(copies)


@pytest.mark.parametrize(
    "files",
    [
        pytest.param(("pytorch_model.bin", "tf_model.h5"), id="no safetensors"),
        pytest.param(("onnx/model.onnx", "onnx/model_quantized.onnx"), id="onnx only"),
        pytest.param(("adapter_model.safetensors", "adapter_model.bin", "adapter_config.json"), id="an adapter"),
        pytest.param(
            (
                "model_index.json",
                "unet/diffusion_pytorch_model.safetensors",
                "unet/diffusion_pytorch_model.bin",
                "text_encoder/model.safetensors",
                "text_encoder/pytorch_model.bin",
                "sd.safetensors",
                "model.safetensors",
            ),
            id="a pipeline of diffusers",
        ),
        pytest.param(
            ("model.safetensors.index.json", "model-00001-of-00002.safetensors", "pytorch_model.bin"),
            id="a part is missing",
        ),
        pytest.param(("model.safetensors.index.json", "pytorch_model.bin"), id="all parts are missing"),
        pytest.param(("tiny-Q4_K_M.gguf", "tiny-Q8_0.gguf"), id="quantizations only"),
        pytest.param(("text/model.safetensors", "pytorch_model.bin"), id="safetensors of a part of the model"),
    ],
)
def test_a_repository_without_whole_safetensors_stays_complete(files: tuple[str, ...]) -> None:
    assert hub_layouts.copies((*SMALL, *files)) == frozenset()


def test_the_parts_of_a_gguf_model_and_what_belongs_to_it_are_one_model() -> None:
    paths = {
        "README.md", "imatrix_data.gguf", "mmproj-F16.gguf", "tiny-Q4_K_M.gguf", "Q8_0/tiny-Q8_0-00001-of-00002.gguf",
        "Q8_0/tiny-Q8_0-00002-of-00002.gguf",
    }  # fmt: skip

    assert hub_layouts.gguf_models(paths) == ("Q8_0/tiny-Q8_0-00001-of-00002.gguf", "tiny-Q4_K_M.gguf")
    parts = {"Q8_0/tiny-Q8_0-00001-of-00002.gguf", "Q8_0/tiny-Q8_0-00002-of-00002.gguf"}
    assert hub_layouts.parts_of("Q8_0/tiny-Q8_0-00001-of-00002.gguf", paths) == parts
    assert hub_layouts.parts_of("tiny-Q4_K_M.gguf", paths) == {"tiny-Q4_K_M.gguf"}
