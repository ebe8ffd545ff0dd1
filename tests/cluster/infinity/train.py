"""Make a tiny BERT with random weights, and print it with the embeddings that transformers computes.

Runs in the image of this folder. The last line is JSON: ``files`` of a repository as on the Hugging Face Hub, each in
base64; ``answers`` by text.
"""

import base64
import json
import tempfile
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

WORDS = ("[PAD]", "[UNK]", "mary", "had", "a", "little", "lamb", "snow")
TEXTS = ("mary had a little lamb", "snow")


def main() -> None:
    torch.manual_seed(7)
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]")
    fast.model_max_length = 32
    config = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=64,
    )
    model = BertModel(config).eval()
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        fast.save_pretrained(folder)
        files = {path.name: base64.b64encode(path.read_bytes()).decode() for path in Path(folder).iterdir()}
    with torch.no_grad():
        answers = {text: model(**fast(text, return_tensors="pt"))[0].mean(1)[0].tolist() for text in TEXTS}
    print(json.dumps({"answers": answers, "files": files}))


if __name__ == "__main__":
    main()
