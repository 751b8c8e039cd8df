"""Train the embedded models of handwritten digits: a diffusion model, a judge to steer by, and a held-out one to measure with.

    python recipes/digits.py judges --out weights/fktext_weights
    python recipes/digits.py tiny-digits --out weights/fktext_weights
    python recipes/digits.py scores --out weights/fktext_weights

The last prints what the card of tiny-digits says of its images. The images are those that scikit-learn brings; nothing is
downloaded. The two judges share no image: the first half of the data set and the second are, but for the writers where they meet,
by different people.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from diffusers import DDPMPipeline, DDPMScheduler, DiffusionPipeline, UNet2DModel
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from torch import Tensor, nn

from fktext_plugins.digits import Convolutions, Parzen, load

DATA = """the {count} images that `sklearn.datasets.load_digits` brings: the test set of UCI's "Optical
  Recognition of Handwritten Digits" (Alpaydin and Kaynak 1998; CC BY 4.0 by the UCI archive, scikit-learn names no licence)"""

GENERATOR_CARD = (
    """# tiny-digits

A small diffusion model of handwritten digits, 8x8 pixels, one channel, without classes: a `diffusers` DDPM pipeline, to show and
test the steering of images where there is no network.

- Architecture: `UNet2DModel`, {channels} channels, attention at 4x4, {parameters:,} parameters, {megabytes:.2f} MB in float16;
  `DDPMScheduler` with 1,000 steps of training, squared-cosine schedule.
- Training data: """
    + DATA
    + """.
- Licence of the weights: CC BY 4.0.
- Recipe: `python recipes/digits.py tiny-digits --out weights/fktext_weights` ({steps:,} steps of {batch} images, seed {seed}).

Mean squared error of the noise, at the last hundred steps: {loss:.4f}. No image was held out of its training, so it is measured by
what it draws:

{scores}

The two judges are `tiny-digit-judge` and `heldout-digit-judge`, each trained on a half of the same data set. Distances are
Euclidean, of pixels of 0 to 1; copies of images it was trained on would lie at 0.

## Limits

8x8 grey pixels of digits by 13 writers, nothing else; no class can be asked for but by steering. It has seen all {count} images: it
shows that steering works, not that images are new.
"""
)

JUDGE_CARD = (
    """# {name}

{what}

- Architecture: {architecture} {kilobytes:.0f} kB.
- Training data: the {half} half, {trained}, of """
    + DATA
    + """.
- Licence of the weights: CC BY 4.0.
- Recipe: `python recipes/digits.py judges --out weights/fktext_weights` (seed {seed}).

On the other half, {tested} images it has not seen: accuracy {accuracy:.4f}, mean log p of the right digit {likelihood:.3f}.

## Limits

It knows 8x8 grey pixels, digits of that data set's size, place and pen, and has no class for what is no digit: of noise it names a
digit all the same. `tiny-digits` was trained on both halves, so neither judge is independent of what it draws.
{limit}
"""
)


def digits() -> tuple[Tensor, Tensor]:
    """(1797, 1, 8, 8) float32 in [0, 1], and (1797,) labels."""
    data = load_digits()
    return torch.tensor(data.images, dtype=torch.float32)[:, None] / 16, torch.tensor(data.target)


def accuracy(judge: nn.Module, images: Tensor, labels: Tensor) -> float:
    with torch.inference_mode():
        return float((judge(images).argmax(1) == labels).float().mean())


def likelihood(judge: nn.Module, images: Tensor, labels: Tensor) -> float:
    with torch.inference_mode():
        return -float(nn.functional.cross_entropy(judge(images), labels))


