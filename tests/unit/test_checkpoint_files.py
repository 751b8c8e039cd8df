"""Weight files: what is found, what is refused, and that nothing in a file is ever executed."""

import builtins
import json
import os
import tempfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from fktext.errors import ModelError
from fktext.files.lightning import Lightning
from fktext.files.weights import digest, quantised, read_json, read_tensors, tensor_names, weight_files

TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2, dtype=torch.float16)}


def test_safetensors_come_before_pickles(tmp_path: Path) -> None:
    torch.save(TENSORS, tmp_path / "pytorch_model.bin")
    assert [file.name for file in weight_files(tmp_path)] == ["pytorch_model.bin"]
    save_file(TENSORS, tmp_path / "model.safetensors")
    assert [file.name for file in weight_files(tmp_path)] == ["model.safetensors"]
    assert tensor_names(tmp_path / "model.safetensors") == tensor_names(tmp_path / "pytorch_model.bin") == ["a", "b"]


def test_shards_are_listed_once_and_in_order(tmp_path: Path) -> None:
    index = {"weight_map": {"a": "model-2.safetensors", "b": "model-1.safetensors", "c": "model-2.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    save_file({"b": TENSORS["b"]}, tmp_path / "model-1.safetensors")
    with pytest.raises(ModelError, match=r"names model-2\.safetensors, which is not in the folder"):
        weight_files(tmp_path)
    save_file({"a": TENSORS["a"], "c": TENSORS["a"] + 1}, tmp_path / "model-2.safetensors")
    assert [file.name for file in weight_files(tmp_path)] == ["model-1.safetensors", "model-2.safetensors"]


@pytest.mark.parametrize("content", ["{}", '{"weight_map": []}', '{"weight_map": {"a": 3}}'])
def test_a_malformed_index(tmp_path: Path, content: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(content)
    with pytest.raises(ModelError, match=r"index\.json has no weight_map from tensors to files"):
        weight_files(tmp_path)


@pytest.mark.parametrize("name", ["../a.safetensors", "{}/a.safetensors", "sub/../../a.safetensors", "..", "..\\a.safetensors"])
def test_an_index_names_nothing_outside_its_folder(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    save_file(TENSORS, tmp_path / "a.safetensors")
    name = name.format(tmp_path)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(ModelError, match=r"index\.json names '.*': expected a file in its folder$"):
        weight_files(folder)


def test_shards_may_be_links_as_in_the_hubs_cache(tmp_path: Path) -> None:
    folder = tmp_path / "snapshot"
    folder.mkdir()
    save_file(TENSORS, tmp_path / "blob")
    (folder / "model-1.safetensors").symlink_to("../blob")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "model-1.safetensors"}}))
    assert [sorted(read_tensors(file)) for file in weight_files(folder)] == [["a", "b"]]


