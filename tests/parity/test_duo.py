"""DUO's network, kernel and decoding against the reference implementation (float32 network, float64 kernel, CPU)."""

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import tiny
from fktext.errors import ModelError, UsageError
from fktext.families import Checkpoint, recognise
from fktext.families.duo import DUO
from fktext.files.weights import read_tensors
from fktext.masked import dit
from fktext.masked.sampling import token_probs
from fktext.models import load
from fktext.settings import Settings
from fktext.smc.noise import Noise
from fktext.texts.templates import Template
from fktext.uniform.process import Routes, UniformDiffusion, alpha, renewed, routes

GOLDEN = Path(__file__).parent / "golden"
TINY = GOLDEN / "duo_tiny"
SIZE = 102
NOTHING = torch.tensor([], dtype=torch.int64)
STEPS = 6
TIMES = [1 - (1 - 1e-5) * k / STEPS for k in range(STEPS + 1)] + [0.0]  # the reference's grid, then "noise removal"


def network_of(**changes: object) -> dit.DiT:
    checkpoint = Checkpoint.read(TINY)
    settings = recognise(checkpoint).settings(checkpoint) | changes  # type: ignore[attr-defined]
    network = dit.from_tensors(read_tensors(TINY / "model.safetensors"), settings, TINY).eval().requires_grad_(False)
    network.mask_id = -1
    return network


@pytest.fixture(scope="module")
def io() -> dict[str, Tensor]:
    return load_file(GOLDEN / "duo_tiny.io.safetensors")


@pytest.fixture(scope="module")
def replay() -> dict[str, Tensor]:
    return load_file(GOLDEN / "duo_decode.safetensors")


@pytest.fixture(scope="module")
def network() -> dit.DiT:
    return network_of()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny.golden("duo", tmp_path / "duo")


def logits(network: dit.DiT, ids: Tensor, t: Tensor) -> Tensor:
    return network.logits(network.encode(ids, t).flatten(0, 1)).view(*ids.shape, -1)


def single(t: float) -> float:
    """Alpha as the reference has it, in float32: near t = 0 what is missing to 1 has three digits."""
    return float(1 - (1 - dit.EPS) * torch.tensor(t))


def posterior(probs: Tensor, ids: Tensor, before: float, after: float) -> Tensor:
    """(R, V) float64: what the three ways of the kernel sum to, given (R, V) probabilities and (R,) tokens."""
    probs = probs.double() / probs.double().sum(-1, keepdim=True)
    masses = routes(probs.gather(1, ids[:, None])[:, 0], probs.shape[1], before, after)
    return posterior_of(masses, probs, ids)


def posterior_of(masses: Routes, probs: Tensor, ids: Tensor) -> Tensor:
    """(R, V) float64: what the ways sum to."""
    draw, anything = (torch.as_tensor(mass, dtype=torch.float64).reshape(-1, 1) for mass in (masses.draw, masses.uniform))
    q = draw * probs + anything / probs.shape[1]
    q[torch.arange(len(ids)), ids] += masses.stay
    return q / masses.total[:, None]


def test_logits_with_live_sigma(network: dit.DiT, io: dict[str, Tensor]) -> None:
    raw = logits(network, io["input_ids"], io["t"])
    torch.testing.assert_close(raw, io["raw_logits"], atol=2e-5, rtol=0)
    torch.testing.assert_close(raw.log_softmax(-1), io["log_probs"], atol=2e-5, rtol=0)
    assert [alpha(t) for t in io["t"].tolist()] == pytest.approx(io["alpha"].tolist(), abs=1e-6)


def test_a_dead_sigma_is_noticed(io: dict[str, Tensor]) -> None:
    """Negative control: what an MDLM does without an entry `time_conditioning`, which DUO's config.json does not have."""
    assert "time_conditioning" not in json.loads((TINY / "config.json").read_text())
    dead = network_of(time_conditioning=False)
    assert (logits(dead, io["input_ids"], io["t"]) - io["raw_logits"])[:2].abs().amax(
        (1, 2)
    ).min() > 0.5  # the third has sigma 1e-5


