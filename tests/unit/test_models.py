"""From a name to a model: resolution, families, templates, decoding, and what is said when files are wrong."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders

import tiny
from fktext import embedded
from fktext.errors import ModelError, UsageError
from fktext.files.catalogue import catalogue
from fktext.models import DEFAULT, find, load
from fktext.rewards import Weighted
from fktext.settings import Settings
from fktext.texts.generate import Population, generate

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
PIECES = [
    *SPECIAL,
    *"abcdefghijklmnopqrstuvwxyz.,'",
    "##s",
    "##ing",
    "the",
    "book",
    "cat",
    "sat",
    "was",
    "on",
    "mat",
    "of",
    "a1",
    "##2",
]


def wordpiece(pieces: list[str] = PIECES) -> Tokenizer:
    return tiny.word_piece(pieces, SPECIAL, ("[CLS]", "[SEP]"))


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    """A folder in the format of the embedded language model: float16, tied decoder left out."""
    folder = tmp_path / "tiny-bert"
    model = tiny.network("BertForMaskedLM", vocab_size=len(PIECES), max_position_embeddings=24)
    model.config.save_pretrained(folder)
    section = {"bos_token": "[CLS]", "end_token": "[SEP]", "pad_token": "[PAD]", "default_length": 16, "default_steps": 40}
    tiny.edit(folder / "config.json", architectures=["BertForMaskedLM"], fktext=section)
    weights = {name: tensor.half() for name, tensor in model.state_dict().items() if "cls.predictions.decoder" not in name}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    wordpiece().save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture
def mdlm(tmp_path: Path) -> Path:
    """The golden MDLM with a tokenizer."""
    return tiny.golden("dit", tmp_path / "tiny-mdlm-folder")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache, and a network that fails the test when it is used."""

    def no_network(*_: object, **__: object) -> None:
        pytest.fail("the network was used")

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("socket.socket.connect", no_network)
    monkeypatch.setattr("socket.getaddrinfo", no_network)
    return tmp_path / "hub"


def put_into_cache(cache: Path, repo: str, folder: Path) -> Path:
    root = cache / f"models--{repo.replace('/', '--')}"
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text("0123abc")
    shutil.copytree(folder, root / "snapshots" / "0123abc")
    return root / "snapshots" / "0123abc"


# Resolution


def test_importing_and_listing_need_no_torch() -> None:
    code = "import sys, fktext.models; from fktext.files.catalogue import catalogue; catalogue(); "
    code += "assert not {'torch', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_catalogue() -> None:
    entries = {entry.name: entry for entry in catalogue()}
    assert len(entries) == len(catalogue())
    assert entries[DEFAULT].source == "embedded"
    assert entries["mdlm-owt"].source == "kuleshov-group/mdlm-owt"
    assert {entry.family for entry in entries.values()} == {
        "mlm",
        "dit",
        "bd3lm",
        "llada",
        "dream",
        "sdar",
        "sdar-moe",
        "llada2",
        "a2d-mdlm",
        "a2d-bd3lm",
        "ssdlm",
        "sedd",
        "duo",
        "diffusiongemma",
    }
    assert all(entry.licence and entry.summary for entry in entries.values())


