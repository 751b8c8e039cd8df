"""Tiny models for tests: real networks and tokenizers, with random weights, made in a moment and saved as anyone's are.

What is made is seeded, so it is the same wherever it is made. `transformers` is imported when it is needed.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

GOLDEN = Path(__file__).parent / "parity" / "golden"
SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
NOUNS = ["book", "city", "lake", "horse", "he", "she", "it"]
OTHERS = ["the", "a", "is", "was", "ran", "sat", "red", "old", "very", "good", "bad", "and", "of", "on", "in", "here", "there"]
WORDS = ["<end>", "<unk>", *NOUNS, *OTHERS]
# family -> (golden folder, words of its tokenizer, special tokens and where they begin)
GOLDENS = {
    "dit": ("mdlm_tiny", 100, ["<|endoftext|>"], 99),
    "bd3lm": ("bd3lm_tiny", 100, ["<|endoftext|>"], 99),
    "duo": ("duo_tiny", 102, ["<|endoftext|>", "[PAD]"], 100),
    "diffusiongemma": ("diffusion_gemma_tiny", 96, ["<pad>", "<eos>", "<bos>", "<turn|>"], 0),
    "sedd": ("sedd_tiny", 60, ["<|endoftext|>"], 59),
    "llada": ("llada_tiny", 63, ["<|endoftext|>", "<|eot|>"], 60),
    "dream": ("dream_tiny", 63, ["<|endoftext|>", "<|im_end|>"], 60),
    "sdar": ("sdar_tiny", 100, ["<|im_end|>", "<|endoftext|>", "<|fim|>", "<|MASK|>"], 90),
    "a2d-mdlm": ("a2d_qwen3_tiny", 110, ["<|endoftext|>", "<|im_end|>", "<|fim|>", "<|mask|>"], 101),
    "a2d-bd3lm": ("a2d_qwen3_tiny", 110, ["<|endoftext|>", "<|im_end|>", "<|fim|>", "<|mask|>"], 101),
    "llada2": ("llada2_tiny", 120, ["<|endoftext|>", "<|role_end|>", "<role>", "<|mask|>"], 109),
    "e2d2": ("e2d2_tiny", 101, ["<|endoftext|>", "<pad>", "<|mask|>"], 98),
    "e2d2-share": ("e2d2_share_tiny", 97, ["<|endoftext|>", "<pad>", "<|mask|>"], 94),
    "ssdlm": ("ssdlm_tiny", 97, ["<s>", "<pad>", "</s>", "<unk>"], 0),
}


def word_level(words: Iterable[str], unknown: str | None = None, special: Sequence[str] = (), marks: bool = False) -> Tokenizer:
    """A tokenizer of whole words, in the order of their ids.

    Args:
        words: the vocabulary.
        unknown: the word that stands for every other one.
        special: those that decoding leaves out.
        marks: whether punctuation is split off; else a word is what stands between white space.
    """
    vocabulary = {word: index for index, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=unknown) if unknown else models.WordLevel(vocabulary))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace() if marks else pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(list(special))
    return tokenizer


def numbered(size: int, special: Sequence[str], at: int = 0) -> Tokenizer:
    """Words "w0" "w1" ..., with special tokens in the place of those from id `at` on."""
    words = [f"w{index}" for index in range(size)]
    words[at : at + len(special)] = special
    return word_level(words, special=special)


def word_piece(pieces: Sequence[str], special: Sequence[str], frame: tuple[str, str] | None = None) -> Tokenizer:
    """A tokenizer as BERT's: lower case, "##" before a piece that goes on with a word; `frame` stands around every text."""
    tokenizer = Tokenizer(models.WordPiece({piece: index for index, piece in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    if frame:
        first, last = frame
        tokenizer.post_processor = processors.BertProcessing((last, pieces.index(last)), (first, pieces.index(first)))
    tokenizer.add_special_tokens(list(special))
    return tokenizer


def save_fast(tokenizer: Tokenizer, folder: Path, **roles: str) -> None:
    """Save as transformers does; a role is such as `pad_token="[PAD]"`."""
    from transformers import PreTrainedTokenizerFast

    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **roles).save_pretrained(folder)


def network(kind: str, folder: Path | None = None, **config: Any) -> Any:
    """A network of transformers in evaluation mode, by the name of its class; saved where a folder is given."""
    import transformers

    built = getattr(transformers, kind)
    torch.manual_seed(0)
    model = built(built.config_class(**(SIZES | config))).eval()
    if folder is not None:
        model.save_pretrained(folder)
    return model


def masked_lm(folder: Path, tokenizer: Tokenizer, positions: int = 24, **config: Any) -> Any:
    """A folder with a BERT for masked tokens."""
    model = network("BertForMaskedLM", folder, vocab_size=tokenizer.get_vocab_size(), max_position_embeddings=positions, **config)
    tokenizer.save(str(folder / "tokenizer.json"))
    return model


def classifier(folder: Path, labels: Sequence[str] | int, **config: Any) -> Any:
    """A folder with a BERT that sorts texts of five words into classes far apart; without names they are LABEL_0, LABEL_1, ..."""
    words = ["[PAD]", "[UNK]", "the", "food", "was", "good", "bad"]
    save_fast(word_level(words, "[UNK]", marks=True), folder, pad_token="[PAD]", unk_token="[UNK]")
    names = {"num_labels": labels} if isinstance(labels, int) else {"id2label": dict(enumerate(labels))}
    sizes = {"vocab_size": len(words), "max_position_embeddings": 32, "initializer_range": 0.5}
    return network("BertForSequenceClassification", folder, **sizes, **names, **config)


def dit(size: int, length: int, **config: Any) -> Any:
    """MDLM's network over `size` tokens, the mask among them."""
    from fktext.masked.dit import DiT

    torch.manual_seed(0)
    sizes = {"hidden_dim": 16, "n_blocks": 1, "n_heads": 2, "cond_dim": 8}
    return DiT(vocab_size=size, model_length=length, **(sizes | config))


def mdlm(folder: Path, **section: Any) -> Path:
    """A folder with MDLM's network over WORDS, 12 tokens long; `section` is what its config.json says to fktext."""
    folder.mkdir()
    weights = {f"backbone.{name}": tensor.clone() for name, tensor in dit(len(WORDS) + 1, 12).state_dict().items()}
    save_file(weights, folder / "model.safetensors")
    settings = {"model_type": "mdlm", "model_length": 12, "time_conditioning": False, "fktext": {"end_token": "<end>", **section}}
    (folder / "config.json").write_text(json.dumps(settings))
    word_level(WORDS, "<unk>").save(str(folder / "tokenizer.json"))
    return folder


def golden(family: str, folder: Path, tokenizer: Tokenizer | None = None) -> Path:
    """A copy of a golden checkpoint as a folder that `--model` takes, with a tokenizer of as many words as it needs."""
    name, size, special, at = GOLDENS[family]
    shutil.copytree(GOLDEN / name, folder)
    (tokenizer or numbered(size, special, at)).save(str(folder / "tokenizer.json"))
    if family == "diffusiongemma":
        _widen(folder)
    if family in ("a2d-bd3lm", "llada2"):  # no published config.json says how long a block is
        edit(folder / "config.json", fktext={"block": 8})
    return folder


def _widen(folder: Path) -> None:
    """Widen its experts: in bfloat16 a CPU multiplies them only if their rows fill 16 bytes."""
    file = folder / "model.safetensors"
    tensors, settings = load_file(file), json.loads((folder / "config.json").read_text())
    for name in [name for name in tensors if ".experts." in name]:
        axis, size = (2, 16) if "down" in name else (1, 32)
        tensors[name] = torch.cat([tensors[name]] * 2, axis).narrow(axis, 0, size).contiguous()
    save_file(tensors, file, {"format": "pt"})
    edit(folder / "config.json", text_config=settings["text_config"] | {"moe_intermediate_size": 16})


def edit(file: Path, **changes: object) -> None:
    """Change keys of a JSON file; None takes one out."""
    settings = json.loads(file.read_text())
    file.write_text(json.dumps({key: value for key, value in (settings | changes).items() if value is not None}))


class Code:
    """What a pickle can carry: a call that is made when it is read. This one writes a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.write_text, (self.target, "executed"))
