"""SDAR's, LLaDA2's and dllm's own decoders against runs of their code (float32, CPU)."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from fktext.errors import UsageError
from fktext.masked.block_confidence import BlockConfidence, BlockEditing
from fktext.masked.blocks import BlockModel
from fktext.masked.confidence import ConfidenceUnmasking
from fktext.masked.kernels import Kernel
from fktext.masked.sampling import token_probs
from fktext.masked.strides import Strides
from fktext.models import load
from fktext.settings import Settings
from fktext.smc.noise import Noise
from fktext.texts.model import TextModel

GOLDEN = Path(__file__).parent / "golden"
Checkpoint = Callable[[str], Path]
RUNS_OF = {"sdar": "sdar_decode.safetensors", "llada2": "llada2_decode.safetensors"}
ABOUT = {"sdar": "sdar_decode.json", "llada2": "llada2_decode.json"}
RUNS = [(family, name) for family, file in ABOUT.items() for name in json.loads((GOLDEN / file).read_text()) if "." in name]

# Here the references draw the mask, which ours never do: replayed with it allowed.
DRAW_THE_MASK = ("v21_edit.1", "v21_edit.2", "v21_sampled.2")


class InOrder:
    """The golden file's uniforms, a row for each draw of a block's tokens."""

    def __init__(self, rows: Tensor | None, block: int) -> None:
        self.rows, self.block, self.drawn = rows, block, 0

    def uniform(self, stream: int, step: Tensor | int, position: Tensor, rows: Tensor | None = None) -> Tensor:
        if self.rows is None:
            return torch.full(position.shape, 0.5, dtype=torch.float64)
        self.drawn += 1
        return self.rows[self.drawn - 1][position % self.block]


def likeliest(logits: Tensor, forbidden: Tensor, temperature: float, top_k: int, top_p: float) -> Tensor:
    """The references' filters: temperature, the top_k likeliest, then the nucleus among them."""
    logits = logits.float().index_fill(-1, forbidden, -torch.inf) / temperature
    if top_k:
        logits = logits.masked_fill(logits < logits.topk(top_k).values[:, -1:], -torch.inf)
    return token_probs(logits, forbidden, 1.0, top_p)


def written(
    model: BlockModel, kernel: Kernel, prompt: Tensor, length: int, about: dict[str, object], noise: InOrder, mask: bool = False
) -> Tensor:
    """The text that a kernel writes behind a prompt; the references may draw the mask."""
    plain = replace(model, end_id=None, pad_id=None)  # the runs go on to their length
    words = " ".join(f"w{token}" for token in prompt.tolist())
    temperature = float(about.get("temperature", 0.0))  # type: ignore[arg-type]
    steps = int(about["steps"])  # type: ignore[call-overload]
    run = plain.resolve(Settings(method="base", particles=1, length=length, steps=steps, kernel=kernel, temperature=temperature))
    process = plain.process([words], [plain.template(words, length)], run, 8)
    inner = process.process if isinstance(process, Strides) else process
    filters = int(about.get("top_k") or 0), float(about.get("top_p", 1.0))  # type: ignore[call-overload,arg-type]
    if temperature and filters != (0, 1.0):
        inner._probs = lambda logits: likeliest(logits, inner._forbidden, temperature, *filters)  # type: ignore[attr-defined]
    if mask:
        inner._forbidden = inner._forbidden[:0]
    state = process.advance(process.init(noise), 0, process.num_steps, noise)  # type: ignore[arg-type]
    return state.ids[0]  # type: ignore[no-any-return]


@pytest.fixture(autouse=True)
def _one_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Strides, "_noise", lambda self, noise, number: noise)