def test_order_is_embedded_then_folder_then_cache(cache: Path, mdlm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find(str(mdlm)) == mdlm
    snapshot = put_into_cache(cache, "kuleshov-group/mdlm-owt", mdlm)
    assert find("mdlm-owt") == find("kuleshov-group/mdlm-owt") == find("mdlm-owt", offline=True) == snapshot
    shutil.copytree(mdlm, tmp_path / "mdlm-owt")
    assert find("mdlm-owt") == Path("mdlm-owt")
    if DEFAULT in embedded.names():
        shutil.copytree(mdlm, tmp_path / DEFAULT)
        assert find(DEFAULT) == embedded.path(DEFAULT)


def test_offline_never_touches_the_network(cache: Path, bert: Path) -> None:
    with pytest.raises(ModelError, match=r"'mdlm-owt' \(kuleshov-group/mdlm-owt\) is neither .* stay offline"):
        find("mdlm-owt", offline=True)
    put_into_cache(cache, "google-bert/bert-base-uncased", bert)
    assert load("bert", offline=True).denoiser.max_length == 24


def test_an_interrupted_download_is_not_a_model(cache: Path, mdlm: Path) -> None:
    snapshot = put_into_cache(cache, "kuleshov-group/mdlm-owt", mdlm)
    for file in snapshot.glob("*model.*"):
        file.unlink()
    with pytest.raises(ModelError, match="neither a folder nor in the local hub cache"):
        find("mdlm-owt", offline=True)


def test_fetching_takes_pickles_only_where_there_is_nothing_better(
    cache: Path, mdlm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def fetch(repo: str, allow_patterns: list[str]) -> str:
        asked.append((repo, "*.safetensors" in allow_patterns, "*.bin" in allow_patterns))
        return str(mdlm)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    assert find("mdlm-owt") == mdlm
    assert asked == [("kuleshov-group/mdlm-owt", True, False)]
    (mdlm / "model.safetensors").unlink()
    find("mdlm-owt")
    assert asked[1:] == [("kuleshov-group/mdlm-owt", True, False), ("kuleshov-group/mdlm-owt", False, True)]


def test_an_unreachable_hub(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ConnectionError("no route to host")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(ModelError, match="cannot fetch someone/something from the hub: ConnectionError: no route to host"):
        find("someone/something")


def test_unknown_names(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown model 'mdlm-own': did you mean 'mdlm-owt'"):
        find("mdlm-own")
    for missing in ("./nowhere", str(tmp_path / "nowhere"), "mdlm.ckpt"):
        with pytest.raises(UsageError, match="no such file or folder"):
            find(missing)


@pytest.mark.parametrize(("options", "message"), [({"dtype": "float23"}, "'float32'"), ({"device": "warp:0"}, "device 'warp:0'")])
def test_bad_options(bert: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load(str(bert), **options)


# Families


def test_embedded_format(bert: Path) -> None:
    model = load(str(bert))
    assert (model.family, model.bos_id, model.end_id, model.pad_id, model.closing_id) == ("mlm", 2, 3, 0, None)
    assert (model.default_length, model.default_steps, model.denoiser.mask_id) == (16, 40, 4)
    assert model.forbidden == (1, 2, 4)
    assert load(str(bert), length=24).default_length == 24
    assert load(str(bert), dtype="bfloat16").denoiser.encode(torch.tensor([[2, 4]]), torch.ones(1)).dtype == torch.bfloat16


def test_digest_is_of_the_weights(bert: Path, tmp_path: Path) -> None:
    before = load(str(bert)).digest
    shutil.copytree(bert, tmp_path / "copy")
    tiny.edit(tmp_path / "copy" / "config.json", comment="another")
    assert load(str(tmp_path / "copy")).digest == before
    tensors = load_file(bert / "model.safetensors")
    tensors["bert.embeddings.LayerNorm.bias"][0] += 1
    save_file(tensors, bert / "model.safetensors", metadata={"format": "pt"})
    assert load(str(bert)).digest != before


def test_plain_masked_lm_closes_its_sentences(bert: Path) -> None:
    tiny.edit(bert / "config.json", fktext=None)
    model = load(str(bert))
    assert (model.bos_id, model.end_id, model.pad_id, model.closing_id) == (2, 3, None, 3)
    assert model.forbidden == (0, 1, 2, 3, 4)
    assert model.template("the cat", 6).tolist() == [2, *model.tokenizer.encode("the cat", add_special_tokens=False).ids, 4, 4, 3]
    with pytest.raises(UsageError, match=r"takes 3 tokens .* the closing token one more, the length is 4"):
        model.template("the cat", 4)


def test_mdlm_folder(mdlm: Path) -> None:
    model = load(str(mdlm))
    assert (model.family, model.bos_id, model.end_id, model.pad_id) == ("dit", 99, 99, None)
    assert (model.denoiser.mask_id, model.forbidden, model.default_length, model.default_steps) == (100, (100,), 24, 1000)
    assert model.template("w5 w6", 6).tolist() == [99, 5, 6, 100, 100, 100]
    assert not model.denoiser.time_dependent
    tiny.edit(mdlm / "config.json", time_conditioning=True)
    assert load(str(mdlm)).denoiser.time_dependent


def test_mdlm_without_a_config(mdlm: Path) -> None:
    (mdlm / "config.json").unlink()
    model = load(str(mdlm), length=128)
    assert (model.family, model.denoiser.max_length, model.denoiser.vocab_size) == ("dit", 1024, 101)


@pytest.mark.parametrize("whole_folder", [True, False])
def test_lightning_checkpoint(mdlm: Path, whole_folder: bool) -> None:
    for name in ("config.json", "model.safetensors", "pytorch_model.bin"):
        (mdlm / name).unlink()
    shutil.copy(tiny.GOLDEN / "mdlm_tiny_hparams.ckpt", mdlm / "last.ckpt")
    model = load(str(mdlm if whole_folder else mdlm / "last.ckpt"))
    assert (model.family, model.denoiser.max_length, model.denoiser.time_dependent) == ("dit", 24, False)


def test_gpt2_tokenizer_comes_from_the_cache(cache: Path, mdlm: Path, tmp_path: Path) -> None:
    (mdlm / "tokenizer.json").rename(tmp_path / "tokenizer.json")
    with pytest.raises(ModelError, match=r"put openai-community/gpt2's tokenizer\.json into the folder"):
        load(str(mdlm), offline=True)
    (tmp_path / "gpt2").mkdir()
    (tmp_path / "tokenizer.json").rename(tmp_path / "gpt2" / "tokenizer.json")
    put_into_cache(cache, "openai-community/gpt2", tmp_path / "gpt2")
    assert load(str(mdlm), offline=True).bos_id == 99


@pytest.mark.parametrize(("name", "mask"), [("llada_tiny", 63), ("dream_tiny", 62)])
def test_large_model_folders(name: str, mask: int, tmp_path: Path) -> None:
    folder = tmp_path / name
    shutil.copytree(tiny.GOLDEN / name, folder)
    tiny.numbered(63, ["<|endoftext|>"], 61).save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": {"content": "<|endoftext|>"}}))
    model = load(str(folder), length=12)
    assert (model.family, model.denoiser.mask_id, model.end_id, model.bos_id) == (name.removesuffix("_tiny"), mask, 61, None)
    assert model.forbidden == tuple(sorted({mask, 63}))  # 63 has no token
    assert model.template("w1", 4).tolist() == [1, mask, mask, mask]


def test_tokenizers_in_older_files(bert: Path, tmp_path: Path) -> None:
    (bert / "tokenizer.json").unlink()
    (bert / "vocab.txt").write_text("".join(f"{piece}\n" for piece in PIECES))
    assert load(str(bert)).template("the cats", 5).tolist() == [2, *(PIECES.index(piece) for piece in ("the", "cat", "##s")), 4]
    folder = tmp_path / "dream"
    shutil.copytree(tiny.GOLDEN / "dream_tiny", folder)
    pieces = [*"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456.", "th"]
    (folder / "vocab.json").write_text(json.dumps({piece: index for index, piece in enumerate(pieces)}))
    (folder / "merges.txt").write_text("#version: 0.2\nt h\n")
    added = {str(index): {"content": token, "special": True} for index, token in ((61, "<|endoftext|>"), (62, "<|mask|>"))}
    remote = {"auto_map": {"AutoTokenizer": ["tokenization_dream.DreamTokenizer", None]}, "tokenizer_class": "DreamTokenizer"}
    own = {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>", "added_tokens_decoder": added}
    (folder / "tokenizer_config.json").write_text(json.dumps(remote | own))
    model = load(str(folder))
    assert model.template("the", 4).tolist() == [pieces.index("th"), pieces.index("e"), 62, 62]
    assert (model.end_id, model.pad_id) == (61, 61)


class Short:
    """Likes short texts."""

    def score(self, samples: Sequence[str]) -> list[float]:
        return [-float(len(text)) for text in samples]


@pytest.mark.parametrize("family", ["bert", "mdlm"])
def test_loaded_models_generate(family: str, request: pytest.FixtureRequest) -> None:
    prompt = {"bert": "The cat", "mdlm": "w1 w2"}[family]
    for dtype in ("float32", "bfloat16"):
        model = load(str(request.getfixturevalue(family)), dtype=dtype)
        run = generate(model, [Weighted("short", Short())], [prompt], Settings(particles=3, length=10, steps=6))
        (population,) = (item for item in run if isinstance(item, Population))
        assert len(population.texts) == 3
        assert {text.prompt for text in population.texts} == {prompt.lower()}


@pytest.mark.parametrize(
    ("config", "found"),
    [
        ({"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}, "model_type 'gpt2' and architectures"),
        ({"model_type": "mystery", "vocab_size": 101}, "model_type 'mystery'"),
        ({"tokens": 100}, "model_type None"),
    ],
)
def test_an_unknown_family_says_what_was_looked_for(mdlm: Path, config: dict[str, Any], found: str) -> None:
    (mdlm / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=f"cannot tell how to run .*{found}.*Looked for a config.json with .*model_type 'mdlm'"):
        load(str(mdlm))


# Templates and texts


def test_template(bert: Path) -> None:
    model = load(str(bert))
    the, book = (PIECES.index(piece) for piece in ("the", "book"))
    assert model.template("The Book", 6).tolist() == [2, the, book, 4, 4, 4]
    assert model.template("", 2).tolist() == [2, 4]
    assert model.template("", 2).dtype == torch.int64


def test_a_prompt_that_leaves_no_room(bert: Path) -> None:
    model = load(str(bert))
    with pytest.raises(UsageError, match=r"prompt 'the book' leaves no room .* takes 3 tokens of model .*, the length is 3"):
        model.template("the book", 3)
    assert model.template("the book", 25).tolist() == [*model.template("the book", 24).tolist(), 4]  # in two windows
    with pytest.raises(UsageError, match="length 25 is out of range"):
        load(str(bert), length=25)


@pytest.mark.parametrize(("prompt", "message"), [("the ☃ sat", "holds '☃'"), ("the [MASK] sat", "holds the mask token")])
def test_a_prompt_the_model_cannot_express(bert: Path, prompt: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load(str(bert)).template(prompt, 16)


def test_texts_end_at_the_first_end_token(bert: Path) -> None:
    model = load(str(bert))
    the, cat, sat, s = (PIECES.index(piece) for piece in ("the", "cat", "sat", "##s"))
    ids = torch.tensor([[2, the, cat, s, sat, 3, cat, 0], [2, the, cat, sat, 0, the, cat, 3], [2, the, cat, 3, 3, 0, 0, 0]])
    texts = model.decode(ids, "The CAT")
    assert texts == ["the cats sat", "the cat sat", "the cat"]  # padding ends a text too
    assert [text.prompt for text in texts] == ["the cat"] * 3
    assert [text.continuation for text in texts] == ["s sat", " sat", ""]
    assert model.decode(ids[:1], "") == ["the cats sat"]
    assert model.decode(ids[:0], "") == []


def test_an_end_token_in_the_prompt_does_not_end_the_text(mdlm: Path) -> None:
    model = load(str(mdlm))
    prompt = "w1 <|endoftext|> w2"
    ids = torch.cat([model.template(prompt, 5)[:4], torch.tensor([7, 99, 8])])[None]
    assert model.decode(ids, prompt) == ["w1 w2 w7"]


def test_masks_are_not_decoded(bert: Path) -> None:
    model = load(str(bert))
    with pytest.raises(ValueError, match="reveal every position first"):
        model.decode(model.template("the", 8)[None], "the")


def test_a_decoder_that_joins_the_prompt_with_what_follows(bert: Path) -> None:
    tokenizer = wordpiece()
    tokenizer.decoder = decoders.Sequence([decoders.WordPiece(), decoders.Fuse(), decoders.Replace(" ' ", "'")])
    tokenizer.save(str(bert / "tokenizer.json"))
    model = load(str(bert))
    ids = torch.tensor([[2, *model.tokenizer.encode("the cat's mat", add_special_tokens=False).ids, 3]])
    (text,) = model.decode(ids, "the cat '")
    assert (text, text.prompt, text.continuation) == ("the cat's mat", "the cat", "'s mat")


# Files that are wrong


def test_truncated_weights(bert: Path, mdlm: Path) -> None:
    for folder in (bert, mdlm):
        os.truncate(folder / "model.safetensors", 5000)
        with pytest.raises(ModelError, match=str(folder)):
            load(str(folder))


def test_no_weights(bert: Path) -> None:
    (bert / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"holds no weights: looked for model\.safetensors"):
        load(str(bert))


@pytest.mark.parametrize("size", [90, 99, 102])
def test_a_tokenizer_that_contradicts_the_network(mdlm: Path, size: int) -> None:
    tiny.numbered(size, []).save(str(mdlm / "tokenizer.json"))
    with pytest.raises(ModelError, match=f"the tokenizer has {size} tokens, which contradicts the network's vocabulary of 101"):
        load(str(mdlm))


def test_a_broken_tokenizer(bert: Path) -> None:
    (bert / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError, match=r"the tokenizer of .* cannot be loaded"):
        load(str(bert))


def test_a_section_that_names_no_token(bert: Path) -> None:
    tiny.edit(bert / "config.json", fktext={"end_token": "[END]"})
    with pytest.raises(ModelError, match=r"names end_token '\[END\]', which its tokenizer does not have"):
        load(str(bert))


def test_a_tokenizer_without_a_mask(bert: Path) -> None:
    tiny.numbered(len(PIECES), ["[SEP]"], 3).save(str(bert / "tokenizer.json"))
    tiny.edit(bert / "config.json", fktext=None)
    with pytest.raises(ModelError, match="has no mask token"):
        load(str(bert))


@pytest.mark.parametrize(
    ("config", "found"), [({"parameterization": "sedd"}, "sedd"), ({"algo": {"name": "udlm", "parameterization": "mean"}}, "mean")]
)
def test_a_checkpoint_of_another_objective(mdlm: Path, config: dict[str, object], found: str) -> None:
    for name in ("config.json", "model.safetensors", "pytorch_model.bin"):
        (mdlm / name).unlink()
    value = torch.load(tiny.GOLDEN / "mdlm_tiny.ckpt", weights_only=True)
    torch.save(value | {"hyper_parameters": {"config": config}}, mdlm / "other.ckpt")
    with pytest.raises(ModelError, match=f"parameterization '{found}'; masked diffusion needs 'subs'"):
        load(str(mdlm))


@pytest.mark.parametrize("change", [{"default_steps": 10**9}, {"default_length": 10**9}, {"default_temperature": 1e31}])
def test_defaults_beyond_any_use_are_refused(bert: Path, change: dict[str, object]) -> None:
    section = json.loads((bert / "config.json").read_text())["fktext"]
    tiny.edit(bert / "config.json", fktext=section | change)
    with pytest.raises(ModelError, match=f"config.json has fktext.{next(iter(change))}"):
        load(str(bert))


def test_a_whole_number_is_a_temperature(bert: Path) -> None:
    section = json.loads((bert / "config.json").read_text())["fktext"]
    tiny.edit(bert / "config.json", fktext=section | {"default_temperature": 10**20})
    assert isinstance(load(str(bert)).default_temperature, float)
