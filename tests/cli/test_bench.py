"""`fktext bench` on a tiny model: it runs, and its counts are those of the law."""

import re


def test_bench_compares_three_samplers(call, tiny):
    result = call("bench", "--model", str(tiny), "-n", "2", "--steps", "40", "--length", "10", "--dense-steps", "2")
    assert result.exit_code == 0, result.stderr
    head, lazy, dense, cache, ratio = result.stdout.splitlines()
    assert "1 x 2 particles, L=10, T=40" in head
    rows = float(re.search(r"lazy: +([\d.]+) denoiser rows per particle", lazy)[1])
    assert 5 < rows <= 10  # not 40
    assert "distinct states of a lone one 8.9" in lazy
    assert "for 40" in dense
    assert "40% of its steps need a forward" in cache  # 1 - (1 - 1/40)^20
    assert re.search(r"[\d.]+x faster than dense, [\d.]+x than cache, [\d.]+x fewer rows", ratio)


def test_bench_needs_an_ancestral_kernel(call):
    result = call("bench", "--model", "tiny-ssdlm")
    assert result.exit_code == 2
    assert "no ancestral kernel" in result.stderr
