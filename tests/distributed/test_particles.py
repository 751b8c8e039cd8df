"""One population over two processes gives what one process gives, bit for bit."""

import os
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
import torch

from fktext.errors import UsageError
from fktext.rewards import Scorer, Weighted
from fktext.smc.sharded import Shares

WORKER = Path(__file__).with_name("worker.py")
spec = spec_from_file_location("worker", WORKER)
worker = module_from_spec(spec)
spec.loader.exec_module(worker)


RANKS = 2


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What each of two gloo processes saved."""
    out = tmp_path_factory.mktemp("ranks")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(RANKS), str(WORKER), str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    return [torch.load(out / f"{rank}.pt") for rank in range(RANKS)]


@pytest.mark.parametrize("potential", ["difference", "max"])
def test_ranks_agree_with_one_process(ranks, potential):
    alone = worker.run(potential, worker.build(worker.PARTICLES), Scorer([Weighted("digits", worker.Digits())]))
    assert torch.stack([step.resampled for step in alone.steps]).sum() >= 3  # else nothing would have travelled
    for saved in ranks:
        got = saved[potential, False]
        for name in ("reward", "values", "log_w", "log_z", "roots"):
            assert torch.equal(got[name], getattr(alone, name)), name
        assert got["samples"] == list(alone.samples)
        assert (got["requests"], got["calls"]) == (alone.ledger.reward_requests, alone.ledger.reward_calls)
        assert got["rows"] >= alone.ledger.denoiser_rows  # equal rows of two ranks cannot share a forward


def test_generate_spreads_the_embedded_model(ranks):
    alone = worker.texts()
    for saved in ranks:
        assert [(found, log_z) for found, _, log_z in saved["texts"]] == [(list(found), log_z) for found, _, log_z in alone]
        for (_, got, _), (_, expected, _) in zip(saved["texts"], alone, strict=True):
            assert torch.equal(got, expected)


def test_an_error_of_one_rank_reaches_all(ranks):
    first, second = (saved["sum", True] for saved in ranks)
    assert first == second
    assert "reward 'digits' returned nan" in first


def test_every_particle_has_one_holder():
    for size in (1, 2, 3, 5):
        shares = [Shares(5, rank, size) for rank in range(size)]
        rows = torch.cat([share.rows(3) for share in shares])
        assert rows.sort().values.tolist() == list(range(15))
        assert all(len(share.slots()) for share in shares)


def test_more_processes_than_particles_are_refused():
    with pytest.raises(UsageError, match="4 particles cannot be shared by 5 processes"):
        Shares(4, 0, 5)
