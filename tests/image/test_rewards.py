"""Rewards of images: simple ones against arithmetic, and real CLIP and classifier classes with random weights."""

import json

import pytest
import torch
from safetensors.torch import save_file
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, ViTConfig, ViTForImageClassification, ViTImageProcessor

from fktext import embedded
from fktext.errors import ModelError, RewardError, UsageError
from fktext.images.process import Image
from fktext.plugins import load_plugins
from fktext.rewards import RewardContext, Scorer, Weighted
from fktext_plugins.digits import load, small_grey

from .conftest import tokenizer

OFFLINE = RewardContext(offline=True, batch_size=2)


@pytest.fixture(scope="module")
def registry():
    return load_plugins()


def create(registry, spec):
    return registry.create(spec, OFFLINE, "image").reward


def images(count=5, channels=3, side=16, prompts=("a cat", "a dog")):
    generator = torch.Generator().manual_seed(0)
    return [Image(torch.rand(channels, side, side, generator=generator), prompts[index % len(prompts)]) for index in range(count)]


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("clip")
    small = {"hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 4, "num_hidden_layers": 1}
    text = {"vocab_size": 600, "bos_token_id": 0, "eos_token_id": 1, "max_position_embeddings": 16, **small}
    vision = {"image_size": 16, "patch_size": 8, **small}
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=24)).save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def classifier_folder(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("classifier")
    config = ViTConfig(
        image_size=16,
        patch_size=8,
        hidden_size=16,
        intermediate_size=16,
        num_attention_heads=2,
        num_hidden_layers=1,
        id2label={0: "cat", 1: "dog", 2: "owl"},
        label2id={"cat": 0, "dog": 1, "owl": 2},
    )
    model = ViTForImageClassification(config)
    torch.nn.init.normal_(model.classifier.weight)
    model.save_pretrained(folder)
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(folder)
    return folder


def test_brightness_and_colour(registry):
    grey, red = Image(torch.full((1, 2, 2), 0.25)), Image(torch.tensor([0.8, 0.2, 0.4])[:, None, None].expand(3, 2, 2))
    assert create(registry, "brightness").score([grey, red]).tolist() == pytest.approx([0.25, 1.4 / 3])
    assert create(registry, "colour:of=red").score([red]).tolist() == pytest.approx([0.5])
    assert create(registry, "colour:of=blue").score([red]).tolist() == pytest.approx([-0.1])
    with pytest.raises(RewardError, match="3 channels, and one came with 1"):
        create(registry, "colour:of=red").score([grey])


def test_clip_is_the_models_own_similarity(registry, clip_folder):
    seen = images()
    model = CLIPModel.from_pretrained(clip_folder).eval()
    processor, words = CLIPImageProcessor.from_pretrained(clip_folder), tokenizer()
    pixels = processor(images=[image.pixels for image in seen], do_rescale=False, return_tensors="pt")["pixel_values"]
    rows = words(["a cat", "a dog"], padding=True, return_tensors="pt")
    with torch.inference_mode():
        output = model(input_ids=rows["input_ids"], attention_mask=rows["attention_mask"], pixel_values=pixels)
    logits = torch.stack([output.logits_per_image[index, index % 2] for index in range(len(seen))]).double()
    found = create(registry, f"clip:model={clip_folder},scale=logit").score(seen)
    torch.testing.assert_close(found, logits, rtol=1e-4, atol=1e-4)
    assert len(set(found.tolist())) == len(seen)
    scale = model.logit_scale.exp().item()
    torch.testing.assert_close(create(registry, f"clip:model={clip_folder}").score(seen) * scale, logits, rtol=1e-4, atol=1e-4)
    preferred = create(registry, f"pickscore:model={clip_folder}")
    torch.testing.assert_close(preferred.score(seen), logits, rtol=1e-4, atol=1e-4)
    assert len(preferred.digest) == 16
    asked = create(registry, f"clip:model={clip_folder},scale=logit,prompt=a dog").score(seen)
    torch.testing.assert_close(asked, output.logits_per_image[:, 1].double(), rtol=1e-4, atol=1e-4)


def test_clip_takes_grey_images_and_long_prompts_and_refuses_none(registry, clip_folder):
    reward = create(registry, f"clip:model={clip_folder}")
    assert len(reward.score(images(channels=1, prompts=["a very long prompt " * 20]))) == 5
    with pytest.raises(RewardError, match="no prompt to be compared with"):
        reward.score(images(prompts=[""]))


def test_aesthetic_is_linear_in_the_embedding(registry, clip_folder, tmp_path):
    weight = torch.randn(1, 24, generator=torch.Generator().manual_seed(1))
    save_file({"weight": weight, "bias": torch.tensor([2.0])}, tmp_path / "head.safetensors")
    seen = images()
    model = CLIPModel.from_pretrained(clip_folder).eval()
    pixels = CLIPImageProcessor.from_pretrained(clip_folder)(
        images=[image.pixels for image in seen], do_rescale=False, return_tensors="pt"
    )["pixel_values"]
    with torch.inference_mode():
        embedded = model.visual_projection(model.vision_model(pixel_values=pixels).pooler_output)
    expected = torch.nn.functional.normalize(embedded, dim=1) @ weight[0] + 2
    found = create(registry, f"aesthetic:model={clip_folder},head={tmp_path / 'head.safetensors'}").score(seen)
    torch.testing.assert_close(found, expected.double(), rtol=1e-4, atol=1e-4)
    save_file({"weight": weight[:, :5].contiguous(), "bias": torch.tensor([2.0])}, tmp_path / "other.safetensors")
    with pytest.raises(ModelError, match=r"weight \(1, 5\); expected weight \(1, 24\)"):
        create(registry, f"aesthetic:model={clip_folder},head={tmp_path / 'other.safetensors'}")
    with pytest.raises(ModelError, match="cannot read the aesthetic head"):
        create(registry, f"aesthetic:model={clip_folder},head={tmp_path / 'none.safetensors'}")


def test_image_classifier(registry, classifier_folder):
    seen = images()
    model = ViTForImageClassification.from_pretrained(classifier_folder).eval()
    pixels = ViTImageProcessor.from_pretrained(classifier_folder)(
        images=[image.pixels for image in seen], do_rescale=False, return_tensors="pt"
    )["pixel_values"]
    with torch.inference_mode():
        expected = model(pixel_values=pixels).logits.double().log_softmax(1)[:, 2]
    for label in ("owl", "2"):
        found = create(registry, f"image-classifier:model={classifier_folder},label={label}").score(seen)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(UsageError, match="did you mean 'owl'"):
        create(registry, f"image-classifier:model={classifier_folder},label=owls")
    with pytest.raises(UsageError, match=r"0 \(cat\)"):
        create(registry, f"image-classifier:model={classifier_folder}")


def test_untrained_heads_and_missing_models_are_refused(registry, classifier_folder, tmp_path):
    headless = ViTForImageClassification.from_pretrained(classifier_folder).vit
    headless.save_pretrained(tmp_path)
    config = json.loads((classifier_folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config))
    ViTImageProcessor().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="no trained image classifier: it lacks 'classifier"):
        create(registry, f"image-classifier:model={tmp_path},label=owl")
    with pytest.raises(ModelError, match=r"cannot load the CLIP model 'nobody/nothing' \(the run is offline"):
        create(registry, "clip:model=nobody/nothing")


