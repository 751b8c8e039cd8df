"""`fktext bench` on a tiny model: it runs, and its counts are those of the law."""

import json
import re

import pytest

from fktext.testing import speed
from fktext.testing.costs import fit
from tiny import golden


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


def test_bench_fits_what_work_costs(call, tiny):
    result = call("bench", "--model", str(tiny), "-n", "4", "--length", "10", "--costs", "--reward", "length:words=3")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert (found["length"], found["rows"], list(found["rewards"])) == (10, 4, ["length:words=3"])
    width, words = 16, 27
    assert found["head"]["flops"] == 2 * width * words  # the modulation of the last norm depends on the row alone
    assert found["row"]["flops"] > 10 * 24 * width**2  # four matrices of attention, and eight of the feed-forward layer, at least
    assert found["rewards"]["length:words=3"]["flops"] == 0
    for cost in (found["row"], found["head"], found["rewards"]["length:words=3"]):
        assert cost["call"] >= 0 <= cost["unit"]
        assert cost["call"] + cost["unit"] > 0
    assert found["weight_bytes"] > 4 * width * words
    assert call("bench", "--model", str(tiny), "--reward", "toxicity").exit_code == 2


@pytest.mark.parametrize(
    ("seconds", "line"), [([3, 5, 9], (1, 2)), ([1, 3, 7], (0, 35 / 21)), ([5, 4, 3], (4, 0))], ids=["line", "call < 0", "unit < 0"]
)
def test_the_line_through_measured_calls_is_nowhere_below_0(seconds, line):
    assert fit([1, 2, 4], seconds) == pytest.approx(line)


def test_bench_needs_an_ancestral_kernel_and_texts_of_one_piece(call, tmp_path):
    result = call("bench", "--model", "tiny-ssdlm")
    assert result.exit_code == 2
    assert "no ancestral kernel" in result.stderr
    common = ("bench", "--model", golden("sdar", tmp_path / "sdar"), "--steps", 2, "--length")
    several, one = call(*common, 8), call(*common, 4)
    assert several.exit_code == 2
    assert several.stderr.endswith("sdar' writes 8 tokens in several blocks, and the samplers compared here write one\n")
    assert (one.exit_code, one.stdout.splitlines()[-1][:6]) == (0, "ratio:")
