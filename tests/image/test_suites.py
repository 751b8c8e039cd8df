"""Suites of images: the paper's, and a small one run on tiny random pipelines of several kinds."""

import json

import diffusers
import numpy
import pytest
from PIL import Image

import fktext_evals
from fktext.errors import UsageError
from fktext.images import pipelines
from fktext.images.generate import resolve
from fktext.plugins import load_plugins
from fktext_evals.executors import Worker
from fktext_evals.reporting.report import as_csv
from fktext_evals.suites import catalogue

from .conftest import FLOW, LATENT, pixels, sd3, sd15, sdxl

SMALL = """
name = "small"
description = "a test"
modality = "image"
prompts = [{prompts}]
rewards = ["brightness"]
model = "{model}"
samples = 2
seeds = [3]

[pipeline]
{pipeline}

[settings]
steps = 5
lam = 200.0
resample_every = 1
ess_threshold = 2.0
resampler = "multinomial"
potential = "max"

[[methods]]
name = "base"
method = "base"

[[methods]]
name = "best-of-n"
method = "best-of-n"
particles = 4

[[methods]]
name = "fk"
particles = 4

[[judges]]
name = "steering"
reward = "brightness"
label = "bright"
kind = "mean"
"""

SIZE = "height = 16\nwidth = 16\nguidance_scale = 3.0"
KINDS = {
    "ddpm": (lambda: pixels(diffusers.DDPMScheduler()), '""', ""),
    "sd15": (
        lambda: sd15(diffusers.PNDMScheduler(skip_prk_steps=True, **LATENT)),
        '"a cat", "a dog"',
        f'scheduler = "ddim"\n{SIZE}',
    ),
    "sd21": (
        lambda: sd15(diffusers.DDIMScheduler(prediction_type="v_prediction", **LATENT)),
        '"a cat"',
        f"eta = 1.0\n{SIZE}",
    ),
    "sdxl": (lambda: sdxl(diffusers.EulerDiscreteScheduler(**LATENT)), '"a cat"', f'scheduler = "ddim"\neta = 1.0\n{SIZE}'),
    "sd3": (
        lambda: sd3(diffusers.FlowMatchEulerDiscreteScheduler(**FLOW), encoders=True),
        '"a cat"',
        SIZE,
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_suite_runs_on_pipelines_of_each_kind(kind, tmp_path, monkeypatch):
    make, prompts, pipeline = KINDS[kind]
    pipe = make()
    if kind == "sd3":  # without its T5 diffusers saves what it does not load
        monkeypatch.setattr(pipelines, "load", lambda name, **_: (pipe, None))
    else:
        pipe.save_pretrained(tmp_path / "model")
    path = tmp_path / "small.toml"
    path.write_text(SMALL.format(prompts=prompts, model=tmp_path / "model", pipeline=pipeline))
    found = fktext_evals.run(str(path), out=tmp_path / "run", offline=True)
    count = 2 if kind == "sd15" else 1
    assert (found.missing, len(found.rows)) == (0, 6 * count)
    assert found.run["model"]["pipeline"].endswith("Pipeline")
    assert "scheduler" in found.run["model"]
    for row in found.rows:
        with Image.open(tmp_path / "run" / row["text"]) as image:
            assert numpy.asarray(image).mean() / 255 == pytest.approx(row["judges"]["steering"], abs=0.003)
            assert json.loads(image.text["fktext"])["sample"] == row["sample"]
        assert row["weighed_at"] == ([1, 2, 3, 4, 5] if row["method"] == "fk" else [5])
    rewards = {method: sum(row["reward"] for row in found.of((method, n))) for method, n in (("base", 1), ("best-of-n", 4))}
    assert rewards["best-of-n"] > rewards["base"], "base is the first of its particles"
    assert "| fk | 4 |" in fktext_evals.markdown(found)
    assert "distinct" not in as_csv([found])
    before = {file.name: file.stat().st_mtime_ns for file in (tmp_path / "run" / "images").iterdir()}
    again = fktext_evals.run(str(path), out=tmp_path / "run", offline=True)
    assert again.rows == found.rows
    assert {file.name: file.stat().st_mtime_ns for file in (tmp_path / "run" / "images").iterdir()} == before
    assert len(before) == len(found.rows)


class Here:
    """Workers' work in this process, the last cell first."""

    def run(self, job, cells):
        worker = Worker(job)
        yield worker.started
        yield from map(worker.make, reversed(cells))


@pytest.mark.parametrize(
    "how",
    [{"executor": Here()}, pytest.param({"workers": 2}, marks=pytest.mark.long), {"judge_device": "cpu:0"}],
    ids=["a worker", "two workers", "judges apart"],
)
def test_images_are_the_same_whoever_makes_them(how, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    make, prompts, pipeline = KINDS["ddpm"]
    make().save_pretrained(tmp_path / "model")
    path = tmp_path / "small.toml"
    path.write_text(SMALL.format(prompts=prompts, model=tmp_path / "model", pipeline=pipeline))
    one, other = (
        fktext_evals.run(str(path), out=tmp_path / name, offline=True, **options) for name, options in (("one", {}), ("other", how))
    )
    assert other.run == one.run
    for ours, theirs in zip(one.rows, other.rows, strict=True):
        assert {**ours, "seconds": 0} == {**theirs, "seconds": 0}
        assert (one.folder / ours["text"]).read_bytes() == (other.folder / theirs["text"]).read_bytes()


def test_the_papers_image_suite():
    found = catalogue.load("paper-image")
    catalogue.check(found, load_plugins())
    assert found.modality == "image"
    assert found.pipeline == {"scheduler": "ddim", "eta": 1.0, "guidance_scale": 7.5}
    assert [method.key for method in found.methods] == [("base", 1), ("best-of-n", 4), ("fk", 4)]
    settings = resolve(found.methods[-1].asked)
    assert settings.plan().schedule.weighings(settings.steps) == (20, 40, 60, 80, 100)
    assert (settings.potential, settings.lam, settings.resampler, settings.x0_samples) == ("max", 10, "multinomial", 1)
    assert settings.ess_threshold > 1  # resample at every weighing
    assert "imagereward" in found.rewards


def test_mistakes(tmp_path):
    text = SMALL.format(prompts='""', model="tiny-digits", pipeline="")

    def load(*changes):
        path = tmp_path / "small.toml"
        changed = text
        for old, new in changes:
            assert old in changed
            changed = changed.replace(old, new)
        path.write_text(changed)
        return catalogue.load(str(path))

    with pytest.raises(UsageError, match="is of texts, which have no pipeline"):
        load(('modality = "image"', ""), ("[pipeline]", "[pipeline]\neta = 1.0"))
    with pytest.raises(UsageError, match="is of images, which have no judge_tokens"):
        load(("samples = 2", "samples = 2\njudge_tokens = 3"))
    with pytest.raises(UsageError, match="reward 'toxicity' scores texts, and suite 'small' is of images"):
        catalogue.check(load(('rewards = ["brightness"]', 'rewards = ["toxicity"]')), load_plugins())
    for change, message in (
        (("[pipeline]", "[pipeline]\neta = 1.0"), "DDPMScheduler takes no eta"),
        (("steps = 5", "steps = 5\nlength = 8"), "length is a setting of texts"),
        (("steps = 5", "steps = 5\nx0_samples = 2"), "x0_samples must be 1"),
        (('model = "tiny-digits"', 'model = "tiny-mdlm"'), "unknown image model 'tiny-mdlm'"),
    ):
        with pytest.raises(UsageError, match=message):
            fktext_evals.run(load(change), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
