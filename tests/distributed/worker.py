"""Run by `torch.distributed.run`: steers with the particles spread over the ranks, and each rank saves what it got.

python -m torch.distributed.run --nproc-per-node 2 worker.py OUT
"""

import sys

import torch
import torch.distributed as dist

from fktext.errors import FktextError
from fktext.masked.process import MaskedDiffusion
from fktext.models import load
from fktext.rewards import Scorer, Weighted
from fktext.rewards.sharded import ShardedScorer
from fktext.settings import Settings
from fktext.smc import RESAMPLERS
from fktext.smc.lookahead import Predictions
from fktext.smc.noise import Noise, population_key
from fktext.smc.potentials import POTENTIALS
from fktext.smc.schedules import Every
from fktext.smc.sharded import ShardedProcess, Shares
from fktext.smc.steer import Plan, steer
from fktext.testing.enumerable import TableDenoiser
from fktext.text import Text
from fktext.texts.generate import Population, generate

KEYS = [population_key(0, name) for name in ("a", "b", "c")]
PARTICLES, STEPS = 5, 12
CASES = [("difference", False), ("max", False), ("sum", True)]  # potential, and whether the reward fails


class Digits:
    """Deterministic, in nats; can be told to fail for some texts."""

    def __init__(self, fail: bool = False) -> None:
        self.fail = fail

    def score(self, samples):
        return [
            float("nan") if self.fail and sample.startswith("0 0") else -(int(sample.replace(" ", ""), 3) % 7) / 2
            for sample in samples
        ]


def decode(ids, population):
    return [Text(" ".join(map(str, row)), prompt="") for row in ids.tolist()]


def build(particles):
    net = TableDenoiser(length=6, tokens=3)
    return MaskedDiffusion(net, torch.full((len(KEYS), 6), net.mask_id), particles, STEPS, decode)


def run(potential, process, scorer):
    plan = Plan(
        PARTICLES, Every(2), POTENTIALS[potential], RESAMPLERS["systematic"], lam=2.0, ess_threshold=0.9, look_ahead=Predictions(2)
    )
    return steer(process, scorer, Noise.of(KEYS, PARTICLES), plan)


def texts(spread=False):
    """The embedded model, steered."""
    settings = Settings(particles=4, samples=2, length=12, steps=12, resample_every=2, ess_threshold=0.9, lam=3.0)
    vowels = Weighted("digits", Vowels())
    found = generate(load("tiny-mdlm", offline=True), [vowels], ["the book", "a"], settings, spread=spread)
    return [(item.texts, item.log_w, item.log_z) for item in found if isinstance(item, Population)]


class Vowels:
    def score(self, samples):
        return [sum(letter in "aeiou" for letter in sample) / len(sample) for sample in samples]


def main(out):
    dist.init_process_group("gloo")
    shares = Shares.of(PARTICLES)
    saved = {}
    for potential, fail in CASES:
        scorer = ShardedScorer(Scorer([Weighted("digits", Digits(fail))]), shares)
        try:
            result = run(potential, ShardedProcess(build, shares, len(KEYS)), scorer)
        except FktextError as error:
            saved[potential, fail] = str(error)
            continue
        saved[potential, fail] = {name: getattr(result, name) for name in ("reward", "values", "log_w", "log_z", "roots")} | {
            "samples": [str(sample) for sample in result.samples],
            "rows": result.ledger.denoiser_rows,
            "calls": result.ledger.reward_calls,
            "requests": result.ledger.reward_requests,
        }
    saved["texts"] = [([str(text) for text in found], log_w, log_z) for found, log_w, log_z in texts(spread=True)]
    torch.save(saved, f"{out}/{dist.get_rank()}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