def kernel_of(name: str, about: dict[str, object], block: int) -> tuple[Kernel, int]:
    """What a run was made with: the kernel, and the steps of a block."""
    threshold = about.get("confidence_threshold", about.get("threshold"))
    if "editing_threshold" in about:
        most = about["max_post_steps"]
        build = partial(BlockEditing, threshold=threshold, editing=about["editing_threshold"], most=most)
        return Kernel(name, build, steerable=False), block + int(most)  # type: ignore[call-overload]
    sequential = about.get("remasking_strategy") == "sequential"
    steps = about.get("denoising_steps", about.get("steps"))
    return Kernel(name, partial(BlockConfidence, threshold=threshold, sequential=sequential), steerable=False), int(steps)  # type: ignore[call-overload]


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize(("family", "name"), RUNS)
def test_runs_of_the_reference_are_replayed(family: str, name: str, cached: bool, checkpoint: Checkpoint) -> None:
    """`static_half.1` is not among them: there the reference overwrote its prompt, which is not done here."""
    model = load(str(checkpoint(family)))
    assert isinstance(model, BlockModel)
    decoded, about = load_file(GOLDEN / RUNS_OF[family]), json.loads((GOLDEN / ABOUT[family]).read_text())
    prompt, expected = decoded[f"prompt.{name[-1]}"], decoded[name]
    kernel, steps = kernel_of(name, about[name], model.block)
    length = len(expected) if family == "sdar" else -(-(len(prompt) + about[name]["length"]) // model.block) * model.block
    noise = InOrder(decoded.get(f"{name}.uniforms"), model.block)
    mask = name in DRAW_THE_MASK
    found = written(replace(model, cached=cached), kernel, prompt, length, about[name] | {"steps": steps}, noise, mask)
    assert torch.equal(found[: len(expected)] if family == "sdar" else found[len(prompt) :][: len(expected)], expected)


@pytest.mark.parametrize("name", DRAW_THE_MASK)
def test_the_mask_is_not_drawn(name: str, checkpoint: Checkpoint) -> None:
    model = load(str(checkpoint("llada2")))
    assert isinstance(model, BlockModel)
    decoded, about = load_file(GOLDEN / "llada2_decode.safetensors"), json.loads((GOLDEN / "llada2_decode.json").read_text())
    kernel, steps = kernel_of(name, about[name], model.block)
    prompt, noise = decoded[f"prompt.{name[-1]}"], InOrder(decoded.get(f"{name}.uniforms"), model.block)
    found = written(model, kernel, prompt, 32 if name[-1] == "1" else 24, about[name] | {"steps": steps}, noise)
    assert model.denoiser.mask_id not in found
    assert not torch.equal(found[len(prompt) :][: len(decoded[name])], decoded[name])


def test_replays_can_fail(checkpoint: Checkpoint) -> None:
    """Other shares, thresholds and orders write other texts."""
    model = load(str(checkpoint("sdar")))
    assert isinstance(model, BlockModel)
    decoded = load_file(GOLDEN / "sdar_decode.safetensors")

    def text(steps: int, **options: object) -> list[int]:
        kernel = Kernel("other", partial(BlockConfidence, **options), steerable=False)
        return written(model, kernel, decoded["prompt.0"], 16, {"steps": steps}, InOrder(None, 4)).tolist()  # type: ignore[no-any-return]

    texts = [text(4), text(2), text(4, threshold=0.25), text(4, sequential=True)]
    assert len({str(found) for found in texts}) > 2
    assert text(4, threshold=1.0) == texts[0]


@pytest.mark.parametrize("name", ["mdlm_low_confidence", "mdlm_low_confidence_blocks"])
@pytest.mark.parametrize("index", [0, 1])
def test_dllm_is_replayed(name: str, index: int, checkpoint: Checkpoint) -> None:
    """LLaDA's decoder is dllm's for its models that see the whole text."""
    model = load(str(checkpoint("a2d-mdlm")))
    decoded, about = load_file(GOLDEN / "a2d_qwen3_decode.safetensors"), json.loads((GOLDEN / "a2d_qwen3_decode.json").read_text())
    prompt, expected = decoded[f"prompt.{index}"], decoded[f"{name}.{index}"]
    template = torch.cat([prompt, torch.full((16,), about["mask_id"])])[None]
    block, steps = about[name]["block_size"], about[name]["steps"]
    process = ConfidenceUnmasking(model.denoiser, template, 1, steps, lambda *_: [], block=block, temperature=0.0)  # type: ignore[arg-type]
    noise = Noise.of([1], 1)
    ours = process.advance(process.init(noise), 0, steps, noise).ids[0]
    assert about["mask_id"] not in ours
    # Its first run leaves most of the text masked: it draws the mask, as ours do only where it is allowed.
    assert torch.equal(ours, expected) == (index == 1)
    process._forbidden = process._forbidden[:0]
    assert torch.equal(process.advance(process.init(noise), 0, steps, noise).ids[0], expected)


def test_dllm_writes_blocks_as_its_code_does(checkpoint: Checkpoint) -> None:
    """After a prompt of whole blocks; its sampler pads others on the left, where training counts blocks from the first token."""
    model = load(str(checkpoint("a2d-bd3lm")))
    assert isinstance(model, BlockModel)
    decoded = load_file(GOLDEN / "a2d_qwen3_decode.safetensors")
    kernel = Kernel("blocks", BlockConfidence, steerable=False)
    found = written(model, kernel, decoded["prompt.0"], 24, {"steps": 8}, InOrder(None, 8))
    assert torch.equal(found, decoded["bd3lm_low_confidence.0"])


@pytest.mark.parametrize(
    ("family", "kernel"),
    [
        *(("sdar", kernel) for kernel in ("block-confidence", "block-sequential", "sdar-dynamic")),
        *(("llada2", kernel) for kernel in ("llada2-threshold", "llada2-edit")),
        ("a2d-bd3lm", "block-confidence"),
    ],
)
def test_they_are_refused_for_steering_alone(family: str, kernel: str, checkpoint: Checkpoint) -> None:
    import fktext

    model: TextModel = load(str(checkpoint(family)))
    common = {"particles": 3, "length": 24, "steps": 12, "kernel": kernel}
    with pytest.raises(UsageError, match=f"kernel '{kernel}' cannot be steered by method 'fk': which positions"):
        fktext.generate(model, "length:words=3", "w5 w6", **common)  # type: ignore[arg-type]
    for options in ({"method": "base", "temperature": 0.0}, {"method": "best-of-n"}):
        (found,) = fktext.generate(model, "length:words=3", "w5 w6", **common, **options)  # type: ignore[arg-type]
        assert all(text.startswith("w5 w6") for text in found.texts)