def digits():
    from sklearn.datasets import load_digits

    data = load_digits()
    return [Image(torch.tensor(each, dtype=torch.float32)[None] / 16) for each in data.images], torch.tensor(data.target)


@pytest.mark.parametrize("judge", ["tiny-digit-judge", "heldout-digit-judge"])
def test_digit_judges_know_images_they_have_not_seen(registry, judge):
    seen, labels = digits()
    half = len(seen) // 2
    part = slice(half, None) if judge == "tiny-digit-judge" else slice(0, half)
    logits = load(embedded.path(judge))(small_grey(seen[part])).detach()
    accuracy = (logits.argmax(1) == labels[part]).double().mean()
    assert accuracy > 0.95
    assert f"{accuracy:.4f}" in (embedded.path(judge) / "MODEL_CARD.md").read_text()
    large = [Image(image.pixels.repeat_interleave(4, 1).repeat_interleave(4, 2).expand(3, -1, -1)) for image in seen[:5]]
    reward = create(registry, f"digit:label=7,model={judge}")
    torch.testing.assert_close(reward.score(seen[part][:5]), logits[:5].double().log_softmax(1)[:, 7], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(reward.score(large), reward.score(seen[:5]), rtol=1e-4, atol=1e-4)
    with pytest.raises(RewardError, match="10x10"):
        reward.score([Image(torch.zeros(1, 10, 10))])


def test_a_digit_judge_has_a_second_opinion_and_that_has_none(registry):
    reward = create(registry, "digit:label=7")
    assert reward.second_opinion().model == "heldout-digit-judge"
    assert reward.second_opinion().second_opinion() is None
    assert reward.digest != reward.second_opinion().digest


def test_modalities_do_not_mix(registry):
    with pytest.raises(UsageError, match="reward 'brightness' scores images, not texts: `fktext image generate` takes it"):
        registry.create("brightness")
    with pytest.raises(
        UsageError, match="reward 'toxicity' scores texts, not images: `fktext generate` and `fktext score` take it"
    ):
        registry.create("toxicity", modality="image")
    with pytest.raises(UsageError, match="unknown option of reward 'brightness': 'trim'"):
        registry.create("brightness:trim=3", modality="image")
    with pytest.raises(UsageError, match="'label' came as '11'"):
        registry.create("digit:label=11", modality="image")


def test_equal_images_are_scored_once():
    class Counts:
        seen = 0

        def score(self, samples):
            self.seen += len(samples)
            return [float(image.pixels.mean()) for image in samples]

    counts = Counts()
    one, other = torch.zeros(1, 2, 2), torch.ones(1, 2, 2)
    scorer = Scorer([Weighted("counts", counts)])
    seen = [Image(one), Image(one.clone()), Image(other), Image(one, "a prompt")]
    assert scorer(seen).flatten().tolist() == [0, 0, 1, 0]
    assert counts.seen == 3
    scorer(seen)
    assert counts.seen == 3
    assert (scorer.ledger.reward_requests, scorer.ledger.reward_calls) == (8, 3)