def train_convolutions(images: Tensor, labels: Tensor, seed: int, channels: int = 16, steps: int = 3000) -> Convolutions:
    """On images with noise, blurred towards the mean: the guesses of x0 that it will see on the way are no clean digits."""
    torch.manual_seed(seed)
    judge, mean = Convolutions(channels), images.mean(0)
    optimizer = torch.optim.AdamW(judge.parameters(), 2e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        rows = torch.randint(len(images), (128,))
        keep = 1 - 0.5 * torch.rand(128, 1, 1, 1)
        seen = keep * images[rows] + (1 - keep) * mean + 0.2 * torch.rand(128, 1, 1, 1) * torch.randn(128, 1, 8, 8)
        loss = nn.functional.cross_entropy(judge(seen.clamp(0, 1)), labels[rows], label_smoothing=0.02)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return judge.eval()


def fit_parzen(images: Tensor, labels: Tensor) -> Parzen:
    """The bandwidth under which each image of its own half is likeliest to get its label from the others."""
    judge = Parzen(len(images), 1.0)
    judge.images.copy_((images.flatten(1) * 16).round())
    judge.labels.copy_(labels)
    distances = torch.cdist(images.flatten(1), images.flatten(1)).square().fill_diagonal_(torch.inf)
    best = -torch.inf
    for bandwidth in torch.linspace(0.1, 1.5, 57).tolist():
        log_kernel = -distances / (2 * bandwidth**2)
        classes = torch.stack([log_kernel[:, labels == label].logsumexp(1) for label in range(10)], 1)
        likelihood = classes.log_softmax(1).gather(1, labels[:, None]).mean()
        if likelihood > best:
            best, judge.bandwidth = float(likelihood), bandwidth
    return judge


def save_judge(folder: Path, judge: nn.Module, config: dict[str, object]) -> float:
    """How many kB it takes."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in judge.state_dict().items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    return (folder / "model.safetensors").stat().st_size / 1e3


def scores(out: Path, seed: int, count: int = 1000) -> str:
    """A Markdown table of what can be said of the images that tiny-digits draws."""
    pipeline = DiffusionPipeline.from_pretrained(out / "tiny-digits", dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.as_tensor(pipeline(count, generator, num_inference_steps=50, output_type="np").images)[..., 0][:, None]
    with torch.inference_mode():
        p = {name: load(out / name)(drawn).softmax(1) for name in ("tiny-digit-judge", "heldout-digit-judge")}
    ours, theirs = p.values()
    classes = theirs.argmax(1)
    shares = torch.bincount(classes, minlength=10) / count
    images = digits()[0].flatten(1)
    own = torch.cdist(images, images).fill_diagonal_(torch.inf).min(1).values
    nearest = torch.cdist(drawn.flatten(1), images).min(1).values
    rows = {
        "both judges name the same digit": (ours.argmax(1) == classes).float().mean(),
        "the held-out judge gives its digit more than 0.9": (theirs.max(1).values > 0.9).float().mean(),
        f"share of its commonest digit, {int(shares.argmax())}": shares.max(),
        f"share of its rarest digit, {int(shares.argmin())}": shares.min(),
        "distance to the nearest image of the data, median": nearest.median(),
        "the same of the data's images to each other": own.median(),
    }
    head = f"| {count:,} unsteered images, 50 steps, seed {seed} | |\n|---|---|\n"
    return head + "\n".join(f"| {name} | {float(value):.3f} |" for name, value in rows.items())


def judges(out: Path, seed: int) -> None:
    images, labels = digits()
    half = len(images) // 2
    first, second = (images[:half], labels[:half]), (images[half:], labels[half:])
    judge, held_out = train_convolutions(*first, seed), fit_parzen(*second)
    shared = {"seed": seed, "count": len(images)}
    kilobytes = {}
    for name, model, config in (
        ("tiny-digit-judge", judge, {"model_type": "digit-convolutions", "channels": 16}),
        ("heldout-digit-judge", held_out, {"model_type": "digit-parzen", "count": len(second[0]), "bandwidth": held_out.bandwidth}),
    ):
        kilobytes[name] = save_judge(out / name, model, config)
    card = JUDGE_CARD.format(
        name="tiny-digit-judge",
        what="Which digit an image of 8x8 pixels shows: the judge to steer `tiny-digits` by (`digit:label=7`).",
        architecture="two convolutions of 16 and 32 channels and a linear layer, "
        f"{sum(tensor.numel() for tensor in judge.parameters()):,} parameters,\n  trained on noisy and blurred images.",
        kilobytes=kilobytes["tiny-digit-judge"],
        limit="Images that it has steered are for `heldout-digit-judge` to measure.",
        half="first",
        trained=half,
        tested=len(images) - half,
        accuracy=accuracy(judge, *second),
        likelihood=likelihood(judge, *second),
        **shared,
    )
    (out / "tiny-digit-judge" / "MODEL_CARD.md").write_text(card)
    card = JUDGE_CARD.format(
        name="heldout-digit-judge",
        what="The second opinion on digits, to measure images that `tiny-digit-judge` has steered: another kind of classifier, and "
        "none of\nthe same images.",
        architecture=f"a kernel density of each class and Bayes' rule; bandwidth {held_out.bandwidth:.3f} by leave-one-out "
        "likelihood.\n  It keeps the images themselves.",
        kilobytes=kilobytes["heldout-digit-judge"],
        limit="It is there to measure; steer by `tiny-digit-judge`.",
        half="second",
        trained=len(images) - half,
        tested=half,
        accuracy=accuracy(held_out, *first),
        likelihood=likelihood(held_out, *first),
        **shared,
    )
    (out / "heldout-digit-judge" / "MODEL_CARD.md").write_text(card)
    for name in kilobytes:
        print((out / name / "MODEL_CARD.md").read_text())


def generator(out: Path, seed: int, steps: int, batch: int) -> None:
    torch.manual_seed(seed)
    images, _ = digits()
    channels = (24, 48)
    unet = UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=channels,
        norm_num_groups=8,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=16,
    )
    parameters = list(unet.parameters())
    average = [tensor.detach().clone() for tensor in parameters]
    scheduler = DDPMScheduler(beta_schedule="squaredcos_cap_v2")
    optimizer = torch.optim.AdamW(parameters, 2e-3, weight_decay=1e-3, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, steps, pct_start=0.05)
    started, losses = time.perf_counter(), []
    for step in range(steps):
        x0 = 2 * images[torch.randint(len(images), (batch,))] - 1
        noise, timesteps = torch.randn_like(x0), torch.randint(1000, (batch,))
        loss = nn.functional.mse_loss(unet(scheduler.add_noise(x0, noise, timesteps), timesteps).sample, noise)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        torch._foreach_lerp_(average, [tensor.detach() for tensor in parameters], 1 - min(0.995, step / (step + 10)))
        losses.append(loss.item())
        if step % 200 == 0 or step == steps - 1:
            print(f"{step} {sum(losses[-100:]) / len(losses[-100:]):.4f} {time.perf_counter() - started:.0f} s", flush=True)
    for tensor, mean in zip(parameters, average, strict=True):
        tensor.data.copy_(mean)
    folder = out / "tiny-digits"
    DDPMPipeline(unet.half(), scheduler).save_pretrained(folder)
    size = sum(file.stat().st_size for file in folder.rglob("*.safetensors"))
    card = GENERATOR_CARD.format(
        channels=" and ".join(map(str, channels)),
        parameters=sum(tensor.numel() for tensor in unet.parameters()),
        megabytes=size / 1e6,
        steps=steps,
        batch=batch,
        seed=seed,
        count=len(images),
        loss=sum(losses[-100:]) / 100,
        scores=scores(out, seed),
    )
    (folder / "MODEL_CARD.md").write_text(card)
    print(card)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["judges", "tiny-digits", "scores"])
    parser.add_argument("--out", type=Path, required=True, help="the folder of the models' folders")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=2000, help="of training tiny-digits")
    parser.add_argument("--batch", type=int, default=64)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.what == "judges":
        judges(args.out, args.seed)
    elif args.what == "scores":
        print(scores(args.out, args.seed))
    else:
        generator(args.out, args.seed, args.steps, args.batch)


if __name__ == "__main__":
    main()