@pytest.mark.parametrize("index", range(5))
@pytest.mark.parametrize(("top_p", "name"), [(1.0, "q"), (0.9, "q_nucleus")])
def test_kernel(network: dit.DiT, io: dict[str, Tensor], index: int, top_p: float, name: str) -> None:
    """The last pair is noise removal, a step to alpha = 1."""
    t, s = io["ts"][index].tolist()
    ids, p = io["input_ids"][:2], io[f"p.{index}"].flatten(0, 1)
    expected = io[f"{name}.{index}"].flatten(0, 1)
    before, after = single(t), single(s) if s else 1.0
    kept = token_probs(p.log(), NOTHING, top_p=top_p)
    torch.testing.assert_close(posterior(kept, ids.flatten(), before, after), expected, atol=1e-6, rtol=0)
    probs = token_probs(logits(network, ids, torch.full((2,), t)).flatten(0, 1), NOTHING, top_p=top_p)
    torch.testing.assert_close(posterior(probs, ids.flatten(), before, after), expected, atol=2e-5, rtol=0)
    # Negative control: p in the mixture of q(x_s | x_t, x0), which is right for networks that see the position itself
    weights = kept.double() / kept.double().sum(-1, keepdim=True)
    plain = torch.einsum("rc,crv->rv", weights, torch.stack([mixed(ids.flatten(), v, before, after) for v in range(SIZE)]))
    assert index == 0 or (plain - expected).abs().max() > 1e-3  # at t = 1 nothing is known of the position


def mixed(ids: Tensor, clean: int, before: float, after: float) -> Tensor:
    """(R, V): q(x_s given x_t and this clean token), by Bayes' rule."""
    ratio = before / after
    prior = torch.full((SIZE,), (1 - after) / SIZE, dtype=torch.float64)
    prior[clean] += after
    likelihood = torch.full((len(ids), SIZE), (1 - ratio) / SIZE, dtype=torch.float64)
    likelihood[torch.arange(len(ids)), ids] += ratio
    joint = prior * likelihood
    return joint / joint.sum(-1, keepdim=True)


def test_kernel_under_another_schedule(network: dit.DiT, io: dict[str, Tensor]) -> None:
    """The cosine one, and mixtures with a fresh draw ("psi"), by their alphas alone."""
    ids, before, after = io["input_ids"][:2].flatten(), *io["cosine.alpha"].tolist()
    t = (1 - before) / (1 - dit.EPS)  # at which the log-linear schedule has this alpha, so the network hears the right sigma
    probs = token_probs(logits(network, io["input_ids"][:2], torch.full((2,), t)).flatten(0, 1), NOTHING)
    torch.testing.assert_close(posterior(probs, ids, before, after), io["cosine.q"].flatten(0, 1), atol=2e-6, rtol=0)


def psi(q: Tensor, clean: Tensor, kappa: float, after: float) -> Tensor:
    return kappa * q + (1 - kappa) * (after * clean + (1 - after) / SIZE)


@pytest.mark.parametrize("kappa", ["0.0", "0.98"])
def test_psi(network: dit.DiT, io: dict[str, Tensor], kappa: str) -> None:
    ids, before, after = io["input_ids"][:2].flatten(), alpha(0.5), alpha(0.4)
    probs = token_probs(logits(network, io["input_ids"][:2], torch.full((2,), 0.5)).flatten(0, 1), NOTHING)
    q, clean = posterior(probs, ids, before, after), posterior(probs, ids, before, 1.0)
    torch.testing.assert_close(psi(q, clean, float(kappa), after), io[f"psi.{kappa}.q"].flatten(0, 1), atol=1e-6, rtol=0)


@pytest.mark.parametrize("step", range(STEPS + 1))
def test_psi_in_three_ways(network: dit.DiT, io: dict[str, Tensor], replay: dict[str, Tensor], step: int) -> None:
    """With the rate of the reference's run, which noise removal ends."""
    before, after = (alpha(time) for time in TIMES[step : step + 2])
    ids = io["input_ids"][:2].flatten()
    raw = logits(network, io["input_ids"][:2], torch.full((2,), TIMES[step])).flatten(0, 1)
    probs = token_probs(raw, NOTHING).double()
    probs /= probs.sum(-1, keepdim=True)
    masses = renewed(probs.gather(1, ids[:, None])[:, 0], SIZE, before, after, 0.2)
    q, clean = posterior(probs, ids, before, after), posterior(probs, ids, before, 1.0)
    expected = psi(q, clean, float(replay["psi.kappas"][step]), after)
    torch.testing.assert_close(posterior_of(masses, probs, ids), expected, atol=1e-7, rtol=0)
    assert step == STEPS or (expected - q).abs().max() > 1e-5


