"""Running products of potentials."""

import torch

from fktext.smc.potentials import POTENTIALS


def run(name, tilts):
    rows = torch.tensor(tilts, dtype=torch.float64)[:, None, None]
    carry, seen = POTENTIALS[name].init(rows[0]), []
    for row in rows:
        log_phi, carry = POTENTIALS[name](row, carry)
        seen.append(log_phi.item())
    return seen


def test_products_as_published():
    tilts = [-3.0, -1.0, -2.0]
    assert run("difference", tilts) == [-3.0, -1.0, -2.0]
    assert run("max", tilts) == [-3.0, -4.0, -5.0]
    assert run("sum", tilts) == [-3.0, -7.0, -13.0]
    assert run("terminal", tilts) == [0.0, 0.0, 0.0]


def test_rewards_that_are_never_positive_still_steer_by_their_maximum():
    worse, better = run("max", [-5.0, -5.0]), run("max", [-5.0, -1.0])
    assert worse != better


def test_minus_infinity_is_never_nan():
    for name in POTENTIALS:
        assert not any(value != value for value in run(name, [-torch.inf, 1.0, -torch.inf]))
