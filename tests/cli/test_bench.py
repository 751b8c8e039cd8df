"""`fktext bench` on a tiny model: it runs, and its counts are those of the law."""

import re

from fktext.testing import speed


def test_bench_compares_three_samplers(call, tiny):
    result = call("bench", "--model", str(tiny), "-n", "2", "--steps", "40", "--length", "10", "--dense-steps", "2")
    assert result.exit_code == 0, result.stderr
    head, lazy, more, dense, cache, ratio = result.stdout.splitlines()
    assert "1 x 2 particles, L=10, T=40, 20 weighings" in head
    assert re.search(r"\d+ populations an hour, peak memory (unknown|[\d.]+ GiB)", more)
    rows = float(re.search(r"lazy: +([\d.]+) denoiser rows per particle", lazy)[1])
    assert 5 < rows <= 10  # not 40
    assert "distinct states of a lone one 8.9" in lazy
    assert "for 40" in dense
    assert "40% of its steps need a forward" in cache  # 1 - (1 - 1/40)^20
    assert re.search(r"[\d.]+x faster than dense, [\d.]+x than cache, [\d.]+x fewer rows", ratio)


def test_what_memory_does_not_hold_is_left_out(call, tiny, monkeypatch):
    monkeypatch.setattr(speed, "free_memory", lambda device: 0)
    result = call("bench", "--model", str(tiny), "-n", "2", "--steps", "8", "--length", "10")
    assert result.exit_code == 0, result.stderr
    head, _, _, dense = result.stdout.splitlines()
    assert "8 weighings" in head
    assert "dense: not run: its logits and draws take" in dense


def test_bench_needs_an_ancestral_kernel(call):
    result = call("bench", "--model", "tiny-ssdlm")
    assert result.exit_code == 2
    assert "no ancestral kernel" in result.stderr
