"""DiffusionGemma's network, kernel and decoding against the reference implementation (float32 network, CPU)."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import tiny
from fktext.masked.sampling import draw_tokens
from fktext.smc import noise as streams
from fktext.smc.noise import Noise
from fktext.uniform import canvas, gemma, process
from fktext.uniform.entropy_bound import EntropyBound
from fktext.uniform.process import Routes

GOLDEN = Path(__file__).parent / "golden"
TINY = GOLDEN / "diffusion_gemma_tiny"
SIZE, CANVAS, STEPS = 96, 8, 6
TWO = torch.arange(2)


@pytest.fixture(scope="module")
def io() -> dict[str, Tensor]:
    return load_file(GOLDEN / "diffusion_gemma_tiny.io.safetensors")


@pytest.fixture(scope="module")
def network() -> gemma.DiffusionGemma:
    return gemma.load(TINY, torch.float32, torch.device("cpu"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny.golden("diffusiongemma", tmp_path / "gemma")


def logits(network: gemma.DiffusionGemma, ids: Tensor, soft: Tensor | None, prefix: gemma.Prefix) -> Tensor:
    soft = torch.zeros(len(ids), CANVAS, network.width) if soft is None else soft
    hidden = network.encode(ids, soft, prefix, torch.arange(len(ids)))
    return network.logits(hidden.flatten(0, 1)).view(*ids.shape, -1)


def posterior(probs: Tensor, ids: Tensor, masses: Routes) -> Tensor:
    """(R, V): what the three ways sum to."""
    q = masses.draw * probs + torch.as_tensor(masses.uniform, dtype=torch.float64).reshape(-1, 1) / SIZE
    q[torch.arange(len(ids)), ids] += masses.stay
    return q / masses.total[:, None]


def test_logits_after_a_prefix_beyond_the_window(network: gemma.DiffusionGemma, io: dict[str, Tensor]) -> None:
    prefix = network.prefix(io["prompt"])
    torch.testing.assert_close(logits(network, io["x_t"], None, prefix), io["logits"], atol=2e-5, rtol=0)


def test_self_conditioning_is_carried_as_an_embedding(network: gemma.DiffusionGemma, io: dict[str, Tensor]) -> None:
    soft = network.embed(io["logits"].flatten(0, 1)).view(2, CANVAS, -1)
    scale = network.width**0.5  # of embeddings, which what is stored is without
    torch.testing.assert_close(soft / scale, io["soft_embedding"], atol=2e-5, rtol=0)
    prefix, expected = network.prefix(io["prompt"]), io["logits_self_conditioned"]
    torch.testing.assert_close(logits(network, io["x_t"], soft, prefix), expected, atol=2e-5, rtol=0)
    # Negative controls: none, and that of another row
    for wrong in (None, soft.flip(0)):
        assert (logits(network, io["x_t"], wrong, prefix) - expected).abs().max() > 0.5


def test_a_finished_canvas_belongs_to_the_prefix(network: gemma.DiffusionGemma, io: dict[str, Tensor]) -> None:
    """Whether it is read with the prompt or after it, in another order or from a shared prompt."""
    text, expected = torch.cat([io["prompt"], io["first_canvas"]], 1), io["logits_second"]
    prompt = network.prefix(io["prompt"])
    kept = [layer.keys.clone() for layer in prompt.cache.layers]
    for prefix in (network.prefix(text), network.prefix(text, (prompt, TWO))):
        torch.testing.assert_close(logits(network, io["x_t_second"], None, prefix), expected, atol=2e-5, rtol=0)
    swapped = network.prefix(text.flip(0), (prompt, TWO.flip(0)))
    again = logits(network, io["x_t_second"].flip(0), None, swapped).flip(0)
    torch.testing.assert_close(again, expected, atol=2e-5, rtol=0)
    assert all(torch.equal(layer.keys, before) for layer, before in zip(prompt.cache.layers, kept, strict=True))
    # Negative control: the canvas is forgotten
    assert (logits(network, io["x_t_second"], None, prompt) - expected).abs().max() > 0.5


def test_many_prefixes_are_read_in_parts(network: gemma.DiffusionGemma, io: dict[str, Tensor]) -> None:
    ids = io["prompt"].repeat(gemma.ROWS, 1)
    prefix, which = network.prefix(ids), torch.tensor([0, 2 * gemma.ROWS - 1])
    hidden = network.encode(io["x_t"], torch.zeros(2, CANVAS, network.width), prefix, which)
    out = network.logits(hidden.flatten(0, 1)).view(2, CANVAS, -1)
    torch.testing.assert_close(out, io["logits"], atol=2e-5, rtol=0)


@pytest.mark.parametrize("step", [0, 2, 4, 5])
def test_kernel(io: dict[str, Tensor], step: int) -> None:
    """At the first step nothing is known of the position, and the last draws clean tokens."""
    probs, ids = io["logits"].flatten(0, 1).double().softmax(-1), io["x_t"].flatten()
    here = probs.gather(1, ids[:, None])[:, 0]
    before, after = step / STEPS, (step + 1) / STEPS
    expected = io[f"law.{step}"].flatten(0, 1)
    torch.testing.assert_close(posterior(probs, ids, canvas.routes(here, SIZE, before, after)), expected, atol=1e-7, rtol=0)
    # Negative control: the form for a network that does not see the position itself
    wrong = posterior(probs, ids, process.routes(here, SIZE, before, after))
    assert step == 0 or (wrong - expected).abs().max() > 1e-3


def test_the_form_is_the_other_ones_with_the_position_itself_left_out(io: dict[str, Tensor]) -> None:
    probs, ids = io["logits"].flatten(0, 1).double().softmax(-1), io["x_t"].flatten()
    rows, (before, after) = torch.arange(len(ids)), (0.5, 2 / 3)
    without = probs.clone()
    without[rows, ids] /= 1 + SIZE * before / (1 - before)
    without /= without.sum(-1, keepdim=True)
    product = posterior(without, ids, process.routes(without[rows, ids], SIZE, before, after))
    mixture = posterior(probs, ids, canvas.routes(probs[rows, ids], SIZE, before, after))
    torch.testing.assert_close(product, mixture, atol=1e-12, rtol=0)


def test_the_conditional_of_a_corrector(io: dict[str, Tensor]) -> None:
    """Alpha 1/2; for canvases it is no kernel: what is fed back comes from other tokens than the ones it would be exact for."""
    probs, ids = io["logits"].flatten(0, 1).double().softmax(-1), io["x_t"].flatten()
    without = probs.clone()
    without[torch.arange(len(ids)), ids] /= 1 + SIZE
    torch.testing.assert_close(process.conditional(without, 0.5), io["gibbs.3"].flatten(0, 1), atol=1e-7, rtol=0)


def replayed(network: gemma.DiffusionGemma, replay: dict[str, Tensor], *, conditioned: bool = True) -> tuple[Tensor, Tensor]:
    """Run the reference's sampler by its uniforms: states (canvases, steps, C) and tokens.

    It draws x0 from p, then one of three routes given x0: to x0, staying, or any token. `canvas.routes` sums over x0.
    """
    text, states, kept = replay["prompt"][None], [], None
    for u_canvas, u_x0, u_route, u_noise in zip(*(replay[f"u_{name}"] for name in ("canvas", "x0", "route", "noise")), strict=True):
        kept = network.prefix(text, None if kept is None else (kept, torch.zeros(1, dtype=torch.int64)))
        ids, soft = (u_canvas * SIZE).long(), None
        for step in range(STEPS):
            raw = logits(network, ids[None], soft, kept)[0]
            soft = network.embed(raw)[None] if conditioned else None
            sums = raw.double().softmax(-1).cumsum(-1)
            x0 = (sums <= u_x0[step, :, None] * sums[:, -1:]).sum(-1)
            before, after = step / STEPS, (step + 1) / STEPS
            ratio, same = before / after, (x0 == ids).double()
            ways = [after * (1 - ratio) / SIZE + before * same, *(
                torch.full_like(same, share * (1 - after) / SIZE) for share in (ratio, 1 - ratio)
            )]  # fmt: skip
            sums = torch.stack(ways, -1).cumsum(-1)
            route = (sums <= u_route[step, :, None] * sums[:, -1:]).sum(-1)
            ids = torch.where(route == 0, x0, torch.where(route == 1, ids, (u_noise[step] * SIZE).long()))
            states.append(ids)
        text = torch.cat([text, ids[None]], 1)
    return torch.stack(states).view(-1, STEPS, CANVAS), text[0, len(replay["prompt"]) :]


def test_replay(network: gemma.DiffusionGemma) -> None:
    replay = load_file(GOLDEN / "diffusion_gemma_decode.safetensors")
    states, tokens = replayed(network, replay)
    assert torch.equal(states, replay["states"])
    assert torch.equal(tokens, replay["tokens"])
    assert not torch.equal(replayed(network, replay, conditioned=False)[1], tokens)


def test_entropy_bound_is_the_class_own_decoder(network: gemma.DiffusionGemma, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two canvases of 6 steps by the same uniforms; its early stop is told never to happen."""
    from transformers.models.diffusion_gemma import generation_diffusion_gemma as reference

    prompt = load_file(GOLDEN / "diffusion_gemma_decode.safetensors")["prompt"]
    noise, places = Noise.of([5], 1), torch.arange(3 * CANVAS)

    def uniforms(step: int, part: int) -> Tensor:
        return noise.uniform(streams.TOKEN, step, places)[:, part * CANVAS : (part + 1) * CANVAS]

    # In the order of its calls: a canvas before the first step, and after each step what stands for what is not kept.
    canvases = [
        (uniforms(*which) * SIZE).long()
        for first in (0, STEPS)
        for which in ((first, 2), *((step, 1) for step in range(first + 1, first + STEPS + 1)))
    ]
    draws = [uniforms(step, 0) for step in range(1, 2 * STEPS + 1)]
    monkeypatch.setattr(reference.EntropyBoundSampler, "initialize_canvas", lambda *_, **__: canvases.pop(0))
    monkeypatch.setattr(torch, "multinomial", lambda probs, **_: draw_tokens(probs, draws.pop(0)[0, :, None]))
    limits = {"stability_threshold": 100, "confidence_threshold": 1e-9, "max_denoising_steps": STEPS}
    expected = network.model.generate(prompt[None], max_new_tokens=2 * CANVAS, **limits).sequences
    assert (canvases, draws) == ([], [])
    template = torch.cat([prompt, prompt.new_full((2 * CANVAS,), -1)])[None]
    sampler = EntropyBound(network, template, 1, STEPS, list)
    assert torch.equal(sampler.advance(sampler.init(noise), 0, 2 * STEPS, noise).text, expected)
    plain = canvas.CanvasDiffusion(network, template, 1, STEPS, list)
    assert not torch.equal(plain.advance(plain.init(noise), 0, 2 * STEPS, noise).text, expected)