def decode(network: dit.DiT, replay: dict[str, Tensor], name: str) -> list[Tensor]:
    """The states of a run that the reference's uniforms drive."""
    ids = (replay[f"{name}.prior_uniforms"] * SIZE).long()
    states = [ids]
    for k, (t, s) in enumerate(pairwise(TIMES)):
        probs = token_probs(logits(network, ids[None], torch.tensor([t]))[0], NOTHING, top_p=0.9 if name == "nucleus" else 1.0)
        if name == "greedy_tail" and s == 0:
            return [*states, probs.argmax(-1)]
        after = alpha(s)
        q = posterior(probs, ids, alpha(t), after)
        if name == "psi":
            q = psi(q, posterior(probs, ids, alpha(t), 1.0), float(replay["psi.kappas"][k]), after)
        u = replay[f"{name}.uniforms"][k].double()
        ids = (q / (1e-10 - (u + 1e-10).log())).argmax(-1)
        states.append(ids)
    return states


@pytest.mark.parametrize("name", ["ancestral", "greedy_tail", "nucleus", "psi"])
def test_replays(network: dit.DiT, replay: dict[str, Tensor], name: str) -> None:
    states = decode(network, replay, name)
    assert torch.equal(torch.stack(states[1:])[: len(replay[f"{name}.states"])], replay[f"{name}.states"])
    assert torch.equal(states[-1], replay[f"{name}.tokens"])
    assert not torch.equal(decode(network_of(time_conditioning=False), replay, name)[-1], replay[f"{name}.tokens"])


@pytest.mark.parametrize("index", [1, 3])
def test_process_draws_from_its_kernel(network: dit.DiT, io: dict[str, Tensor], index: int) -> None:
    particles, (t, s) = 4000, io["ts"][index].tolist()
    ids = io["input_ids"][:1]
    process = UniformDiffusion(network, torch.full_like(ids, -1), particles, 2, lambda *_: [], times=[t, s, 0.0])
    noise = Noise.of([3], particles)
    state = process.init(noise)
    state.ids[:] = ids
    after = process.advance(state, 0, 1, noise).ids
    counts = torch.nn.functional.one_hot(after, SIZE).sum(0).double()

    def surprise(law: Tensor) -> float:
        """Chi-square in standard deviations; the rare tokens of a position are counted together."""
        rare = law * particles < 5
        expected = torch.cat([law.masked_fill(rare, 0), (law * rare).sum(-1, keepdim=True)], 1) * particles
        seen = torch.cat([counts.masked_fill(rare, 0), (counts * rare).sum(-1, keepdim=True)], 1)
        deviations = ((seen - expected) ** 2 / expected)[expected > 5]
        freedom = len(deviations) - len(law)
        return abs(float(deviations.sum()) - freedom) / (2 * freedom) ** 0.5

    assert surprise(io[f"q.{index}"][0]) < 5
    assert process.ledger.denoiser_rows == 1  # all particles are equal
    other = posterior(io[f"p.{index}"][0], ids[0], alpha(t), alpha(s / 2))  # negative control: another step
    assert surprise(other) > 5


def test_names_and_shapes(network: dit.DiT) -> None:
    listed = {name: torch.Size(shape) for name, shape in json.loads((GOLDEN / "duo_keys.json").read_text()).items()}
    assert {f"backbone.{name}": tensor.shape for name, tensor in network.state_dict().items()} == listed


@pytest.mark.parametrize("name", ["duo", "DUO", "Duo"])
def test_a_folder_is_known_and_its_traps_are_avoided(folder: Path, name: str, io: dict[str, Tensor]) -> None:
    """The class default of cond_dim is not the checkpoints', the last token is no mask, and a text holds no padding."""
    tiny.edit(folder / "config.json", model_type=name, cond_dim=None)
    model = load(str(folder))
    assert (model.family, model.kernels, model.denoiser.max_length) == ("duo", DUO.kernels, 16)
    assert (model.denoiser.mask_id, model.denoiser.vocab_size, model.forbidden) == (-1, SIZE, (101,))
    raw = logits(model.denoiser, io["input_ids"], io["t"])  # type: ignore[arg-type]
    torch.testing.assert_close(raw, io["raw_logits"], atol=2e-5, rtol=0)
    assert model.template("w5", 6).tolist() == [100, 5, -1, -1, -1, -1]


def test_a_tokenizer_without_the_padding_token(folder: Path) -> None:
    """As GPT-2's, which DUO adds it to: the network's last id is no token, and still a state of the noise."""
    tiny.numbered(101, ["<|endoftext|>"], 100).save(str(folder / "tokenizer.json"))
    model = load(str(folder))
    assert (model.forbidden, model.denoiser.vocab_size) == ((101,), SIZE)


