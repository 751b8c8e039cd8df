"""`fktext models check`: does a model, as it was loaded here, do what the engine takes for granted; and is it the published one.

Self-consistency holds for any model. Whether the weights are those that were published shows in numbers that somebody else computed
from them: `YARDSTICKS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from fktext.errors import FktextError
from fktext.masked.blocks import BlockModel
from fktext.masked.cache import Cached, Extending
from fktext.masked.denoiser import Denoiser
from fktext.rewards import Weighted
from fktext.settings import Settings, TextRun
from fktext.simplex.model import SimplexModel
from fktext.smc.noise import Noise, population_key
from fktext.testing.selftest import Row
from fktext.texts.generate import Population, generate
from fktext.texts.model import TextModel
from fktext.uniform.model import CanvasModel

ROWS, LENGTH, STEPS = 4, 16, 8  # enough to see a mistake, and few enough for a model of eight billion parameters
TOLERANCE = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 3e-2}  # share of the largest logit


class Case(NamedTuple):
    """A sequence with one mask, and what the published weights say there: token -> raw logit, float32."""

    text: str
    ids: tuple[int, ...]
    logits: Mapping[int, float]


class Yardstick(NamedTuple):
    """Numbers that were computed from published weights by an implementation other than ours."""

    source: str
    tolerance: float
    cases: tuple[Case, ...]


YARDSTICKS: Mapping[str, Yardstick] = {
    "mdlm-owt": Yardstick(
        "candle-mi, scripts/mdlm_forward_reference.json, revision 0103ee4",
        1e-3,
        (
            Case(
                "The capital of France is _.",
                (464, 3139, 286, 4881, 318, 50257, 13),
                {6342: 19.8361, 14644: 18.5939, 4881: 17.0668},
            ),
            Case("The opposite of hot is _.", (464, 6697, 286, 3024, 318, 50257, 13), {3024: 18.9832, 37546: 16.8134}),
            Case(
                "Water is made of hydrogen and _.", (19184, 318, 925, 286, 17669, 290, 50257, 13), {11863: 20.6141, 1660: 18.6909}
            ),
        ),
    )
}
"""By name in `fktext.files.catalogue`. At each mask the first token is the likeliest."""


def run(model: TextModel, yardstick: Yardstick | None = None, *, seed: int = 0) -> Iterator[Row]:
    """Check a loaded model.

    Args:
        model: from `fktext.models.load`; a yardstick needs float32.
        yardstick: of the published weights, if it is to be them.
        seed: of the noise.

    Yields:
        A row per check as it finishes.
    """
    kinds: dict[type, Callable[[Any], Iterator[Row]]] = {SimplexModel: _simplex, CanvasModel: _canvas}
    checks = next((check for kind, check in kinds.items() if isinstance(model, kind)), _masked)(model)
    yield (finite := next(checks))
    yield from checks
    if finite.passed:  # from other logits nothing can be drawn
        yield from _sampling(model, seed)
    if yardstick is not None:
        yield from measure(model, yardstick)


def measure(model: TextModel, yardstick: Yardstick) -> Iterator[Row]:
    """Return the model's logits beside the published ones, a row for each masked sentence."""
    network = cast(Denoiser, model.denoiser)
    for case in yardstick.cases:
        ids = torch.tensor([case.ids], device=torch.device(str(network.device)))
        place = case.ids.index(network.mask_id) if network.mask_id in case.ids else -1
        expected = ", ".join(f"{token}: {logit:.4f}" for token, logit in case.logits.items())
        if place < 0 or max(case.ids) >= network.vocab_size:
            yield Row(f"published: {case.text}", expected, "another vocabulary", False)
            continue
        with torch.inference_mode():
            logits = network.logits(network.encode(ids, torch.ones(1, device=ids.device))[0, place : place + 1])[0].float()
        measured = {token: float(logits[token]) for token in case.logits}
        close = all(abs(measured[token] - logit) < yardstick.tolerance for token, logit in case.logits.items())
        mask = torch.tensor([network.mask_id], device=logits.device)
        first = int(logits.index_fill(0, mask, -torch.inf).argmax()) == next(iter(case.logits))
        yield Row(
            f"published: {case.text}",
            expected,
            ", ".join(f"{token}: {logit:.4f}" for token, logit in measured.items()),
            close and first,
        )


