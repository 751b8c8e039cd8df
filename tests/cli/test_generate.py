"""`fktext generate` on a tiny random model."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from fktext import embedded
from fktext.smc.ledger import Ledger
from fktext.texts.prompts import read_prompts

Call = Callable[..., Result]


def rows(result: Result) -> list[dict[str, Any]]:
    assert result.exit_code == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_text(call: Call, tiny: Path) -> None:
    result = call("generate", "the book", "the city", "--model", tiny, "-r", "letters", "-n", 4, "--samples", 2)
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert [line[:8] for line in lines] == ["the book", "the book", "the city", "the city"]
    steering, summary = result.stderr.replace("a plugin may print\n", "").replace("a reward may print\n", "").splitlines()
    assert steering == "steering by letters: more of a letter"
    assert summary.startswith("4 populations of 4 particles: ")
    assert "denoiser rows per particle" in summary


def test_jsonl_schema(call: Call, tiny: Path) -> None:
    found = rows(
        call(
            *("generate", "the book", "--model", tiny, "-r", "letters=0.5", "-r", "letters:letter=a=-1"),
            *("-n", 4, "--return", "all", "--format", "jsonl", "--seed", 3, "--lambda", 0.5),
        )
    )
    assert len(found) == 4
    for index, row in enumerate(found):
        assert list(row) == [
            *(
                "prompt",
                "template",
                "text",
                "spelled_prompt",
                "continuation",
                "reward",
                "rewards",
                "log_weight",
                "log_z",
                "prompt_index",
                "sample",
                "particle",
            ),
            *("ancestor", "seed", "model", "reward_models", "settings"),
        ]
        assert (row["prompt"], row["prompt_index"], row["sample"], row["particle"], row["seed"]) == ("the book", 0, 0, index, 3)
        assert row["text"] == "the book" + row["continuation"]
        assert row["rewards"] == {"letters": row["text"].count("e"), "letters:letter=a": row["text"].count("a")}
        assert row["reward"] == pytest.approx(0.5 * row["text"].count("e") - row["text"].count("a"))
        assert row["ancestor"] in range(4)
        assert row["model"]["name"] == str(tiny)
        assert len(row["model"]["digest"]) == 16
        assert row["reward_models"] == {"letters": {"plugin": "fk-test 1.0"}, "letters:letter=a": {"plugin": "fk-test 1.0"}}
    assert sum(math.exp(row["log_weight"]) for row in found) == pytest.approx(1)
    assert len({row["log_z"] for row in found}) == 1


def test_a_row_holds_enough_to_run_it_again_from_python(call: Call, tiny: Path) -> None:
    from fktext.models import load
    from fktext.plugins import load_plugins
    from fktext.population import Population
    from fktext.settings import Settings
    from fktext.texts.generate import generate

    (row,) = rows(call("generate", "the", "--model", tiny, "-r", "letters", "-n", 3, "--seed", 5, "--top-p", 0.9, "-f", "jsonl"))
    extra = {name: row["settings"].pop(name) for name in ("fktext", "dtype", "return", "rewards")}
    terms = [load_plugins().create(spec) for spec in extra["rewards"]]
    model = load(row["model"]["name"], dtype=extra["dtype"])
    assert model.digest == row["model"]["digest"]
    (population,) = [
        item for item in generate(model, terms, [row["prompt"]], Settings(**row["settings"])) if isinstance(item, Population)
    ]
    assert population.texts[population.best()] == row["text"]
    assert population.log_z == row["log_z"]


def test_results_do_not_depend_on_batch_size_or_order(call: Call, tiny: Path) -> None:
    arguments = ("--model", tiny, "-r", "letters", "-n", 4, "--samples", 2, "-f", "jsonl", "--return", "draw")
    forward = rows(call("generate", "the book", "he", *arguments))
    backward = rows(call("generate", "he", "the book", *arguments, "--batch-size", 1))
    assert [row["text"] for row in forward] == [backward[index]["text"] for index in (2, 3, 0, 1)]


def test_base_needs_no_reward_and_takes_no_prompt(call: Call, tiny: Path) -> None:
    found = rows(call("generate", "--model", tiny, "--method", "base", "--samples", 3, "-f", "jsonl"))
    assert [(row["prompt"], row["rewards"], row["sample"]) for row in found] == [("", {}, 0), ("", {}, 1), ("", {}, 2)]
    assert len({row["text"] for row in found}) > 1


def test_minus_infinity_is_null(call: Call, tiny: Path) -> None:
    command = ("generate", "the", "--model", tiny, "-r", "fails:value=-inf,prompt=the", "--lambda", 0, "-n", 2, "-f", "jsonl")
    (row,) = rows(call(*command))
    assert (row["reward"], row["rewards"]) == (None, {"fails:value=-inf,prompt=the": None})


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["-r", "letters=2"], "steering by letters with weight 2: more of a letter"),
        (["-r", "letters=-2"], "steering by letters with weight -2 AGAINST its goal: more of a letter"),
        (["-r", "fails"], "steering by fails: larger is better"),
        (["-r", "letters", "--method", "best-of-n"], "choosing by letters: more of a letter"),
        (["-r", "letters", "--method", "base"], "not steered, only measured: by letters: more of a letter"),
    ],
)
def test_stderr_says_which_way_it_steers(call: Call, tiny: Path, arguments: list[str], line: str) -> None:
    result = call("generate", "the", "--model", tiny, "-n", 2, *arguments)
    assert result.exit_code == 0, result.stderr
    assert line in result.stderr.splitlines()


def test_prompts_from_a_file(call: Call, tiny: Path, tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('{"prompt": "the book"}\n""\n{"context_string": "he"}\n')
    found = rows(call("generate", "--model", tiny, "-r", "letters", "-n", 2, "--prompts", path, "-f", "jsonl"))
    assert [(row["prompt_index"], row["prompt"]) for row in found] == [(0, "the book"), (1, ""), (2, "he")]


def test_a_population_whose_texts_are_all_ruled_out_is_reported_and_the_others_written(
    call: Call, tiny: Path, tmp_path: Path
) -> None:
    path = tmp_path / "out.jsonl"
    command = ("generate", "the", "he", "--model", tiny, "-r", "fails:value=-inf,prompt=the", "-n", 2, "-f", "jsonl")
    result = call(*command, "--return", "all", "--output", path)
    assert result.exit_code == 1
    assert "dead: prompt 'the', sample 0: all 2 texts have a reward of -inf, so there is none to return" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("error: 1 of 2 populations is dead")
    dead, *alive = [json.loads(line) for line in path.read_text().splitlines()]
    nothing = ("text", "continuation", "reward", "log_weight", "log_z", "particle", "ancestor")
    assert [dead[name] for name in nothing] == [None] * len(nothing)
    assert (dead["prompt"], dead["sample"]) == ("the", 0)
    assert [row["prompt"] for row in alive] == ["he", "he"]
    again = call(*command, "--return", "all", "--output", path, "--resume")
    assert again.exit_code == 0
    assert f"resuming: 2 populations are in {path}" in again.stderr
    text = call(*command[:-2])
    assert (text.exit_code, text.stdout) == (1, f"{alive[0]['text']}\n")
    named = call("generate", "--template", "the {2}", "--model", tiny, "-r", "fails:value=-inf", "-n", 2)
    assert "dead: template 'the {2}', sample 0" in named.stderr


def test_a_trace_shows_a_dead_population_with_nothing_returned(call: Call, tiny: Path, tmp_path: Path) -> None:
    for name in ("t.json", "t.html"):
        result = call("generate", "--model", tiny, "-r", "fails:value=-inf", "-n", 2, "--trace", tmp_path / name)
        assert result.exit_code == 1
    (population,) = json.loads((tmp_path / "t.json").read_text())["populations"]
    assert population["lineage"]["chosen"] is None
    assert [particle["weight"] for particle in population["particles"]] == [0, 0]
    assert "none is returned" in (tmp_path / "t.html").read_text()


@pytest.mark.parametrize("method", ["base", "best-of-n", "fk"])
def test_only_base_returns_a_text_that_its_reward_rules_out(call: Call, tiny: Path, method: str) -> None:
    result = call("generate", "--model", tiny, "-r", "fails:value=-inf", "--method", method, "-n", 2, "-f", "jsonl")
    (row,) = rows(result) if method == "base" else [json.loads(result.stdout)]
    assert result.exit_code == (0 if method == "base" else 1)
    assert (row["text"] is None) == (method != "base")
    assert row["reward"] is None


def test_lambda_0_is_the_base_sampler_whatever_resamples(call: Call, tiny: Path) -> None:
    common = ("generate", "the", "--model", tiny, "-r", "letters", "-n", 4, "--return", "all")
    steered = call(*common, "--lambda", 0, "--resampler", "multinomial", "--ess-threshold", 1.1)
    assert steered.stdout == call(*common, "--method", "best-of-n").stdout


def test_output_file(call: Call, tiny: Path, tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    command = ("generate", "the", "he", "--model", tiny, "-r", "letters", "-n", 2, "--output", path)
    result = call(*command)
    assert (result.exit_code, result.stdout) == (0, "")
    first = path.read_text()
    assert [json.loads(line)["prompt"] for line in first.splitlines()] == ["the", "he"]
    again = call(*command)
    assert again.exit_code == 2
    assert "--overwrite" in again.stderr
    assert path.read_text() == first
    assert call(*command, "--overwrite").exit_code == 0
    assert path.read_text() == first
    plain = call(*command[:-1], tmp_path / "out.txt")
    assert plain.exit_code == 0
    assert (tmp_path / "out.txt").read_text() == "".join(json.loads(line)["text"] + "\n" for line in first.splitlines())


@pytest.mark.parametrize("which", ["best", "all"])
def test_resume_writes_what_is_missing_and_nothing_else(call: Call, tiny: Path, tmp_path: Path, which: str) -> None:
    path = tmp_path / "out.jsonl"
    command = ("generate", "the", "he", "she", "--model", tiny, "-r", "letters", "-n", 2, "-o", path, "--return", which)
    assert call(*command, "--resume").exit_code == 0  # a first run may ask for it too
    whole = path.read_text()
    lines = whole.splitlines(keepends=True)
    path.write_text("".join(lines[:-2]) + lines[-2][:40])
    result = call(*command, "--resume")
    assert result.exit_code == 0, result.stderr
    assert path.read_text() == whole
    assert call(*command, "--resume").exit_code == 0
    assert path.read_text() == whole
    other = call(*command, "--resume", "--seed", 1)
    assert other.exit_code == 2
    assert "has seed 0, and this run has 1" in other.stderr
    assert path.read_text() == whole


def test_a_failure_in_a_later_group_keeps_what_was_written(call: Call, tiny: Path, tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    command = ("generate", "the", "he", "she", "--model", tiny, "-r", "fails:value=nan,prompt=he", "-n", 2, "--batch-size", 2)
    result = call(*command, "-f", "jsonl")
    assert result.exit_code == 1
    assert [json.loads(line)["prompt"] for line in result.stdout.splitlines()] == ["the"]
    assert "stopped: 1 of 3 populations were written" in result.stderr
    assert "error: reward 'fails:value=nan,prompt=he' returned nan for sample" in result.stderr
    assert call(*command, "-o", path).exit_code == 1
    assert path.read_text() == result.stdout


BAD = [
    (2, ["-r", "leters"], ["unknown reward 'leters'", "did you mean 'letters'?"]),
    (2, ["-r", "letters:leter=a"], ["'letters'", "'leter'", "did you mean 'letter'?"]),
    (2, ["-r", "fails:value=x"], ["'fails'", "'value'", "'x'", "number"]),
    (2, ["-r", "letters:"], ["'letters:'", "expected option=value"]),
    (2, ["-r", "letters=0"], ["weight"]),
    (2, ["-r", "letters", "-r", "letters=2"], ["given twice"]),
    (2, ["--method", "best-of-n"], ["--method best-of-n needs a --reward"]),
    (2, ["-r", "letters", "--model", "tiny-mdml"], ["unknown model 'tiny-mdml'", "did you mean 'tiny-mdlm'?"]),
    (1, ["-r", "letters", "--model", "owner/name", "--offline"], ["owner/name", "offline"]),
    (2, ["-r", "letters", "--model", ""], ["the model's name is empty"]),
    (1, ["-r", "letters", "--model", "good.txt"], ["good.txt cannot be read as tensors"]),
    (2, ["-r", "letters", "--model", "./nothing"], ["./nothing", "no such"]),
    (2, ["-r", "letters", "--prompts", "missing.txt"], ["missing.txt", "No such file"]),
    (2, ["-r", "letters", "--prompts", "bad.jsonl"], ["bad.jsonl:2: not JSON"]),
    (2, ["-r", "letters", "--prompts", "long.txt"], ["long.txt:2: ", "no room"]),
    (2, ["-r", "letters", "--prompts", "strange.txt"], ["strange.txt:1: ", "'zebra'"]),
    (2, ["-r", "letters", "the", "--prompts", "good.txt"], ["not both"]),
    (2, ["-r", "letters", "the " * 20], ["no room"]),
    (2, ["-r", "letters", "--length", "1", "the"], ["no room", "the length is 1"]),
    (2, ["-r", "letters", "--length", "13", "--stride", "12"], ["stride 12", "strides of 1 to 11"]),
    (2, ["-r", "letters", "--length", "12", "--stride", "4"], ["stride 4 has no use", "length 12", "12 tokens"]),
    (2, ["-r", "letters", "--stride", "0"], ["--stride", "greater than or equal to 1, got '0'"]),
    (2, ["-r", "letters", "--template", "the {x} sat"], ["'the {x} sat'", "stray '{' at character 5", "a gap is {n}"]),
    (2, ["-r", "letters", "--template", "the {2"], ["stray '{' at character 5"]),
    (2, ["-r", "letters", "--template", "the book"], ["has no gap"]),
    (2, ["-r", "letters", "--template", "the {12}"], ["'the {12}' takes 13 tokens", "takes 12"]),
    (2, ["-r", "letters", "--template", "the {99999999} on"], ["takes 100000001 tokens"]),
    (2, ["-r", "letters", "--template", "zebra {2}"], ["template 'zebra {2}' holds 'zebra'"]),
    (2, ["-r", "letters", "--template", "the {2}", "he"], ["prompts or --template, not both"]),
    (2, ["-r", "letters", "--template", "the {2}", "--prompts", "good.txt"], ["--template or --prompts, not both"]),
    (2, ["-r", "letters", "--template", "the {2}", "--length", "8"], ["--length has no use", "template"]),
    (2, ["-r", "letters", "--template", "the {2}", "--stride", "8"], ["--stride has no use", "template"]),
    (2, ["-r", "letters", "--prompts", "gaps.jsonl"], ["gaps.jsonl:2: ", "stray '}' at character 5"]),
    (2, ["-r", "letters", "--prompts", "gap.csv"], ["gap.csv:2: ", "'the {12}' takes 13 tokens"]),
    (2, ["-r", "letters", "--particles", "0"], ["--particles", "greater than or equal to 1, got '0'"]),
    (2, ["-r", "letters", "--particles", "-3"], ["--particles", "-3"]),
    (2, ["-r", "letters", "--particles", "many"], ["--particles", "'many'", "integer"]),
    (2, ["-r", "letters", "--samples", "0"], ["--samples"]),
    (2, ["-r", "letters", "--steps", "2.5"], ["--steps", "'2.5'"]),
    (2, ["-r", "letters", "--potential", "diff"], ["unknown potential 'diff'", "difference"]),
    (2, ["-r", "letters", "--resampler", "x"], ["unknown resampler 'x'", "systematic"]),
    (2, ["-r", "letters", "--method", "smc"], ["--method", "'smc'", "'fk'"]),
    (2, ["-r", "letters", "--return", "worst"], ["--return", "'worst'"]),
    (2, ["-r", "letters", "--lambda", "nan"], ["--lambda", "'nan'"]),
    (2, ["-r", "letters", "--lambda", "-1"], ["--lambda", "'-1'"]),
    (2, ["-r", "letters", "--lambda", "inf"], ["lam", "inf"]),
    (2, ["-r", "letters", "--prompts", "surrogate.jsonl"], ["surrogate.jsonl:1: ", "not valid Unicode"]),
    (2, ["-r", "letters", "--ess-threshold", "-1"], ["--ess-threshold"]),
    (2, ["-r", "letters", "--temperature", "0"], ["temperature", "0"]),
    (2, ["-r", "letters", "--temperature", "1e-45"], ["temperature must be at least 1e-30, got 1e-45"]),
    (2, ["-r", "letters", "--temperature", "1e308"], ["temperature must be at most 1e+30, got 1e+308"]),
    (2, ["-r", "letters", "--top-p", "1.5"], ["'--top-p'", "less than or equal to 1, got '1.5'"]),
    (2, ["-r", "letters", "--kernel", "remdm"], ["unknown kernel", "'remdm'", "ancestral", "remdm-cap"]),
    (2, ["-r", "letters", "--dtype", "int8"], ["--dtype", "'int8'"]),
    (2, ["-r", "letters", "--device", "gpu"], ["device 'gpu'"]),
    (2, ["-r", "letters", "--device", "meta"], ["device 'meta' cannot be used here", "no numbers"]),
    (2, ["-r", "letters", "--format", "xml"], ["--format", "'xml'"]),
    (2, ["-r", "letters", "--output", "no/out.jsonl"], ["there is no folder 'no'"]),
    (2, ["-r", "letters", "--output", "."], ["is a folder"]),
    (2, ["-r", "letters", "--output", "good.txt"], ["exists", "--overwrite", "--resume"]),
    (2, ["-r", "letters", "--resume"], ["--resume needs --output"]),
    (2, ["-r", "letters", "--resume", "--output", "good.txt"], ["--resume needs", "jsonl"]),
    (2, ["-r", "letters", "--resume", "--output", "bad.jsonl"], ["bad.jsonl:1 is no row"]),
    (1, ["-r", "fails:value=nan", ""], ["'fails:value=nan'", "nan", "step", "sample 0"]),
    (1, ["-r", "fails:value=inf", ""], ["'fails:value=inf'", "inf", "step", "sample 0"]),
    (1, ["-r", "fails:value=-inf=-1", ""], ["returned -inf for sample 0", "at step", "Its weight -1 makes that inf"]),
    (1, ["-r", "fails:value=-inf=-1", "--lambda", "0", ""], ["Its weight -1 makes that inf"]),
    (1, ["-r", "fails:value=9", "--lambda", "1e308", ""], ["a log-weight is inf at step"]),
    (1, ["-r", "fails:value=-1e308", ""], ["a log-weight is -inf at step", "beyond any number"]),
    (2, ["-r", "letters", "--pseudo-count", "0"], ["pseudo_count must be above 0 and at most 1,000, got 0.0"]),
    (2, ["-r", "letters", "--temper", "0"], ["temper must be above 0 and at most 1, got 0.0"]),
    (2, ["-r", "letters", "--temper", "1", "--ess-threshold", "2"], ["temper must be below 1 and below", "got 1"]),
    (2, ["-r", "letters", "--temper", "0.9"], ["temper must be", "below ess_threshold, 0.9,", "got 0.9"]),
    (2, ["-r", "letters", "--pseudo-count", "nan"], ["'--pseudo-count'", "less than or equal to 1000, got 'nan'"]),
]


@pytest.mark.parametrize(("code", "arguments", "parts"), BAD, ids=[" ".join(case[1]).strip()[:40] or "nothing" for case in BAD])
def test_bad_input_is_one_clear_line(
    call: Call, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, arguments: list[str], parts: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("good.txt").write_text("the\n")
    Path("bad.jsonl").write_text('"the"\n{"prompt"\n')
    Path("long.txt").write_text("the\n" + "the " * 20 + "\n")
    Path("surrogate.jsonl").write_text('"the \\ud800"\n')
    Path("strange.txt").write_text("the zebra\n")
    Path("gaps.jsonl").write_text('{"template": "the {2}"}\n{"template": "the }"}\n')
    Path("gap.csv").write_text("template\nthe {12}\n")
    before = {path: path.read_bytes() for path in Path().iterdir()}
    result = call("generate", "--model", tiny, *arguments)
    assert (result.exit_code, result.stdout) == (code, ""), result.stderr
    noise = ("a plugin may print", "a reward may print", "steering by", "stopped: 0 of 1")
    lines = [line for line in result.stderr.splitlines() if not line.startswith(noise)]
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("error: ")
    for part in parts:
        assert part in lines[0]
    assert {path: path.read_bytes() for path in Path().iterdir()} == before


def test_kernels_are_named_in_the_rows(call: Call, tiny: Path) -> None:
    texts = {}
    for kernel in ("ancestral", "remdm-cap", "remdm-conf"):
        arguments = ("--model", tiny, "-r", "letters", "-n", 4, "--samples", 3, "-f", "jsonl", "--kernel", kernel)
        found = rows(call("generate", "the", *arguments))
        assert {row["settings"]["kernel"] for row in found} == {kernel}
        texts[kernel] = [row["text"] for row in found]
    assert len(set(map(tuple, texts.values()))) == 3
    (plain,) = rows(call("generate", "the", "--model", tiny, "-r", "letters", "-n", 4, "-f", "jsonl"))
    assert (plain["settings"]["kernel"], plain["settings"]["top_p"], plain["text"]) == ("ancestral", 1.0, texts["ancestral"][0])


def test_rows_name_the_weights_of_the_rewards(call: Call, tiny: Path) -> None:
    arguments = ("--model", tiny, "-n", 2, "-f", "jsonl", "-r", "toxicity:model=heldout-toxicity", "-r", "toxicity:trim=3")
    (row,) = rows(call("generate", "the", *arguments))
    held, small = row["reward_models"].values()
    assert held["plugin"] == small["plugin"] == f"fktext {version('fktext')}"
    assert (held["model"], small["model"]) == ("heldout-toxicity", "tiny-toxicity")
    weights = embedded.path("heldout-toxicity") / "model.safetensors"
    assert held["digest"] == hashlib.sha256(hashlib.sha256(weights.read_bytes()).digest()).hexdigest()[:16]
    assert held["digest"] != small["digest"]


def test_traces_keep_the_values_of_each_reward_and_the_ledger_what_was_computed(tiny: Path) -> None:
    from fktext.models import load
    from fktext.population import Population
    from fktext.rewards import Weighted
    from fktext.settings import Settings
    from fktext.text import Text
    from fktext.texts.generate import generate

    class Letter:
        def __init__(self, letter: str) -> None:
            self.letter, self.seen = letter, list[str]()

        def score(self, samples: list[Text]) -> list[float]:
            self.seen += samples
            return [float(text.count(self.letter)) for text in samples]

    e, a = Letter("e"), Letter("a")
    terms = 0.5 * Weighted("e", e) - Weighted("a", a)
    settings = Settings(particles=4, samples=2, x0_samples=3, resample_every=2)
    found = [item for item in generate(load(str(tiny)), terms, ["the", "the"], settings) if isinstance(item, Population)]
    assert len(found) == 4
    for population in found:
        assert population.names == ("e", "a")
        assert population.values.tolist() == [[text.count("e"), text.count("a")] for text in population.texts]
        for step in population.steps[:-1]:
            assert step.values.shape == (4, 3, 2)
            assert step.reward.tolist() == pytest.approx((0.5 * step.values[..., 0] - step.values[..., 1]).mean(-1).tolist())
        assert population.steps[-1].values.shape == (4, 1, 2)
    total = sum((population.ledger for population in found), start=Ledger())
    assert total.reward_requests == 4 * 4 * (3 + 3 + 1)  # populations x particles x guesses, at three weighings
    assert total.reward_calls == len(e.seen) == len(set(e.seen)) == len(a.seen)  # equal texts once, whoever wrote them and when
    assert total.cache_hits == total.reward_requests - len(e.seen) > 0


def test_x0_average(call: Call, tiny: Path) -> None:
    arguments = ("the", "--model", tiny, "-r", "letters", "-n", 4, "--samples", 4, "--return", "all", "-f", "jsonl")
    tilt, reward = (rows(call("generate", *arguments, "--x0-average", name)) for name in ("tilt", "reward"))
    assert {row["settings"]["x0_average"] for row in tilt} == {"tilt"}
    assert {row["settings"]["x0_average"] for row in reward} == {"reward"}
    assert rows(call("generate", *arguments)) == tilt  # the default
    assert [row["text"] for row in reward] != [row["text"] for row in tilt]
    # with lambda 1, or a single prediction, they are the same
    for more in (("--lambda", 1), ("--x0-samples", 1)):
        one, other = (rows(call("generate", *arguments, "--x0-average", name, *more)) for name in ("tilt", "reward"))
        assert [row["text"] for row in one] == [row["text"] for row in other]


def test_templates(call: Call, tiny: Path) -> None:
    command = ("generate", "--model", tiny, "-r", "letters", "-n", 3, "-f", "jsonl", "--return", "all")
    found = rows(call(*command, "--template", "the {5} sat on the {2} book", "--template", "{2} ran"))
    assert len(found) == 6
    for row in found[:3]:
        assert (row["template"], row["prompt"]) == ("the {5} sat on the {2} book", "")
        words = row["text"].split()
        assert len(words) == 12
        assert ([words[0], *words[6:9], words[11]], row["continuation"]) == (["the", "sat", "on", "the", "book"], row["text"])
        assert row["rewards"] == {"letters": row["text"].count("e")}
    for row in found[3:]:
        assert row["template"] == "{2} ran"
        assert len(row["text"].split()) == 3
        assert row["text"].endswith(" ran")
    text = call("generate", "--model", tiny, "-r", "letters", "-n", 3, "--template", "{2} ran")
    best = max(found[3:], key=lambda row: row["reward"])["text"]
    assert text.stdout == best + "\n"


def test_templates_and_prompts_from_a_file(call: Call, tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text('{"template": "the {2} sat"}\n{"prompt": "he"}\n{"template": "{1} ran"}\n"she"\n')
    out = tmp_path / "out.jsonl"
    command = ("generate", "--model", tiny, "-r", "letters", "-n", 2, "--prompts", tmp_path / "p.jsonl", "-o", out)
    assert call(*command, "--length", 6).exit_code == 0
    whole = out.read_text()
    found = [json.loads(line) for line in whole.splitlines()]
    named = [("", "the {2} sat"), ("he", None), ("", "{1} ran"), ("she", None)]
    assert [(row["prompt"], row["template"]) for row in found] == named
    out.write_text("".join(whole.splitlines(keepends=True)[:3]))
    assert call(*command, "--length", 6, "--resume").exit_code == 0
    assert out.read_text() == whole
    (tmp_path / "p.jsonl").write_text('{"template": "the {1} sat"}\n"he"\n"it"\n"she"\n')
    other = call(*command, "--length", 6, "--resume")
    assert other.exit_code == 2
    assert "has template 'the {2} sat' in place 0, and this run has not" in other.stderr
    (tmp_path / "p.csv").write_text("id,template\n1,the {2} sat\n")
    (row,) = rows(call("generate", "--model", tiny, "-r", "letters", "-n", 2, "--prompts", tmp_path / "p.csv", "-f", "jsonl"))
    assert row["text"] == found[0]["text"]


def test_texts_longer_than_the_model(call: Call, tiny: Path) -> None:
    command = ("generate", "the book", "--model", tiny, "-r", "letters", "-n", 4, "-f", "jsonl", "--samples", 8, "--return", "all")
    result = call(*command, "--length", 30)
    found = rows(result)
    assert "length 30 is beyond the model's 12 tokens: written in windows, each 6 tokens on, 6 steps each" in result.stderr
    assert {row["settings"]["stride"] for row in found} == {6}
    assert all(row["text"].startswith("the book") for row in found)
    assert max(len(row["text"].split()) for row in found) > 12
    assert all("<end>" not in row["text"] for row in found)
    assert [row["text"] for row in rows(call(*command, "--length", 30, "--stride", 6, "--batch-size", 4))] == [
        row["text"] for row in found
    ]
    assert [row["text"] for row in rows(call(*command, "--length", 30, "--stride", 3))] != [row["text"] for row in found]


def test_debug_shows_the_traceback(call: Call, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FKTEXT_DEBUG", "1")
    result = call("generate", "--model", tiny, "-r", "leters")
    assert type(result.exception).__name__ == "UsageError"


def test_a_broken_plugin_is_one_warning(call: Call, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FKTEXT_DISABLE_PLUGINS")
    result = call("generate", "--model", tiny, "-r", "letters", "-n", 2)
    assert result.exit_code == 0
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("warning:")]
    said = "warning: plugin fk-broken:main cannot be imported: ModuleNotFoundError: No module named 'not_there_at_all' ("
    assert line.startswith(said)
    assert line.endswith("fk_broken_plugin.py:1)")
    monkeypatch.setenv("FKTEXT_STRICT_PLUGINS", "1")
    strict = call("generate", "--model", tiny, "-r", "letters", "-n", 2)
    assert strict.exit_code == 1
    assert "FKTEXT_STRICT_PLUGINS" in strict.stderr


def test_what_is_seldom_meant_is_said(call: Call, tiny: Path) -> None:
    command = ("generate", "--model", tiny, "-r", "letters")
    gap = "{2} is written as it stands; --template 'the {2}' would fill it"
    assert gap in call("generate", "the {2}", "--method", "base", "--length", 12, "--steps", 2).stderr  # tiny has no braces
    assert "{2}" not in call("generate", "--template", "the {2}", "--model", tiny, "--method", "base").stderr
    assert "1 particle: there is nothing to choose from" in call(*command, "-n", 1).stderr
    never = "2 particles never fall below --ess-threshold 0.5: none is resampled, the best is chosen at the end"
    assert never in call(*command, "-n", 2, "--ess-threshold", "0.5").stderr
    assert "never fall" not in call(*command, "-n", 2).stderr


@pytest.mark.parametrize(
    ("spec", "softer"),
    [
        ("regex:pattern=zebra", "a finite penalty: regex:pattern=zebra,penalty=2"),
        ("keywords:words=a b,penalty=inf", "a finite penalty: keywords:words=a b,penalty=2"),
        ("fails:value=-inf", "a reward that is finite for more texts"),
    ],
)
def test_a_run_that_dies_of_a_hard_constraint_says_how_to_soften_it(call: Call, tiny: Path, spec: str, softer: str) -> None:
    result = call("generate", "--model", tiny, "-r", spec, "-n", 2)
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1].endswith(f"Use more particles, or {softer}")


PROMPTS = '{"prompt": "the", "id": 7, "topic": {"a": 1}}\n{"template": "the {2}", "id": 8}\n"he"\n'


def test_what_else_a_prompt_s_line_says_stays_with_its_rows(call: Call, tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text(PROMPTS)
    (tmp_path / "p.csv").write_text("id,prompt\n7,the\n")
    command = ("generate", "--model", tiny, "--method", "base", "--format", "jsonl", "--prompts")
    first, second, third = rows(call(*command, tmp_path / "p.jsonl"))
    assert first["extra"] == {"id": 7, "topic": {"a": 1}}
    assert second["extra"] == {"id": 8}
    assert "extra" not in third
    assert rows(call(*command, tmp_path / "p.csv"))[0]["extra"] == {"id": "7"}
    (tmp_path / "bad.jsonl").write_text('{"prompt": "the", "score": NaN}\n')
    wrong = call(*command, tmp_path / "bad.jsonl")
    assert (wrong.exit_code, "bad.jsonl:1: not JSON: NaN" in wrong.stderr) == (2, True)


@pytest.mark.parametrize(("given", "prompts"), [(PROMPTS, ["the", "the {2}", "he"]), ("the\nhe\n", ["the", "he"])])
def test_prompts_from_standard_input(monkeypatch: pytest.MonkeyPatch, given: str, prompts: list[str]) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(given.encode())))
    read = read_prompts(Path("-"), templates=True)
    assert [prompt.text for prompt in read] == prompts
    assert [prompt.where for prompt in read] == [f"stdin:{number + 1}" for number in range(len(prompts))]


def test_csv_is_a_table_of_the_numbers(call: Call, tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text(PROMPTS)
    command = ("generate", "--model", tiny, "--prompts", tmp_path / "p.jsonl", "-r", "letters", "-n", 2, "--return", "all")
    result = call(*command, "-o", tmp_path / "out.csv")
    assert result.exit_code == 0, result.stderr
    table = list(csv.DictReader((tmp_path / "out.csv").open()))
    objects = rows(call(*command, "--format", "jsonl"))
    assert [row["text"] for row in table] == [row["text"] for row in objects]
    assert [float(row["reward"]) for row in table] == [row["reward"] for row in objects]
    assert [float(row["rewards.letters"]) for row in table] == [row["rewards"]["letters"] for row in objects]
    assert [row["extra.id"] for row in table] == ["7", "7", "8", "8", "", ""]
    assert table[0]["extra.topic"] == '{"a": 1}'
    assert call(*command, "--format", "csv").stdout == (tmp_path / "out.csv").read_text()
    scored = call("score", tmp_path / "out.csv", "-r", "letters", "--format", "csv").stdout
    assert [float(row["reward"]) for row in csv.DictReader(scored.splitlines())] == [row["reward"] for row in objects]
