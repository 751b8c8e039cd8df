"""`fktext image generate` on the embedded digits and on tiny random pipelines."""

import json
import os
import resource
import shutil
import subprocess
import sys

import diffusers
import numpy
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from fktext.images.process import Image as Sample
from fktext.plugins import load_plugins
from fktext.rewards import RewardContext
from fktext_cli import app, pictures

from .conftest import LATENT, pixels, sd15


@pytest.fixture
def call(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    runner = CliRunner(env={"NO_COLOR": "1", "COLUMNS": "100", "TERM": "dumb"})
    return lambda *arguments: runner.invoke(app, ["image", "generate", *map(str, arguments)], prog_name="fktext")


@pytest.fixture(scope="session")
def noise_folder(tmp_path_factory):
    """A DDPM pipeline of 8x8 pixels with random weights."""
    folder = tmp_path_factory.mktemp("pixels")
    pixels(diffusers.DDPMScheduler()).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def prompted_folder(tmp_path_factory):
    """An SD 1.5 pipeline with random weights and the scheduler that real ones come with, which is deterministic."""
    folder = tmp_path_factory.mktemp("sd15")
    sd15(diffusers.PNDMScheduler(skip_prk_steps=True, **LATENT)).save_pretrained(folder)
    return folder


SMALL = ("--steps", 4, "-r", "brightness", "-n", 4)


def test_files(call, noise_folder, tmp_path):
    out = tmp_path / "new" / "images"
    result = call("--model", noise_folder, *SMALL, "--samples", 2, "--return", "all", "--lambda", 50, "-o", out)
    assert result.exit_code == 0, result.stderr
    names = [f"sample-{sample:03d}-particle-{particle}.png" for sample in range(2) for particle in range(4)]
    assert result.stdout.splitlines() == [str(out / name) for name in names]
    others = {"rows.jsonl", "trace.html", "trace.json", "sample-000-population.png", "sample-001-population.png"}
    assert {file.name for file in out.iterdir()} == {*names, *others}
    assert "steering by brightness: towards bright images" in result.stderr
    assert "fk: 2 populations of 4 particles, 4 denoiser rows per particle, 32 reward calls requested" in result.stderr

    rows = [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines()]
    for row, name in zip(rows, names, strict=True):
        with Image.open(out / name) as image:
            assert json.loads(image.text["fktext"]) == row
            assert (image.mode, image.size) == ("L", (8, 8))
            brightness = numpy.asarray(image).mean() / 255
        assert row["file"] == name
        assert row["reward"] == row["rewards"]["brightness"] == pytest.approx(brightness, abs=0.003)
        assert row["model"]["scheduler"] == "DDPMScheduler"
        assert (row["settings"]["lam"], row["settings"]["steps"], row["seed"]) == (50, 4, 0)
    for sample in range(2):
        weights = [2.718281828459045 ** row["log_weight"] for row in rows[4 * sample : 4 * sample + 4]]
        assert sum(weights) == pytest.approx(1)

    kept = json.loads((out / "trace.json").read_text())
    assert [len(item["lineage"]["ancestors"]) for item in kept["populations"]] == [4, 4]
    assert kept["populations"][0]["particles"][2]["text"] == "particle-2"
    assert "<html" in (out / "trace.html").read_text()


def tiles(sheet, places):
    """The pixels of the images on a sheet, by their (column, row) in a panel that begins at so many pixels from the left."""
    return [sheet[30 + row * 124 :, 12 + left + column * 108 :][:96:12, :96:12, 0].tolist() for left, column, row in places]


def test_the_sheet_shows_the_heaviest_first_beside_the_pipelines_own_image(call, noise_folder, tmp_path):
    result = call("--model", noise_folder, *SMALL, "--return", "all", "--lambda", 5, "-o", tmp_path)
    assert result.exit_code == 0, result.stderr
    assert "base: 1 population of 1 particle, 4 denoiser rows per particle, 1 reward calls" in result.stderr
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    order = sorted(range(4), key=lambda index: -rows[index]["log_weight"])
    assert order != list(range(4)), "or this seed shows nothing"
    sheet = numpy.asarray(Image.open(tmp_path / "sample-000-population.png"))
    steered = tiles(sheet, [(144, place % 2, place // 2) for place in range(4)])
    assert steered == [numpy.asarray(Image.open(tmp_path / rows[index]["file"])).tolist() for index in order]

    (alone,) = call("--model", noise_folder, "--steps", 4, "--method", "base", "-o", tmp_path / "base").stdout.splitlines()
    assert tiles(sheet, [(0, 0, 0)]) == [numpy.asarray(Image.open(alone)).tolist()]
    for left, name in ((0, "unsteered"), (144, "steered")):
        words = sheet[:26, left : left + 100]
        assert words.min() < 100, f"a title says {name}"
    assert sheet[126 + 12 : 152, 12:108].min() < 100, "a label says what it is worth"


def test_a_sheet_without_what_is_unsteered(call, noise_folder, tmp_path):
    assert call("--model", noise_folder, *SMALL, "--no-compare", "-o", tmp_path / "a").exit_code == 0
    assert call("--model", noise_folder, *SMALL, "--method", "best-of-n", "-o", tmp_path / "b").exit_code == 0
    for name in ("a", "b"):
        with Image.open(tmp_path / name / "sample-000-population.png") as sheet:
            assert sheet.size == (12 + 2 * 108, 30 + 2 * 124), "one panel"


def test_a_sheet_of_a_dead_population_shows_no_weight_and_returns_nothing():
    tile = pictures.Tile(Image.new("L", (8, 8), 255), "reward -inf", 0.0)
    sheet = numpy.asarray(pictures.sheet([pictures.Panel("steered (fk)", [tile] * 3)]))
    assert sheet.shape == (30 + 2 * 124, 12 + 2 * 108, 3)
    for colour in (pictures.INK, pictures.RETURNED):
        assert not (sheet == colour).all(-1).any()


def test_images_are_enlarged_where_that_is_asked_for(call, noise_folder, tmp_path):
    def returned(name, *more):
        result = call("--model", noise_folder, *SMALL, *more, "-o", tmp_path / name)
        assert result.exit_code == 0, result.stderr
        return Image.open(result.stdout.strip())

    plain, large = returned("a"), returned("b", "--enlarge", 16)
    assert (plain.size, large.size) == ((8, 8), (128, 128))
    assert large.resize((8, 8), Image.Resampling.NEAREST).tobytes() == plain.tobytes()
    assert json.loads(large.text["fktext"])["settings"]["enlarge"] == 16


def test_several_prompts(call, prompted_folder, tmp_path):
    command = ("--model", prompted_folder, *SMALL, "--scheduler", "ddim", "--height", 16, "--width", 16, "--samples", 2)
    (tmp_path / "prompts.csv").write_text('id,prompt\n1,a cat\n2,"a dog, asleep"\n')
    result = call(*command, "--prompts", tmp_path / "prompts.csv", "-o", tmp_path / "file")
    assert result.exit_code == 0, result.stderr
    rows = [json.loads(line) for line in (tmp_path / "file" / "rows.jsonl").read_text().splitlines()]
    assert [row["prompt"] for row in rows] == ["a cat"] * 2 + ["a dog, asleep"] * 2
    begins = [f"prompt-{prompt:03d}-sample-{sample:03d}-" for prompt in range(2) for sample in range(2)]
    for row, begin, printed in zip(rows, begins, result.stdout.splitlines(), strict=True):
        assert row["file"].startswith(begin)
        assert printed == str(tmp_path / "file" / row["file"])
        assert (tmp_path / "file" / f"{begin}population.png").exists()
    assert len(list((tmp_path / "file").glob("*.png"))) == 8
    assert "fk: 4 populations of 4 particles" in result.stderr

    same = call(*command, "a cat", "a dog, asleep", "-o", tmp_path / "words")
    for one, other in zip(result.stdout.splitlines(), same.stdout.splitlines(), strict=True):
        assert Image.open(one).tobytes() == Image.open(other).tobytes()
    alone = call(*command, "a cat", "-o", tmp_path / "file", "--overwrite")
    assert alone.exit_code == 0, alone.stderr
    assert {file.name[:10] for file in (tmp_path / "file").glob("*.png")} == {"sample-000", "sample-001"}


@pytest.mark.parametrize(
    ("name", "text", "more", "message"),
    [
        ("p.jsonl", '{"prompt": "a cat"}\n{"topic": 1}\n', (), "p.jsonl:2: no key prompt"),
        ("p.xml", "a cat", (), "expected .txt, .jsonl, .csv"),
        ("p.txt", "a cat\n", ("a dog",), "give prompts as arguments or --prompts, not both"),
    ],
)
def test_prompts_are_read_before_anything_is_loaded(call, tmp_path, name, text, more, message):
    (tmp_path / name).write_text(text)
    result = call(*more, "--prompts", tmp_path / name, "--model", "no/model", "-r", "brightness", "-o", tmp_path / "out")
    assert result.exit_code == 2
    assert message in result.stderr


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        (("-r", "digit:lable=7"), "did you mean 'label'"),
        (("-r", "brightnes"), "did you mean 'brightness'"),
        (("-r", "digit:label=seven"), "seven"),
        (("-r", "brightness", "--judge", "brightnes"), "did you mean 'brightness'"),
        (("-r", "brightness", "--compare"), "--compare needs a --judge"),
    ],
)
def test_rewards_are_made_before_a_pipeline_is_loaded(call, monkeypatch, tmp_path, reward, message):
    monkeypatch.setattr("fktext.images.pipelines.load", lambda *_, **__: pytest.fail("the pipeline was loaded"))
    result = call("--model", "some/large-pipeline", *reward, "-o", tmp_path)
    assert result.exit_code == 2
    assert message in result.stderr


@pytest.mark.parametrize("suffix", [".html", ".json"])
def test_the_lineage_goes_where_it_is_asked_for(call, noise_folder, tmp_path, suffix):
    path = tmp_path / f"run{suffix}"
    command = ("--model", noise_folder, *SMALL, "--trace", path, "-o", tmp_path / "out")
    assert call(*command).exit_code == 0
    assert "data:image/png;base64," in path.read_text()
    assert not list((tmp_path / "out").glob("trace.*"))
    shutil.rmtree(tmp_path / "out")
    again = call(*command)
    assert (again.exit_code, again.stdout) == (2, "")
    assert "exists; --overwrite replaces it" in again.stderr


def test_the_same_seed_the_same_images_and_the_batch_changes_nothing(call, noise_folder, tmp_path):
    def images(name, *more):
        result = call("--model", noise_folder, *SMALL, "--samples", 2, *more, "-o", tmp_path / name)
        assert result.exit_code == 0, result.stderr
        return [numpy.asarray(Image.open(line)).tolist() for line in result.stdout.splitlines()]

    first = images("a")
    assert images("b") == first
    assert images("c", "--batch-size", 1) == first
    assert images("d", "--seed", 1) != first


def test_prompted_pipelines_need_a_scheduler_that_draws(call, prompted_folder, tmp_path):
    command = ("a cat", "--model", prompted_folder, *SMALL, "--height", 16, "--width", 16, "-o", tmp_path)
    refused = call(*command)
    assert refused.exit_code == 2
    assert "PNDMScheduler" in refused.stderr
    assert "What fits a StableDiffusionPipeline: ddim with eta above 0, ddpm, euler-ancestral, sde-dpm" in refused.stderr
    assert list(tmp_path.iterdir()) == []
    refused = call(*command, "--scheduler", "ddim", "--eta", 0)
    assert refused.exit_code == 2
    assert "deterministic" in refused.stderr
    for scheduler, kind in (
        ("ddim", "DDIM"),
        ("euler-ancestral", "EulerAncestralDiscrete"),
        ("sde-dpmsolver", "DPMSolverMultistep"),
    ):
        done = call(*command, "--scheduler", scheduler, "--guidance-scale", 3, "--overwrite")
        assert done.exit_code == 0, done.stderr
        row = json.loads((tmp_path / "rows.jsonl").read_text())
        assert (row["prompt"], row["model"]["scheduler"]) == ("a cat", f"{kind}Scheduler")
        assert row["settings"]["guidance_scale"] == 3
        assert row["settings"].get("eta") == (1.0 if scheduler == "ddim" else None)
        with Image.open(tmp_path / row["file"]) as image:
            assert (image.mode, image.size) == ("RGB", (16, 16))


def test_a_deterministic_sampler_may_choose_but_not_steer(call, prompted_folder, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(prompted_folder, folder)
    diffusers.EulerDiscreteScheduler(**LATENT).save_pretrained(folder / "scheduler")
    (folder / "model_index.json").write_text(
        (folder / "model_index.json").read_text().replace("PNDMScheduler", "EulerDiscreteScheduler")
    )
    command = ("a cat", "--model", folder, *SMALL, "--height", 16, "--width", 16, "-o", tmp_path / "out")
    assert "deterministic" in call(*command).stderr
    done = call(*command, "--method", "best-of-n")
    assert done.exit_code == 0, done.stderr
    assert "Loading" not in done.stderr


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_damaged_pipelines_are_errors(call, prompted_folder, tmp_path, part):
    folder = tmp_path / "model"
    shutil.copytree(prompted_folder, folder)
    (file,) = (folder / part).glob("*.safetensors")
    command = ("a cat", "--model", folder, *SMALL, "--scheduler", "ddim", "-o", tmp_path / "out")
    if part != "text_encoder":  # transformers warns, and fills in
        tensors = load_file(file)
        gone = max(tensors)
        save_file({name: tensor for name, tensor in tensors.items() if name != gone}, file, {"format": "pt"})
        result = call(*command)
        assert result.exit_code == 1
        assert f"lacks weights of its {part}, such as {gone}" in result.stderr
    file.write_bytes(file.read_bytes()[:5000])
    result = call(*command)
    assert result.exit_code == 1
    assert f"error: cannot load the pipeline '{folder}'" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("-r", "toxicity"), 2, "reward 'toxicity' scores texts, not images"),
        (("-r", "brightnes"), 2, "did you mean 'brightness'"),
        (("--method", "best-of-n"), 2, "--method best-of-n needs a --reward"),
        (("-r", "brightness", "--model", "tiny-digit"), 2, "unknown image model 'tiny-digit': did you mean 'tiny-digits'"),
        (("-r", "brightness", "--model", "no/model"), 1, "cannot load the pipeline 'no/model' (the run is offline"),
        (("a seven", "-r", "brightness"), 2, "DDPMPipeline takes no prompt, got 'a seven'"),
        (("-r", "brightness", "--eta", 1), 2, "DDPMScheduler takes no eta"),
        (("-r", "brightness", "--scheduler", "ddim", "--eta", "nan"), 2, "Invalid value for '--eta'"),
        (("-r", "brightness", "--scheduler", "flow-sde"), 2, "of another kind of diffusion than 'tiny-digits'"),
        (
            ("-r", "brightness", "--scheduler", "euler-ancestral"),
            2,
            "'euler-ancestral' is not what a DDPMPipeline runs as it must be run. What fits: ddim, ddpm, sde-dpmsolver",
        ),
        (("-r", "brightness", "--height", 8), 2, "DDPMPipeline takes no 'height'"),
        (("-r", "brightness", "--compare"), 2, "--compare needs a --judge"),
        (("-r", "brightness", "--compare", "--judge", "brightness"), 2, "is what steers"),
        (("-r", "brightness", "--no-compare", "--judge", "digit:label=1"), 2, "--judge is for --compare"),
        (("-r", "brightness", "--method", "best-of-n", "--judge", "digit:label=1"), 2, "--judge is for --compare"),
        (("-r", "colour:of=red", "--steps", 2), 1, "reward 'colour' is for images with 3 channels, and one came with 1"),
    ],
)
def test_errors_are_one_line(call, tmp_path, arguments, code, message):
    result = call(*arguments, "-o", tmp_path)
    assert result.exit_code == code, result.stderr
    error = next(line for line in result.stderr.splitlines() if line.startswith("error: "))
    assert message in error
    assert result.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_another_runs_images_is_left_alone(call, noise_folder, tmp_path):
    command = ("--model", noise_folder, *SMALL, "-o", tmp_path)
    assert call(*command).exit_code == 0
    again = call(*command)
    assert again.exit_code == 2
    assert "has images of another run; --overwrite replaces them" in again.stderr
    (tmp_path / "mine.png").write_bytes(b"kept")
    assert call(*command, "--overwrite", "--return", "all", "--samples", 2).exit_code == 0
    assert len(list(tmp_path.glob("sample-*.png"))) == 10
    assert call(*command, "--overwrite").exit_code == 0
    (row,) = map(json.loads, (tmp_path / "rows.jsonl").read_text().splitlines())
    left = {file.name for file in tmp_path.iterdir()}
    assert left == {row["file"], "sample-000-population.png", "rows.jsonl", "trace.html", "trace.json", "mine.png"}