def test_json_nested_too_deeply(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"a":' * 100_000 + "1" + "}" * 100_000)
    with pytest.raises(ModelError, match=r"config\.json is JSON nested too deeply to be read$"):
        read_json(tmp_path / "config.json")


def test_several_checkpoints_are_ambiguous(tmp_path: Path) -> None:
    for name in ("last.ckpt", "best.ckpt"):
        (tmp_path / name).touch()
    with pytest.raises(ModelError, match=r"2 \.ckpt files"):
        weight_files(tmp_path)
    assert weight_files(tmp_path / "best.ckpt") == [tmp_path / "best.ckpt"]
    assert weight_files(tmp_path / "nowhere") == []


def test_digest_depends_on_contents_alone(tmp_path: Path) -> None:
    for name, content in (("a", b"x"), ("b", b"x"), ("c", b"y")):
        (tmp_path / name).write_bytes(content)
    assert digest([tmp_path / "a"]) == digest([tmp_path / "b"]) != digest([tmp_path / "c"])
    assert len(digest([tmp_path / "a", tmp_path / "c"])) == 16


@pytest.mark.parametrize("size", [4, 60, 150])
def test_truncated_safetensors(tmp_path: Path, size: int) -> None:
    file = tmp_path / "model.safetensors"
    save_file(TENSORS, file)
    os.truncate(file, size)
    for read in (read_tensors, tensor_names):
        with pytest.raises(ModelError, match="not a whole safetensors file"):
            read(file)


def test_truncated_pickle(tmp_path: Path) -> None:
    torch.save(TENSORS, tmp_path / "pytorch_model.bin")
    os.truncate(tmp_path / "pytorch_model.bin", 300)
    with pytest.raises(ModelError, match="cannot be read"):
        read_tensors(tmp_path / "pytorch_model.bin")


@pytest.mark.parametrize("content", ["{", "[1]"])
def test_json_must_be_an_object(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ModelError, match=r"config\.json"):
        read_json(tmp_path / "config.json")


class Calls:
    """Pickles as the call of a function."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> object:
        return self.call


@pytest.mark.parametrize("function", [os.system, eval, exec])
@pytest.mark.parametrize("where", ["callbacks", "state_dict", "hyper_parameters"])
def test_code_in_a_checkpoint_is_reported_and_not_run(tmp_path: Path, function: object, where: str) -> None:
    marker = tmp_path / "executed"
    command = f"touch {marker}" if function is os.system else f"open({str(marker)!r}, 'w')"
    value = {"state_dict": dict(TENSORS), where: {"x": Calls(function, command)}}
    torch.save(value, tmp_path / "evil.ckpt")
    with pytest.raises(ModelError, match=r"carries code .* nothing in it was executed"):
        read_tensors(tmp_path / "evil.ckpt")
    assert not marker.exists()
    torch.load(tmp_path / "evil.ckpt", weights_only=False)  # the control: an ordinary load does run it
    assert marker.exists()


def test_calls_that_look_harmless_are_not_made_either(tmp_path: Path) -> None:
    target = tmp_path / "made"
    value = {"state_dict": dict(TENSORS), "x": Calls(tempfile.mkdtemp, "", "", str(target)), "y": Calls(Path.touch, target)}
    torch.save(value, tmp_path / "sly.ckpt")
    before = sorted(tmp_path.iterdir())
    read = read_tensors(tmp_path / "sly.ckpt")
    assert sorted(tmp_path.iterdir()) == before
    assert all(torch.equal(read[name], TENSORS[name]) for name in TENSORS)


class Odd:
    """Pickles with every way an object can be rebuilt: arguments, state, list items and dict items."""

    def __reduce__(self) -> object:
        return Unknown, (1,), {"state": Odd}, iter([1, 2]), iter([("key", 3)])


class Unknown(dict):  # type: ignore[type-arg]
    """What `Odd` claims to be."""


def test_unknown_classes_become_placeholders(tmp_path: Path) -> None:
    torch.save({"state_dict": dict(TENSORS), "hyper_parameters": {"kept": [1, {"x": 2.5}], "lost": Odd()}}, tmp_path / "odd.ckpt")
    assert Lightning.read(tmp_path / "odd.ckpt").settings == {"kept": [1, {"x": 2.5}], "lost": {"key": 3}}


@pytest.mark.parametrize("value", [{"model": 1}, {"state_dict": {}}, {"state_dict": {"a": 1}}, [1], {"state_dict": {"a": Odd()}}])
def test_a_pickle_that_is_no_checkpoint(tmp_path: Path, value: object) -> None:
    torch.save(value, tmp_path / "other.ckpt")
    with pytest.raises(ModelError, match=r"other\.ckpt"):
        read_tensors(tmp_path / "other.ckpt")


def test_a_file_that_is_no_archive(tmp_path: Path) -> None:
    (tmp_path / "text.ckpt").write_text("hello")
    with pytest.raises(ModelError, match="not a whole checkpoint archive"):
        read_tensors(tmp_path / "text.ckpt")


def test_code_in_a_bin_file_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    marker = tmp_path / "executed"
    torch.save({"a": Calls(builtins.open, str(marker), "w")}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match="nothing in it was executed"):
        read_tensors(tmp_path / "pytorch_model.bin")
    assert not marker.exists()


def test_views_and_dtypes_survive(tmp_path: Path) -> None:
    base = torch.arange(24.0).reshape(4, 6)
    kept = {
        "view": base[1:3, ::2].t(),
        "whole": base,
        "bf16": base.bfloat16(),
        "long": torch.arange(5),
        "scalar": torch.tensor(2.0),
    }
    torch.save({"state_dict": kept}, tmp_path / "views.ckpt")
    read = read_tensors(tmp_path / "views.ckpt")
    assert read.keys() == kept.keys()
    assert all(torch.equal(read[name], kept[name]) and read[name].dtype == kept[name].dtype for name in kept)


def test_int8_matrices_come_back_within_half_a_scale(tmp_path: Path) -> None:
    weights = {"w": torch.randn(5, 7), "zero": torch.zeros(2, 3), "bias": torch.randn(4), "ids": torch.arange(3)}
    weights["w"][2] *= 1000
    save_file(quantised(weights), tmp_path / "model.safetensors")
    back = read_tensors(tmp_path / "model.safetensors")
    assert set(back) == set(weights)
    assert back["w"].dtype == torch.float32
    scale = weights["w"].abs().amax(1, keepdim=True) / 127
    assert ((back["w"] - weights["w"]).abs() <= 0.56 * scale).all()  # half a scale, and float16 rounding of the scale itself
    assert torch.equal(back["zero"], weights["zero"])
    assert torch.equal(back["bias"], weights["bias"].half())
    assert torch.equal(back["ids"], weights["ids"])