def lightning(folder: Path, name: str, **config: object) -> Path:
    """Put the folder's weights into a checkpoint of DUO's code: raw ones that differ, their average, and a teacher."""
    weights = load_file(folder / "model.safetensors")
    average = {name: tensor for name, tensor in weights.items() if not name.endswith("inv_freq")}
    state = weights | {name: tensor + 1 for name, tensor in average.items()}
    state |= {f"teacher.{name}": tensor - 1 for name, tensor in weights.items()}
    sizes = {"hidden_size": 48, "cond_dim": 20, "length": 16, "n_blocks": 2, "n_heads": 3}
    parameters = {"config": {"algo": {"name": name, "parameterization": "mean"}, "model": sizes, **config}}
    file = folder / "last.ckpt"
    torch.save({"state_dict": state, "ema": {"shadow_params": [*average.values()]}, "hyper_parameters": parameters}, file)
    for other in ("model.safetensors", "config.json"):
        (folder / other).unlink()
    return file


@pytest.mark.parametrize("name", ["duo", "duo_base", "distillation"])
def test_a_training_checkpoint(folder: Path, io: dict[str, Tensor], name: str) -> None:
    """The moving average is taken, the teacher is not, and the noise level is live."""
    model = load(str(lightning(folder, name, noise={"type": "log-linear"})))
    assert (model.family, model.kernels, model.denoiser.max_length) == ("duo", DUO.kernels, 16)
    raw = logits(model.denoiser, io["input_ids"], io["t"])  # type: ignore[arg-type]
    torch.testing.assert_close(raw, io["raw_logits"], atol=2e-5, rtol=0)


def test_a_training_checkpoint_of_other_noise_is_refused(folder: Path) -> None:
    with pytest.raises(ModelError, match="has noise 'cosine'; of DUO only models of log-linear noise are known"):
        load(str(lightning(folder, "duo", noise={"type": "cosine"})))


def cut(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])


def without(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        del tensors[name]
        save_file(tensors, folder / "model.safetensors")

    return change


def setting(**changes: object) -> Callable[[Path], None]:
    return lambda folder: tiny.edit(folder / "config.json", **changes)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (setting(causal=True), "has causal True in its config.json"),
        (setting(cond_dim=129), "config.json says cond_dim 129, the tensors say 20"),
        (setting(vocab_size=101), "config.json says vocab_size 101, the tensors say 102"),
        (setting(n_heads=4), "config.json says n_heads 4, the tensors say 3"),
        (without("backbone.sigma_map.mlp.2.bias"), "sigma_map.mlp.2.bias"),
        (cut, "model.safetensors"),
        (
            lambda folder: tiny.numbered(90, ["<|endoftext|>"], 89).save(str(folder / "tokenizer.json")),
            "the tokenizer has 90 tokens, which contradicts the network's vocabulary of 102",
        ),
    ],
)
def test_another_model_is_refused(folder: Path, damage: Callable[[Path], None], message: str) -> None:
    damage(folder)
    with pytest.raises(ModelError, match=message) as error:
        load(str(folder))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kernel": "ancestral"}, "unknown kernel of model .*: 'ancestral'"),
        ({"length": 17}, "length 17 is more than the 16 tokens"),
        ({"stride": 4}, "a stride is for masked models"),
        ({"kernel": "uniform-greedy-tail"}, "cannot be steered by method 'fk': its last step takes the likeliest token everywhere"),
        (
            {"kernel": "uniform-greedy-tail", "method": "base", "temperature": 0.0},
            "temperature 0 leaves kernel 'uniform-greedy-tail' nothing to draw",
        ),
        ({"temperature": 0.0}, "temperature 0 leaves kernel 'uniform-ancestral' nothing to draw"),
        ({"proposal": "guided", "look_ahead": "value:fit"}, "proposal 'guided' goes with kernels that reveal"),
    ],
)
def test_what_it_cannot_do_is_refused(folder: Path, settings: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load(str(folder)).resolve(Settings(**settings))  # type: ignore[arg-type]


def test_templates_and_compiling_are_refused(folder: Path) -> None:
    model = load(str(folder))
    with pytest.raises(UsageError, match="cannot fill a template: it was never trained"):
        model.start(Template("w1 {3} w2"))
    with pytest.raises(UsageError, match="that is for masked models"):
        model.compiled()