def test_a_folder_that_cannot_be_is_refused_before_anything_is_computed(call, noise_folder, tmp_path):
    (tmp_path / "file").write_text("")
    for name in ("file", "file/below"):
        result = call("--model", noise_folder, *SMALL, "-o", tmp_path / name)
        assert result.exit_code == 2
        assert "is not a folder" in result.stderr
        assert "steering" not in result.stderr


def test_ddim_steers_the_embedded_digits(call, tmp_path):
    result = call("--scheduler", "ddim", "--steps", 4, "-r", "brightness", "-n", 2, "-o", tmp_path)
    assert result.exit_code == 0, result.stderr
    row = json.loads((tmp_path / "rows.jsonl").read_text())
    assert (row["model"]["scheduler"], row["settings"]["eta"]) == ("DDIMScheduler", 1.0)


def test_nothing_is_said_of_torchvision_and_other_warnings_are(prompted_folder, tmp_path):
    """In a process of its own: transformers says it once, when diffusers imports an image processor."""
    code = """
import logging, sys
from fktext.images.pipelines import load
load(sys.argv[1], scheduler="ddim")
logging.getLogger("transformers.utils.import_utils").warning("`X` requires torchvision (not installed); falling back to `XPil`")
"""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, str(prompted_folder)]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert [line for line in done.stderr.splitlines() if "torchvision" in line] == [
        "[transformers] `X` requires torchvision (not installed); falling back to `XPil`"
    ], "what is said outside of loading a pipeline is left alone"


