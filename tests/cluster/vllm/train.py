"""Make a tiny Llama that knows a nursery rhyme by heart, and print it with what transformers says it answers.

Runs in the image of this folder. The last line is JSON: ``files`` of a directory as on the Hugging Face Hub, and
``model.gguf`` with the same weights, each in base64; ``answers`` by prompt.
"""

import base64
import json
import tempfile
from pathlib import Path

import numpy
import torch
from gguf import GGUFWriter, TokenType
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

RHYME = "Mary had a little lamb, its fleece was white as snow, and everywhere that Mary went the lamb was sure to go."
PROMPTS = ("Mary had", "Mary had a little lamb, its fleece")
CHAT = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
BEGIN, END = "<s>", "</s>"
LAYERS, HEADS = 2, 2


def trained_tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        [RHYME], trainers.BpeTrainer(vocab_size=300, special_tokens=[BEGIN, END], initial_alphabet=alphabet)
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=BEGIN, eos_token=END)
    fast.chat_template = CHAT
    return fast


def trained_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        max_position_embeddings=256,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    model = LlamaForCausalLM(config)
    rhyme = torch.tensor([[*tokenizer(RHYME)["input_ids"], tokenizer.eos_token_id]])
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(120):
        optimizer.zero_grad()
        model(input_ids=rhyme, labels=rhyme).loss.backward()
        optimizer.step()
    model.generation_config.update(do_sample=True, top_k=1)  # greedy, where a request says nothing of it
    return model.eval().to(torch.bfloat16)


def answer(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, prompt: str) -> str:
    asked = tokenizer(prompt, return_tensors="pt")["input_ids"]
    said = model.generate(asked, max_new_tokens=60, do_sample=False, pad_token_id=tokenizer.eos_token_id)
    return str(tokenizer.decode(said[0][asked.shape[1] :], skip_special_tokens=True))


def write_gguf(path: Path, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    """The names and the order of weights that llama.cpp's ``convert_hf_to_gguf.py`` gives a Llama."""
    writer = GGUFWriter(path, "llama")
    config = model.config
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.hidden_size // HEADS)
    writer.add_vocab_size(config.vocab_size)
    known = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(sorted(known["vocab"], key=known["vocab"].get))
    special = [TokenType.CONTROL] * 2
    writer.add_token_types([*special, *[TokenType.NORMAL] * (config.vocab_size - len(special))])
    writer.add_token_merges([" ".join(pair) if isinstance(pair, list) else pair for pair in known["merges"]])
    writer.add_bos_token_id(config.bos_token_id)
    writer.add_eos_token_id(config.eos_token_id)
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHAT)
    weights = {name: tensor.float().numpy() for name, tensor in model.state_dict().items()}
    names = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    parts = {
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
    }
    names |= {f"model.layers.{n}.{ours}": f"blk.{n}.{its}" for n in range(LAYERS) for ours, its in parts.items()}
    for name, its in names.items():
        weight = weights[f"{name}.weight"]
        writer.add_tensor(f"{its}.weight", interleaved(weight) if its.endswith(("attn_q", "attn_k")) else weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def interleaved(weight: NDArray[numpy.float32]) -> NDArray[numpy.float32]:
    """llama.cpp turns neighbouring rows of a head, transformers those of its two halves."""
    halves = weight.reshape(HEADS, 2, weight.shape[0] // HEADS // 2, weight.shape[1])
    return numpy.ascontiguousarray(halves.swapaxes(1, 2).reshape(weight.shape))


def main() -> None:
    tokenizer = trained_tokenizer()
    model = trained_model(tokenizer)
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        model.save_pretrained(directory)
        tokenizer.save_pretrained(directory)
        write_gguf(directory / "model.gguf", model, tokenizer)
        files = {path.name: base64.b64encode(path.read_bytes()).decode() for path in directory.iterdir()}
    print(json.dumps({"answers": {prompt: answer(model, tokenizer, prompt) for prompt in PROMPTS}, "files": files}))


if __name__ == "__main__":
    main()
