"""The lineage of images: thumbnails of what each particle was thought to become, in a page that needs nothing else."""

import base64
import io
import json
import re

import pytest
import torch
from PIL import Image as Pillow
from typer.testing import CliRunner

from fktext.images.generate import generate
from fktext.images.pictures import enlarged, picture, thumbnail
from fktext.images.pipelines import load
from fktext.images.process import Image
from fktext.population import Population
from fktext.settings import Settings
from fktext_cli import app, tracing
from fktext_evals import lineage

from .test_cli import SMALL, noise_folder  # noqa: F401  a fixture


def opened(address):
    kind, data = re.fullmatch("data:image/(png|jpeg);base64,(.*)", address).groups()
    return kind, Pillow.open(io.BytesIO(base64.b64decode(data)))


def test_thumbnails_are_small_and_keep_the_pixels_of_small_images():
    small = Image(torch.rand(1, 8, 8))
    kind, image = opened(thumbnail(small, 64))
    assert (kind, image.size, image.tobytes()) == ("png", (8, 8), picture(small.pixels).tobytes())
    for channels in (1, 3):
        kind, image = opened(thumbnail(Image(torch.rand(channels, 100, 300)), 64))
        assert (kind, image.size) == ("jpeg", (64, 21))
    assert len(thumbnail(Image(torch.rand(3, 512, 512)), 64)) < 6000, "noise, which is the worst"


def test_an_image_is_enlarged_pixel_by_pixel():
    pixels = torch.rand(1, 2, 3)
    large = enlarged(pixels, 4)
    assert large.size == (12, 8)
    assert large.resize((3, 2), Pillow.Resampling.NEAREST).tobytes() == picture(pixels).tobytes()
    assert len(set(large.crop((0, 0, 4, 4)).tobytes())) == 1


@pytest.fixture(scope="module")
def run(tmp_path_factory, noise_folder):  # noqa: F811
    """The folder of a run of four particles that are weighed at two steps."""
    folder = tmp_path_factory.mktemp("run") / "images"
    arguments = ["--model", noise_folder, *SMALL, "--resample-every", 2, "--lambda", 50, "-o", folder]
    done = CliRunner(env={"HF_HUB_OFFLINE": "1"}).invoke(app, ["image", "generate", *map(str, arguments)])
    assert done.exit_code == 0, done.stderr
    return folder


def test_data_has_a_thumbnail_of_each_particle_at_each_weighing(run):
    (item,) = json.loads((run / "trace.json").read_text())["populations"]
    kept = item["lineage"]
    lineage.check(kept)
    assert (kept["k"], [len(step) for step in kept["images"]], kept["texts"]) == ([2, 4], [4, 4], [[], []])
    for particle, thumb in zip(item["particles"], kept["images"][-1], strict=True):
        assert particle["image"] == thumb, "of 8 pixels both are the image itself"
    returned = Pillow.open(next(run.glob("sample-000-particle-*.png")))
    assert opened(kept["images"][-1][kept["chosen"]])[1].tobytes() == returned.tobytes()
    assert kept["images"][0] != kept["images"][1]


def test_the_page_shows_images_and_names_the_command(run):
    text = (run / "trace.html").read_text()
    assert "fktext image generate · lineage of particles" in text
    assert "particle-0" not in re.sub(r"<(pre|script).*?</\1>", "", text, flags=re.S)
    played = json.loads(re.search(r'<figure class="player".*?json">(.*?)</script>', text)[1])
    assert [len(event["guesses"]) for event in played if event["event"] == "weighing"] == [4, 4]
    for there in (">Image</th>", "All final images descend from", "returned image"):
        assert there in text
    assert ">Text</th>" not in text
    assert text.count('<image class="seen') == 8
    assert text.count('<rect class="node') == 8 + 2, "two are in the legend"
    addresses = re.findall(r'(?:src|href)="([^"]*)"', text)
    assert len(addresses) == 8 + 4
    assert all(address.startswith("data:image/png;base64,") for address in addresses)


def test_a_damaged_picture_row_is_refused(run):
    (item,) = json.loads((run / "trace.json").read_text())["populations"]
    for images in ([["x"] * 4], [["x"] * 3, []]):
        with pytest.raises(ValueError, match="images are not of 4 particles, or of none, at each of 2 weighings"):
            lineage.check({**item["lineage"], "images": images})


def test_beyond_so_many_bytes_there_are_no_more_pictures(run, monkeypatch, tmp_path):
    monkeypatch.setattr(tracing, "MOST_PICTURES", 1)
    pipeline, _ = load("tiny-digits")
    settings = Settings(particles=2, samples=2, steps=2, resample_every=1, x0_samples=1, method="base")
    kept = json.loads((run / "trace.json").read_text())["run"]
    whole = tracing.Trace(tmp_path / "trace.html", kept, "best")
    for item in generate(pipeline, [], [""], settings, watch=True):
        if isinstance(item, Population):
            whole.add(item)
    whole.write()
    text = (tmp_path / "trace.html").read_text()
    assert "no pictures of this population" in text
    first, second = text.split('<section class="run"')[1:]
    assert "<image" in first
    assert 'class="player"' in first
    assert "data:" not in second.partition("<script>")[0]
    assert 'class="player"' not in second
    for there in ("All final images descend", "particle-0"):
        assert there in second