def test_a_full_disk_leaves_no_half_image(noise_folder, tmp_path):
    def small_files():
        resource.setrlimit(resource.RLIMIT_FSIZE, (900, 900))

    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "fktext_cli", "image", "generate", "--model", str(noise_folder), *map(str, SMALL), "-o", "out"]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, preexec_fn=small_files)
    assert done.returncode == 1
    assert "error: cannot write 'out/sample-000-population.png': File too large" in done.stderr
    assert list((tmp_path / "out").iterdir()) == []


def test_without_diffusers_the_error_says_what_to_install(call, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    result = call("-r", "brightness", "-o", tmp_path)
    assert result.exit_code == 2
    assert "images need diffusers and Pillow: pip install 'fktext[image]'" in result.stderr


def test_a_text_command_refuses_a_reward_of_images():
    result = CliRunner().invoke(app, ["generate", "--reward", "brightness", "the lake"])
    assert result.exit_code == 2
    assert "reward 'brightness' scores images, not texts: `fktext image generate` takes it" in result.stderr


def test_rewards_says_which_are_of_images():
    runner = CliRunner(env={"COLUMNS": "100"})
    assert ", of images)\n    mean brightness of an image" in runner.invoke(app, ["rewards"]).stdout
    shown = runner.invoke(app, ["rewards", "show", "digit"]).stdout
    assert shown.startswith("digit  (fktext ")
    assert "of texts also" not in shown
    assert json.loads(runner.invoke(app, ["rewards", "show", "digit", "--json"]).stdout)["modality"] == "image"


def comparison(stderr):
    """method -> (by weight of whole populations, of the images returned, how many)."""
    lines = stderr.splitlines()
    start = lines.index("share with p > 1/2 by digit:label=7 as heldout-digit-judge sees it:")
    found = [line.split() for line in lines[start + 2 : start + 5]]
    return {words[0]: (float(words[1]), float(words[2]), int(words[-2])) for words in found}


def test_the_embedded_digits_are_steered(call, tmp_path):
    """Base below best-of-n below FK, by a judge that steered nothing."""
    result = call("-r", "digit:label=7", "-n", 8, "--samples", 16, "--steps", 25, "--resample-every", 3, "-o", tmp_path)
    assert result.exit_code == 0, result.stderr
    found = comparison(result.stderr)
    assert [count for _, _, count in found.values()] == [128, 16, 16]
    shares = {method: share for method, (_, share, _) in found.items()}
    assert shares["base"] < shares["best-of-n"] < shares["fk"], shares
    assert shares["base"] < 0.3
    assert shares["fk"] > 0.6


def test_the_comparison_counts_what_the_files_hold(call, tmp_path):
    more = ("--steps", 20, "--ess-threshold", 0, "--return", "all")
    result = call("-r", "digit:label=7", "-n", 16, "--lambda", 0.1, *more, "-o", tmp_path)
    weighed, returned, count = comparison(result.stderr)["fk"]
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    pixels = [torch.tensor(numpy.asarray(Image.open(tmp_path / row["file"])) / 255)[None].float() for row in rows]
    judge = load_plugins().create("digit:label=7,model=heldout-digit-judge", RewardContext(), "image").reward
    hits = (judge.score([Sample(each) for each in pixels]).exp() > 0.5).double()
    assert 0 < hits.sum() < count == 16, "or this seed shows nothing"
    assert returned == pytest.approx(float(hits.mean()), abs=6e-4)
    weights = torch.tensor([row["log_weight"] for row in rows]).exp()
    assert weighed == pytest.approx(float((weights * hits).sum()), abs=6e-4)


def test_no_comparison_where_none_is_asked_for(call, tmp_path):
    short = ("-r", "digit:label=7", "-n", 2, "--steps", 2)
    for name, more in (("a", ["--no-compare"]), ("b", ["--method", "best-of-n"])):
        result = call(*short, *more, "-o", tmp_path / name)
        assert result.exit_code == 0, result.stderr
        assert "heldout-digit-judge" not in result.stderr
