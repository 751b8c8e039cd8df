"""`fktext models` on pipelines of images, and their names."""

import json
import shutil
import subprocess
import sys

import diffusers
import pytest
from typer.testing import CliRunner

from fktext.errors import ModelError, UsageError
from fktext.files.catalogue import catalogue, image_catalogue
from fktext.images import pipelines
from fktext.images.facts import facts
from fktext.images.names import place
from fktext.models import load
from fktext_cli import app

from .conftest import LATENT, sd15


@pytest.fixture
def call():
    runner = CliRunner(env={"HF_HUB_OFFLINE": "1", "COLUMNS": "200"})
    return lambda *arguments: runner.invoke(app, ["models", *map(str, arguments)], prog_name="fktext")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sd15")
    sd15(diffusers.DDIMScheduler(**LATENT)).save_pretrained(folder)
    return folder


def test_the_list_has_them_after_those_of_texts(call):
    rows = json.loads(call("list", "--format", "json").stdout)
    names = [row["name"] for row in rows]
    assert {"tiny-digits", "sd-1.5", "sdxl"} <= set(names)
    assert names.index("tiny-digits") > max(names.index(entry.name) for entry in catalogue())
    assert {row["family"] for row in rows if row["name"] in {entry.name for entry in image_catalogue()}} == {"diffusers"}


def test_names_need_no_torch():
    code = "import sys; from fktext.images.names import is_pipeline; assert is_pipeline('sdxl') and not is_pipeline('bert'); "
    code += "assert not {'torch', 'diffusers', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_show_agrees_with_the_loaded_pipeline(call, folder):
    for name in ("tiny-digits", str(folder)):
        pipeline, digest = pipelines.load(name)
        found = facts(name)
        networks = {
            part: network for part, network in pipeline.components.items() if callable(getattr(network, "named_parameters", None))
        }
        counted = {part: sum(tensor.numel() for tensor in network.parameters()) for part, network in networks.items()}
        assert found.digest == digest
        assert {part: found.parameters[part] for part in counted} == pytest.approx(counted, rel=0.01), "and a few buffers"
        assert (found.pipeline, found.scheduler) == (type(pipeline).__name__, type(pipeline.scheduler).__name__)
        shown = call("show", name)
        assert shown.exit_code == 0, shown.stderr
        assert f"    pipeline:   {found.pipeline}" in shown.stdout.splitlines()
        row = json.loads(call("show", name, "--format", "json").stdout)
        assert (row["digest"], row["scheduler"]) == (digest, found.scheduler)


def test_a_narrower_copy_of_the_weights_does_not_count_twice(folder, tmp_path):
    twice = tmp_path / "twice"
    shutil.copytree(folder, twice)
    (weights,) = (twice / "unet").glob("*.safetensors")
    shutil.copy(weights, weights.with_suffix(".fp16.safetensors"))
    assert facts(str(twice)).parameters == facts(str(folder)).parameters
    weights.write_bytes(b"short")
    with pytest.raises(ModelError, match=r"cannot read .*unet"):
        facts(str(twice))


def test_an_alias_stands_for_a_hub_id(call, monkeypatch, tmp_path):
    assert place("sdxl") == "stabilityai/stable-diffusion-xl-base-1.0"
    shown = call("show", "sdxl")
    assert "    files:      not on this machine; `fktext image generate --model sdxl` fetches them" in shown.stdout.splitlines()
    with pytest.raises(ModelError, match=r"cannot load the pipeline 'sdxl' \(the run is offline"):
        pipelines.load("sdxl", offline=True)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sdxl").mkdir()
    assert place("sdxl") == "sdxl", "a folder comes first"


@pytest.mark.parametrize("name", ["tiny-digits", "sdxl"])
def test_where_texts_are_wanted_the_error_says_what_takes_them(call, name):
    with pytest.raises(UsageError, match=f"'{name}' makes images, not texts: `fktext image generate --model {name}` takes it"):
        load(name)
    assert "makes images, not texts" in call("check", name).stderr