def _masked(model: TextModel) -> Iterator[Row]:
    """Check what is asked of a `Denoiser`."""
    network = cast(Denoiser, model.denoiser)
    device = torch.device(str(network.device))
    length = min(LENGTH, network.max_length)
    allowed = torch.tensor(sorted(set(range(network.vocab_size)) - set(model.forbidden)))
    generator = torch.Generator().manual_seed(0)
    ids = allowed[torch.randint(len(allowed), (ROWS, length), generator=generator)]
    blank = network.mask_id if network.mask_id >= 0 else int(allowed[-1])  # without a mask, any token will do
    ids[torch.rand(ids.shape, generator=generator) < 0.5] = blank
    ids[0] = blank
    ids, t = ids.to(device), torch.linspace(1.0, 0.3, ROWS, device=device)
    with torch.inference_mode():
        hidden = network.encode(ids, t)
        logits = network.logits(hidden.flatten(0, 1)).view(*ids.shape, -1).float()
        scale, bound = float(logits[..., allowed].abs().max()), TOLERANCE[hidden.dtype]

        def row(check: str, other: Tensor, against: Tensor) -> Row:
            worst = float((other.float() - against).abs().max()) / scale
            return Row(check, f"within {bound:g} of the largest", f"{worst:.1e}", worst <= bound)

        finite = int(logits[..., allowed].isfinite().all(-1).sum())
        yield Row(
            "logits of tokens that may be drawn are finite",
            f"{ids.numel()} of {ids.numel()} positions",
            f"{finite} of {ids.numel()}",
            finite == ids.numel(),
        )
        if (whole := _whole(network, ids)) is not None:
            yield row("encoder and head make up the whole model", logits, whole)
        single = torch.cat([network.encode(ids[index : index + 1], t[index : index + 1]) for index in range(ROWS)])
        yield row("rows alone equal rows in a batch", network.logits(single.flatten(0, 1)).view_as(logits), logits)
        some = hidden[:, length // 2]
        yield row("the head on some positions equals the head on all", network.logits(some), logits[:, length // 2])

        def moved(place: int) -> bool:
            changed = ids[:1].clone()
            changed[0, place] = allowed[0]
            # Beside what it says of that row alone: in a batch of another size it may round otherwise.
            return bool((network.encode(changed, t[:1])[0, 0] != single[0, 0]).any())

        block = min(model.block, length) if isinstance(model, BlockModel) else length
        seen = moved(block - 1)
        of_what = " of its block" if block < length else ""
        yield Row(f"the first position sees the last{of_what}", "a change", "a change" if seen else "none", seen)
        if block < length:
            seen = moved(block)
            yield Row("and nothing of the next block", "none", "a change" if seen else "none", not seen)
        if block < length and isinstance(network, Extending):
            last = slice(length - length % block - block, length - length % block)
            yield row(
                "a block over remembered ones is as it was", _remembered(network, ids[:, : last.stop], block), logits[:, last]
            )
        if network.mask_id < 0:
            heard = bool((network.encode(ids[:1], t[:1] / 2) != single[:1]).any())
            yield Row("the noise level is heard", "a change", "a change" if heard else "none", heard)


def _remembered(network: Extending, ids: Tensor, block: int) -> Tensor:
    """Return the logits (R, block, V) of the last block over a cache that holds those before it."""
    cached, t = Cached(network, block), torch.ones(len(ids), device=ids.device)
    for end in range(block, ids.shape[1] + 1, block):
        cached.encode(ids[:, :end], t)
    hidden = cached.encode(ids, t)  # now all that comes before it is read
    return network.logits(hidden.flatten(0, 1)).view(len(ids), block, -1)


def _whole(network: Any, ids: Tensor) -> Tensor | None:
    """Return the logits of the whole model of transformers, where it is one, computed without our split."""
    model = getattr(network, "model", None)
    if model is None:
        return None
    options = network.options(ids.shape[1]) if hasattr(network, "options") else {}
    logits: Tensor = model(input_ids=ids, **options)[0].to(ids.device).float()
    if getattr(network, "shifted", False):
        logits = torch.cat([logits[:, :1], logits[:, :-1]], 1)
    return logits


def _simplex(model: SimplexModel) -> Iterator[Row]:
    """Check what is asked of a `SimplexLM`."""
    network = cast(Any, model.denoiser)
    generator = torch.Generator().manual_seed(0)
    context = torch.randint(network.vocab_size, (ROWS, 5), generator=generator).to(network.device)
    x = (5 * torch.randn(ROWS, model.block, network.vocab_size, generator=generator)).to(network.device)
    with torch.inference_mode():
        hidden = network.encode(context, x, 0.5)
        logits = network.logits(hidden).float()
        scale, bound = float(logits.abs().max()), TOLERANCE[hidden.dtype]
        finite = bool(logits.isfinite().all())
        yield Row("logits are finite", "all", "all" if finite else "not all", finite)
        single = torch.cat([network.encode(context[index : index + 1], x[index : index + 1], 0.5) for index in range(ROWS)])
        worst = float((network.logits(single).float() - logits).abs().max()) / scale
        yield Row("rows alone equal rows in a batch", f"within {bound:g} of the largest", f"{worst:.1e}", worst <= bound)
        later = float((network.logits(network.encode(context, x, 0.9)).float() - logits).abs().max())
        yield Row("the noise time is heard", "a change", "a change" if later > 0 else "none", later > 0)


def _canvas(model: CanvasModel) -> Iterator[Row]:
    """Check what is asked of a `CanvasNetwork`."""
    network = model.network
    device, rows = torch.device(str(network.device)), torch.arange(ROWS)
    generator = torch.Generator().manual_seed(0)
    shape = ROWS, min(LENGTH, network.max_length - network.canvas)
    context = torch.randint(network.vocab_size, shape, generator=generator).to(device)
    ids = torch.randint(network.vocab_size, (ROWS, network.canvas), generator=generator).to(device)
    rows, none = rows.to(device), torch.zeros((ROWS, network.canvas, network.width), dtype=network.dtype, device=device)
    with torch.inference_mode():
        prefix = network.prefix(context, None)

        def say(canvas: Tensor, soft: Tensor, prefix: Any, which: Tensor) -> Tensor:
            return network.logits(network.encode(canvas, soft, prefix, which).flatten(0, 1)).view(*canvas.shape, -1)

        first = say(ids, none, prefix, rows)
        soft = network.embed(first.flatten(0, 1)).view_as(none)
        logits = say(ids, soft, prefix, rows)
        scale, bound = float(logits.abs().max()), TOLERANCE[network.dtype]
        finite = bool(logits.isfinite().all())
        yield Row("logits are finite", "all", "all" if finite else "not all", finite)

        def row(check: str, other: Tensor) -> Row:
            worst = float((other - logits).abs().max()) / scale
            return Row(check, f"within {bound:g} of the largest", f"{worst:.1e}", worst <= bound)

        if (whole := getattr(network, "model", None)) is not None:
            out = whole(input_ids=context, decoder_input_ids=ids, self_conditioning_logits=first)
            yield row("encoder, decoder and head make up the whole model", out.logits.to(device))
        single = torch.cat([say(ids[[at]], soft[[at]], prefix, rows[[at]]) for at in range(ROWS)])
        yield row("rows alone equal rows in a batch", single)
        known = network.prefix(context[:, :-2], None)
        yield row("a prefix read in two parts is the same", say(ids, soft, network.prefix(context, (known, rows)), rows))
        for what, other in (
            ("the last of its canvas", (ids.roll(1, 0), soft, rows)),
            ("what comes before the canvas", (ids, soft, rows.roll(1))),
            ("what was said before", (ids, none, rows)),
        ):
            canvas = torch.cat([ids[:, :1], other[0][:, 1:]], 1)
            seen = float((say(canvas, other[1], prefix, other[2])[:, 0] - logits[:, 0]).abs().max())
            yield Row(f"the first position sees {what}", "a change", "a change" if seen > 0 else "none", seen > 0)


class _Length:
    """A reward that tells texts apart."""

    def score(self, samples: Sequence[str]) -> list[float]:
        return [len(sample) % 7 / 7 for sample in samples]


def _sampling(model: TextModel, seed: int) -> Iterator[Row]:
    """Check the plain sampler, and the engine around it."""
    prompt = "" if not isinstance(model, SimplexModel) or model.start_id is not None else "a"
    length = min(LENGTH, model.denoiser.max_length)
    if isinstance(model, BlockModel):
        length = max(model.block, length // model.block * model.block)
    asked = Settings(particles=1, length=length, steps=STEPS, lam=3.0, resample_every=2, seed=seed, method="fk")
    try:
        settings = model.resolve(asked)
        keys = [population_key(seed, prompt, sample) for sample in range(ROWS)]
        template = model.template(prompt, length)
        process = model.process([prompt] * ROWS, [template] * ROWS, settings, ROWS)
        noise = Noise.of(keys, 1, torch.device(str(model.denoiser.device)))
        state = process.advance(process.init(noise), 0, process.num_steps, noise)
        ids, _ = process.predict(state, process.num_steps, noise, 1)
        plain = list(process.decode(ids))
    except FktextError as error:
        yield Row("a plain sample is drawn", f"{ROWS} texts", str(error), False)
        return
    free = ids[:, (template == model.denoiser.mask_id).to(ids.device)]
    ended = {model.denoiser.mask_id} if isinstance(model, CanvasModel) else set()  # stands behind the end of a text
    drawn = sum(int((free == token).sum()) for token in {*model.forbidden, model.denoiser.mask_id} - ended)
    yield Row("forbidden tokens are never drawn", f"0 of {free.numel()}", f"{drawn} of {free.numel()}", drawn == 0)

    def texts(settings: TextRun) -> list[str]:
        run = generate(model, [Weighted("length", _Length())], [prompt], replace(settings, samples=ROWS), batch_size=ROWS)
        return [text for item in run if isinstance(item, Population) for text in item.texts]

    def same(found: list[str]) -> int:
        return sum(a == b for a, b in zip(plain, found, strict=True))

    for check, found in (("N = 1 is the plain sampler", settings), ("so is the method 'base'", replace(settings, method="base"))):
        count = same(texts(found))
        yield Row(check, f"{ROWS} of {ROWS} texts equal", f"{count} of {ROWS}", count == ROWS)
