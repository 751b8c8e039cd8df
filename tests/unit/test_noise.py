"""Counter-based randomness: known answers, independence of layout, uniformity."""

import torch

from fktext.smc.noise import NORMAL, REVEAL, TOKEN, Noise, philox, population_key


def test_known_answers_of_philox():
    # Random123's published vectors for philox4x32-10
    cases = [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ]
    for counter, key, expected in cases:
        words = philox([torch.tensor(word) for word in counter], (torch.tensor(key[0]), torch.tensor(key[1])))
        assert tuple(int(word) for word in words) == expected


def test_a_draw_does_not_depend_on_who_else_is_there():
    keys = [population_key(3, "a"), population_key(3, "b"), population_key(3, "c")]
    position = torch.arange(5)
    together = Noise.of(keys, 4).uniform(TOKEN, 7, position)
    alone = Noise.of(keys[1:2], 4).uniform(TOKEN, 7, position)
    assert torch.equal(together[4:8], alone)
    rows = torch.tensor([6, 1])
    assert torch.equal(Noise.of(keys, 4).uniform(TOKEN, 7, position, rows[:, None]), together[rows])
    fewer = Noise.of(keys[1:2], 2).uniform(TOKEN, 7, position)
    assert torch.equal(alone[:2], fewer)


def test_streams_steps_slots_and_positions_differ():
    noise = Noise.of([population_key(0, "x")], 3)
    draws = torch.cat([noise.uniform(stream, step, torch.arange(4)).flatten() for stream in (REVEAL, TOKEN) for step in (0, 1)])
    assert len(draws.unique()) == len(draws)


def test_uniform_strictly_inside_and_flat():
    noise = Noise.of([population_key(1, "flat")], 2000)
    draws = noise.uniform(TOKEN, 0, torch.arange(100)).flatten()
    assert draws.min() > 0
    assert draws.max() < 1
    counts = torch.histc(draws, 64, 0, 1)
    chi2 = ((counts - counts.mean()) ** 2 / counts.mean()).sum()
    assert chi2 < 63 + 5 * (2 * 63) ** 0.5
    # neighbours are uncorrelated along slots and positions
    grid = noise.uniform(TOKEN, 0, torch.arange(100)) - 0.5
    for a, b in ((grid[1:], grid[:-1]), (grid[:, 1:], grid[:, :-1])):
        assert ((a * b).mean() * 12 * a.numel() ** 0.5).abs() < 5


def test_negative_seeds_and_large_keys():
    keys = [population_key(-1, "x"), (1 << 64) - 1, 0]
    assert len({float(u) for u in Noise.of(keys, 1).uniform(TOKEN, 0, 0)}) == 3


def test_normals_are_standard_and_belong_to_their_rows():
    noise = Noise.of([population_key(0, name) for name in "ab"], 3)
    rows = torch.arange(6)
    normals = noise.normal(NORMAL, 7, 50_001, rows)
    assert (normals.dtype, normals.shape) == (torch.float32, (6, 50_001))
    assert torch.equal(noise.normal(NORMAL, 7, 50_001, rows[[4, 1]]), normals[[4, 1]])
    assert torch.equal(noise.normal(NORMAL, 7, 10, rows), normals[:, :10])
    assert (noise.normal(NORMAL, 8, 10, rows) != normals[:, :10]).all()
    flat = normals.double().flatten()
    bound = 5 / len(flat) ** 0.5
    assert abs(flat.mean()) < bound
    assert abs(flat.var() - 1) < 1.5 * bound
    for at in (-3.0, -1.0, 0.5, 2.0):
        share = float(torch.special.ndtr(torch.tensor(at, dtype=torch.float64)))
        assert abs((flat < at).double().mean() - share) < 5 * (share * (1 - share) / len(flat)) ** 0.5
    assert torch.corrcoef(normals).sub(torch.eye(6)).abs().max() < 5 / 50_001**0.5
    assert abs((flat[:-1] * flat[1:]).mean()) < bound
    assert len(flat.unique()) > 0.98 * len(flat)  # none is used twice, but for float32's rounding
