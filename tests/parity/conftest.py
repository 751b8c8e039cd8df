"""The golden checkpoints as folders that `--model` takes: with tokenizers of as many words as they need."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

GOLDEN = Path(__file__).parent / "golden"
# family -> (folder, words of its tokenizer, special tokens and where they begin)
TOKENIZERS = {
    "dit": ("mdlm_tiny", 100, ["<|endoftext|>"], 99),
    "sedd": ("sedd_tiny", 60, ["<|endoftext|>"], 59),
    "llada": ("llada_tiny", 63, ["<|endoftext|>", "<|eot|>"], 60),
    "dream": ("dream_tiny", 63, ["<|endoftext|>", "<|im_end|>"], 60),
    "ssdlm": ("ssdlm_tiny", 97, ["<s>", "<pad>", "</s>", "<unk>"], 0),
}


def words(size: int, special: list[str], at: int) -> Tokenizer:
    """Words "w0" "w1" ..., with special tokens from id `at` on."""
    vocabulary = {f"w{index}": index for index in range(size)}
    for index, token in enumerate(special, at):
        del vocabulary[f"w{index}"]
        vocabulary[token] = index
    tokenizer = Tokenizer(models.WordLevel(vocabulary))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(special)
    return tokenizer


def masked_lm(folder: Path) -> None:
    """A small random BERT."""
    import torch
    import transformers

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    model = transformers.BertForMaskedLM(
        transformers.BertConfig(vocab_size=50, max_position_embeddings=24, initializer_range=0.5, **sizes)
    )
    model.save_pretrained(folder)
    words(50, ["[PAD]", "[CLS]", "[SEP]", "[MASK]"], 0).save(str(folder / "tokenizer.json"))


@pytest.fixture
def checkpoint(tmp_path: Path) -> Callable[[str], Path]:
    """The folder of a family's tiny model, to break as one likes."""

    def make(family: str) -> Path:
        place = tmp_path / family
        if family == "mlm":
            masked_lm(place)
            return place
        name, size, special, at = TOKENIZERS[family]
        shutil.copytree(GOLDEN / name, place)
        words(size, special, at).save(str(place / "tokenizer.json"))
        if family in ("llada", "dream"):
            (place / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|endoftext|>"}))
        if family == "ssdlm":
            config = json.loads((place / "config.json").read_text())
            (place / "config.json").write_text(json.dumps(config | {"fktext": {"block": 5}}))
        return place

    return make
