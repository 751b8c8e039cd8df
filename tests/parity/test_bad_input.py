"""Files that are wrong, through the command line: one clear line each, exit code 1 or 2, and nothing in them executed."""

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner, Result

from fktext_cli import app

Checkpoint = Callable[[str], Path]
GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("FKTEXT_DISABLE_PLUGINS", "")
    runner = CliRunner(env={"NO_COLOR": "1", "COLUMNS": "200", "TERM": "dumb"})
    return lambda *arguments: runner.invoke(app, [str(item) for item in arguments], prog_name="fktext")


def edit(folder: Path, **changes: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({key: value for key, value in (config | changes).items() if value is not None}))


def cut(folder: Path) -> None:
    file = folder / "model.safetensors"
    os.truncate(file, file.stat().st_size // 2)


def cut_shard(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    places = {name: f"model-{1 + number % 2}.safetensors" for number, name in enumerate(tensors)}
    for file in sorted(set(places.values())):
        save_file({name: tensor for name, tensor in tensors.items() if places[name] == file}, folder / file, {"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    os.truncate(folder / file, (folder / file).stat().st_size - 10)


class Touch:
    """Pickles as the making of a file."""

    def __init__(self, file: Path) -> None:
        self.file = str(file)

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch {self.file}",)


def code(folder: Path) -> None:
    value = torch.load(GOLDEN / "mdlm_tiny.ckpt", weights_only=True)
    for name in ("model.safetensors", "pytorch_model.bin", "config.json"):
        (folder / name).unlink()
    torch.save(value | {"callbacks": Touch(folder / "executed")}, folder / "last.ckpt")


def code_in_bin(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"state": Touch(folder / "executed")}, folder / "pytorch_model.bin")


def code_in_layer(folder: Path) -> None:
    torch.save({"weight": Touch(folder / "executed")}, folder / "timestep_layer.pt")


def remote_code(folder: Path) -> None:
    """A repository that brings its own classes; they are never looked at."""
    (folder / "modeling.py").write_text(f"open({str(folder / 'executed')!r}, 'w')\n")
    edit(folder, model_type="mystery", architectures=["Mystery"], auto_map={"AutoModelForMaskedLM": "modeling.Mystery"})


def rename_tensor(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["stranger"] = tensors.pop(sorted(tensors)[0])
    save_file(tensors, folder / "model.safetensors")


def shorter_tokenizer(folder: Path) -> None:
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"] = {word: index for word, index in tokenizer["model"]["vocab"].items() if index < 40}
    tokenizer["added_tokens"] = []
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))


def without_mask(folder: Path) -> None:
    file = folder / "tokenizer.json"
    file.write_text(file.read_text().replace("<|mask|>", "<|other|>"))


def too_deep(folder: Path) -> None:
    edit(folder, **{"n_layers" if folder.name == "llada" else "num_hidden_layers": 10**6})


def without_weights(folder: Path) -> None:
    for file in (*folder.glob("*.safetensors"), *folder.glob("*.bin")):
        file.unlink()


def not_a_pickle(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_text("hi, a page of a web server")


WRONG = [
    *((family, cut, "safetensors file|cannot be loaded as a masked language model") for family in ("dit", "mlm", "sedd", "llada")),
    *((family, cut, "safetensors file|cannot be loaded as a masked language model") for family in ("dream", "ssdlm", "bd3lm")),
    *((family, cut, "safetensors file") for family in ("sdar", "a2d-mdlm", "llada2")),
    ("sdar", lambda folder: edit(folder, block_size=0), "has block_size 0 in its config.json, expected a whole number of tokens"),
    ("sdar", lambda folder: edit(folder, hidden_size=64), "has shape .*, config.json asks for"),
    ("sdar", lambda folder: edit(folder, hidden_size=-1), "has hidden_size -1: Input should be greater than or equal to 1"),
    (
        "sdar",
        lambda folder: edit(folder, max_position_embeddings="x"),
        "has max_position_embeddings 'x': Input should be a valid int",
    ),
    ("llada2", lambda folder: edit(folder, topk_group=5), "has topk_group 5, expected 1 to its n_group, 4$"),
    ("diffusiongemma", lambda folder: edit(folder, eos_token_id=-1), "has eos_token_id -1, 1: expected ids of tokens$"),
    ("llada2", lambda folder: edit(folder, num_experts_per_tok=0), "has num_experts_per_tok 0, expected 1 to its num_experts, 8$"),
    ("diffusiongemma", cut_shard, r"model-2\.safetensors is not a whole safetensors file"),
    ("llada2", lambda folder: edit(folder, num_experts=4), "holds .*experts.*, which Glm4MoeForCausalLM does not have"),
    ("a2d-bd3lm", without_mask, r"names no mask_token_id, and its tokenizer has no <\|mask\|>$"),
    *((family, shorter_tokenizer, "the tokenizer has 40 tokens, which contradicts") for family in ("sdar",)),
    ("dit", code, r"last\.ckpt carries code \(posix\.system\) and was not loaded; nothing in it was executed"),
    ("dit", code_in_bin, r"pytorch_model\.bin holds more than tensors and was not loaded; nothing in it was executed"),
    ("ssdlm", code_in_layer, r"timestep_layer\.pt holds more than tensors and was not loaded; nothing in it was executed"),
    (
        "mlm",
        remote_code,
        r"cannot tell how to run .*model_type 'mystery'.*Looked for a config\.json with .*model_type 'mdlm'.*'llada'",
    ),
    ("ssdlm", lambda folder: (folder / "embed_sum_layer.pt").unlink(), r"has no embed_sum_layer\.pt: an SSD-LM is RoBERTa with"),
    ("ssdlm", lambda folder: (folder / "timestep_layer.pt").unlink(), r"has no timestep_layer\.pt"),
    ("dit", lambda folder: edit(folder, n_heads=4), "config.json says n_heads 4, the tensors say 3"),
    ("sedd", lambda folder: edit(folder, tokens=70), "config.json says vocab_size 71, the tensors say 61"),
    ("llada", lambda folder: edit(folder, d_model=64), "has shape .*, config.json asks for"),
    ("llada", lambda folder: edit(folder, rope_theta=None), "config.json of a LLaDA model lacks 'rope_theta'"),
    ("llada", lambda folder: edit(folder, rope_theta=0), r"config\.json has rope_theta 0: Input should be greater than 0"),
    ("dream", lambda folder: edit(folder, rope_theta=-1.5), r"config\.json has rope_theta -1\.5: Input should be greater than 0"),
    (
        "dream",
        lambda folder: edit(folder, rope_theta=None, rope_parameters={"rope_theta": 0.0, "rope_type": "default"}),
        r"config\.json makes rotary frequencies infinite: rope_theta and scaling must be above 0",
    ),
    *(
        (family, too_deep, r"contradicts itself: config\.json says \w+ 1000000, and its files hold \d+ ")
        for family in ("mlm", "dream")
    ),
    *(
        (family, too_deep, r"contradicts itself: config\.json says \w+ 1000000, and its files hold \d+ ")
        for family in ("llada", "ssdlm")
    ),
    ("dit", lambda folder: (folder / "config.json").write_text("[" * 10**5), r"config\.json is JSON nested too deeply to be read"),
    ("dream", lambda folder: edit(folder, num_hidden_layers=3), "lacks weights of Qwen2ForCausalLM"),
    ("dream", lambda folder: edit(folder, mask_token_id=None), "names no mask_token_id"),
    (
        "mlm",
        lambda folder: edit(folder, intermediate_size=64),
        r"contradicts itself: bert\..* has shape .*32.*, config.json asks .*64",
    ),
    ("ssdlm", lambda folder: edit(folder, hidden_size=64), r"contradicts itself: .* has shape .*32.*, config.json asks for .*64"),
    ("dit", lambda folder: edit(folder, model_length="24"), r"config\.json has model_length '24': Input should be a valid integer"),
    ("dit", lambda folder: edit(folder, time_conditioning="yes"), r"config\.json has time_conditioning 'yes'"),
    ("mlm", lambda folder: edit(folder, architectures="BertForMaskedLM"), r"config\.json has architectures 'BertForMaskedLM'"),
    (
        "mlm",
        lambda folder: edit(folder, fktext={"defualt_length": 8}),
        r"fktext\.defualt_length 8: Extra .* Known: .*default_length",
    ),
    ("ssdlm", lambda folder: edit(folder, fktext={"block": 0}), r"config\.json has fktext\.block 0: Input should be greater"),
    ("sedd", lambda folder: edit(folder, model="small"), "has model 'small' in its config.json, expected an object"),
    ("sedd", lambda folder: edit(folder, tokens="60"), "has tokens '60' in its config.json, expected a whole number"),
    ("llada", lambda folder: edit(folder, n_heads=5), "config.json does not describe a network of family 'llada': .*5"),
    ("dream", lambda folder: edit(folder, hidden_size="x"), r"config\.json has hidden_size 'x': Input should be a valid integer"),
    ("dit", rename_tensor, "does not hold MDLM's network"),
    ("llada", rename_tensor, "holds 'stranger', which LlamaForCausalLM does not have"),
    *((family, shorter_tokenizer, "the tokenizer has 40 tokens, which contradicts") for family in ("dit", "mlm", "sedd", "llada")),
    *((family, shorter_tokenizer, "the tokenizer has 40 tokens, which contradicts") for family in ("dream", "ssdlm")),
    ("llada", not_a_pickle, r"pytorch_model\.bin cannot be read as tensors"),
    ("dit", without_weights, r"holds no weights: looked for model\.safetensors, pytorch_model\.bin, their shards and \*\.ckpt"),
    ("mlm", lambda folder: (folder / "config.json").write_text("{"), r"config\.json is not JSON"),
]


@pytest.mark.parametrize(("family", "damage", "message"), WRONG)
def test_a_wrong_folder(
    family: str, damage: Callable[[Path], object], message: str, checkpoint: Checkpoint, call: Callable[..., Result]
) -> None:
    import re

    folder = checkpoint(family)
    damage(folder)
    for command in (("generate", "w5", "--model", folder, "--method", "base"), ("models", "check", folder)):
        result = call(*command)
        lines = result.stderr.splitlines()
        assert (result.exit_code, result.stdout) == (1, ""), result.stderr
        assert len(lines) == 1, lines
        assert lines[0].startswith("error: ")
        assert re.search(message, lines[0]), lines[0]
    assert not (folder / "executed").exists()


def test_the_code_is_one_that_would_run(checkpoint: Checkpoint) -> None:
    """The control: what is refused here would have run in an ordinary loader."""
    folder = checkpoint("dit")
    code(folder)
    torch.load(folder / "last.ckpt", weights_only=False)
    assert (folder / "executed").exists()


def test_blocks_beyond_what_the_network_takes(checkpoint: Checkpoint, call: Callable[..., Result]) -> None:
    folder = checkpoint("ssdlm")
    # The tiny network takes 80 tokens, the published one 512.
    result = call("generate", "w5 " * 32, "--model", folder, "--method", "base", "--length", 80, "--steps", 2)
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert "length 80 after a context of 32 tokens takes 10 blocks of 5, 82 tokens in all, but model" in line
    assert line.endswith("takes 80: choose a length of at most 77")
    fine = call("generate", "w5 " * 32, "--model", folder, "--method", "base", "--length", 77, "--steps", 2)
    assert fine.exit_code == 0, fine.stderr


@pytest.mark.parametrize("command", ["check", "pull"])
@pytest.mark.parametrize("name", ["mdlm-owt", "someone/something"])
def test_offline_is_immediate(
    name: str, command: str, call: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("the network was used"))
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: pytest.fail("the network was used"))
    import fktext.testing.model_check  # noqa: F401  its imports are not what is timed

    started = time.perf_counter()
    result = call("models", command, name, "--offline")
    assert time.perf_counter() - started < 2
    assert result.exit_code == 1
    assert "neither a folder nor in the local hub cache, and fktext is told to stay offline" in result.stderr.splitlines()[-1]


def test_a_hub_that_cannot_be_reached(call: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    error = huggingface_hub.errors.LocalEntryNotFoundError("five\nlines\nof\nits\nown")
    error.__cause__ = OSError("Name or service not known")

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    result = call("models", "pull", "mdlm-owt")
    assert result.exit_code == 1
    assert result.stderr.splitlines() == [
        "looking for mdlm-owt",
        "error: cannot fetch kuleshov-group/mdlm-owt: the hub cannot be reached (Name or service not known). "
        "A folder, or a model pulled before, needs no network",
    ]


def test_confidence_is_refused_for_steering_alone(checkpoint: Checkpoint, call: Callable[..., Result]) -> None:
    for family in ("dit", "mlm", "llada", "dream", "sedd"):
        folder = checkpoint(family)
        common = ("generate", "w5 w6", "--model", folder, "--kernel", "confidence", "--length", 12, "--steps", 4)
        wrong = call(*common, "-r", "length:words=3")
        assert wrong.exit_code == 2
        assert wrong.stderr.splitlines()[-1].startswith(
            "error: kernel 'confidence' cannot be steered by method 'fk': which positions"
        )
        for options in (("--method", "base", "--temperature", 0), ("--method", "best-of-n", "-n", 3, "-r", "length:words=3")):
            fine = call(*common, *options)
            assert fine.exit_code == 0, fine.stderr
            assert fine.stdout.startswith("w5 w6")
        shutil.rmtree(folder)
    result = call("generate", "--method", "base", "--temperature", 0)
    assert result.exit_code == 2
    assert "temperature 0 leaves kernel 'ancestral' nothing to draw" in result.stderr
