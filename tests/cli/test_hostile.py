"""Thousands of command lines that nobody means: whatever comes, there is an exit code, at most one error line, and rows or none.

Each is drawn from a seed, so `case(seed, ...)` is the command line again that a failure names.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

Call = Callable[..., Result]

SECONDS = 30  # nothing here takes a tenth of it, the first import of diffusers aside
# fmt: off
NUMBERS = [
    "0", "-1", "-0", "1.5", "nan", "inf", "-inf", "1e400", "1e-400", "0x10", "1_0", "½", "٣", "x", "None", "true", "", " ", "\t3",
    "-",
    "--", "1\n2", "2147483648", "9223372036854775807", "18446744073709551616", "9" * 400, "9" * 5000,
]
WORDS = [
    "", " ", "-", "--", "--help=", "=", ":", "a:b:c", "../..", "~", "*", "%s%n", "{", "}", "{}", "{0}", "{1", "None", "cuda:99",
    "meta",
    "a\nb", "\x07", "\x1b[31mred", "\x01", "\u202eabc", "\u2028", "\ud800", "\udcff", "\U0001d518", "\u0661", "é" * 300, "x" * 5000,
]
SPECS = [
    ":", "=", "=1", "x" * 5000, "\ud800", "length", "length:", "length:words", "length:words=", "length:words=x", "length:words=-1",
    "length:words=1e400", "length:words=99999999999999999999999", "length:words=3=nan", "length:words=3=inf", "length:words=3=",
    "length:words=3==", "length:words=3=-1", "length:words=3=0", "length:words=3,words=4", "length:wrds=3", "lenght:words=3",
    'length:words="3', 'length:words="3"x', "fktext:length:words=3", "nobody:length:words=3", "length:words=3,trim=0",
    "length:words=3,trim=99999999999", "length:words=3,part=middle", "length:words=3,empty=nan", "regex:pattern=(",
    "regex:pattern=",
    "regex:pattern=a{99999999999}", "regex:pattern=zzz", "keywords:words=", "keywords:words=,", "fails:value=nan",
    "fails:value=inf",
    "fails:value=-inf", "fails:value=1e308=1e308", "fails:value=-1e308", "letters=1e-320", "letters:letter=\x1b", "digit:label=7",
    "pixels", "toxicity:target=",
]
TEMPLATES = [
    "{", "}", "{}", "{0}", "{-1}", "{1", "the {999999999} sat", "{9999999999}", "the", "", "{{", "the {1}}} sat", "{٣}",
    "{1}\ud800",
    "{1}\n{1}",
]
CONFIG = [
    None, True, "", "x", [], {}, -1, 0, 1, 1.5, 2, 10**6, 10**20, 1e300, -(10**20), float("nan"), float("inf"), "\ud800",
    {"a": {}}, [1] * 5,
]
TOML = ["0", "-1", "1e400", "nan", "99999999999999999999", "[]", "{}", "", "2000000"]
# fmt: on

FILES: dict[str, bytes] = {
    "good.txt": b"the\nhe\n",
    "good.jsonl": b'"the"\n{"prompt": "he", "text": "he ran"}\n{"text": "she"}\n',
    "good.csv": b"id,prompt,text\n1,the,the red\n",
    "empty.txt": b"",
    "blank.txt": b"the\n\nhe\n",
    "bom.txt": b"\xef\xbb\xbfthe\n",
    "latin.txt": b"the caf\xe9\n",
    "utf16.csv": "prompt\nthe\n".encode("utf-16"),
    "nul.txt": b"the\0book\n\x01\x1b[31m\n",
    "cr.txt": b"the\r\nhe\rshe\r\n",
    "long.txt": b"the " * 20_000 + b"\n",
    "broken.jsonl": b'{"prompt": "the"\n',
    "torn.jsonl": b'{"prompt": "the"}\n{"pro',
    "deep.jsonl": b"[" * 100_000 + b"\n",
    "deeper.jsonl": b'{"prompt": ' * 5_000 + b'"the"' + b"}" * 5_000 + b"\n",
    "digits.jsonl": b'{"prompt": ' + b"9" * 5_000 + b"}\n",
    "nan.jsonl": b'{"prompt": NaN, "text": NaN}\n',
    "null.jsonl": b'{"prompt": null, "text": null}\nnull\n',
    "list.jsonl": b'["the"]\n',
    "surrogate.jsonl": b'{"prompt": "\\ud800", "text": "\\ud800"}\n',
    "template.jsonl": b'{"template": "the {2} sat"}\n"he"\n',
    "stray.jsonl": b'{"template": "the {2 sat"}\n',
    "both.jsonl": b'{"template": "the {2} sat", "prompt": "he"}\n',
    "rows.jsonl": b'{"prompt": "the", "text": "the red", "spelled_prompt": "he"}\n',
    "ragged.csv": b"id,prompt\n1,the,more\n",
    "quote.csv": b'prompt\n"the\n',
    "twice.csv": b"prompt,prompt\nthe,he\n",
    "header.csv": b"prompt\n",
    "wide.csv": b"prompt\n" + b"x" * 200_000 + b"\n",
    "name.pdf": b"the\n",
    "good.toml": b'name = "small"\ndescription = "."\nprompts = ["the"]\nrewards = ["letters"]\nmodel = "tiny"\nsamples = 1\n'
    b'[settings]\nsteps = 2\nlength = 4\n[[methods]]\nname = "fk"\nparticles = [2]\n'
    b'[[judges]]\nname = "j"\nreward = "letters:letter=a"\nlabel = "a"\nkind = "mean"\n',
    "broken.toml": b'name = "small\n',
    "deep.toml": b"a = " + b"[" * 5_000 + b"\n",
    "bytes.toml": b"\xff\xfe",
    "types.toml": b"name = 3\nprompts = 4\n",
}


def make_files(folder: Path, tiny: Path, rng: random.Random) -> None:
    """Everything that command lines name, in the folder they run in."""
    for name, data in FILES.items():
        (folder / name).write_bytes(data)
    whole = FILES["good.toml"].decode()
    for number in range(20):
        lines = whole.splitlines()
        place = rng.randrange(len(lines))
        if " = " in lines[place]:
            lines[place] = f"{lines[place].split(' = ')[0]} = {rng.choice(TOML)}"
        (folder / f"suite{number}.toml").write_text("\n".join(lines) + "\n")
    (folder / "a folder").mkdir()
    shutil.copytree(tiny, folder / "tiny")
    settings = json.loads((tiny / "config.json").read_text())
    for number in range(60):
        changed = json.loads(json.dumps(settings))
        inner = changed if rng.random() < 0.6 else changed["fktext"]
        key = rng.choice([*inner, "vocab_size", "hidden_size", "default_temperature", "noise", "architectures", "sigma", "T"])
        inner[key] = rng.choice(CONFIG)
        copy(tiny, folder / f"model{number}", {"config.json": json.dumps(changed).encode()})
    weights = (tiny / "model.safetensors").read_bytes()
    for number, changes in enumerate(
        [
            {"config.json": None},
            {"config.json": b""},
            {"config.json": b"{"},
            {"config.json": b"[]"},
            {"config.json": b"null"},
            {"config.json": b"\xff"},
            {"config.json": b"[" * 100_000},
            {"tokenizer.json": None},
            {"tokenizer.json": b"{}"},
            {"tokenizer.json": b"\xff"},
            {"model.safetensors": None},
            {"model.safetensors": b""},
            {"model.safetensors": weights[:-100]},
            {"model.safetensors": b"\xff" * 100},
            {"model.safetensors": weights[:8] + b"x" + weights[9:]},
        ]
    ):
        copy(tiny, folder / f"files{number}", changes)


def copy(model: Path, folder: Path, changes: dict[str, bytes | None]) -> None:
    shutil.copytree(model, folder)
    for name, data in changes.items():
        if data is None:
            (folder / name).unlink()
        else:
            (folder / name).write_bytes(data)


class Case:
    """Draws one command line; how hostile it is belongs to the line, so that some come far."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.hostility = self.rng.choice([0.0, 0.05, 0.1, 0.3, 1.0])

    def pick(self, fine: list[Any], hostile: list[Any]) -> str:
        return str(self.rng.choice(fine if fine and self.rng.random() >= self.hostility else hostile))

    def sometimes(self, *options: tuple[str, list[Any], list[Any]], share: float = 0.25) -> list[str]:
        """Each option with a probability, now and then without its value; one that no value is fine for, in hostile lines only."""
        found: list[str] = []
        for name, fine, hostile in options:
            if self.rng.random() < share and (fine or self.hostility):
                found.append(name)
                if self.rng.random() > self.hostility / 20:
                    found.append(self.pick(fine, hostile))
        return found

    def path(self, *endings: str) -> str:
        names = [name for name in FILES if name.endswith(endings)]
        fine = [name for name in names if name.startswith("good")]
        return self.pick(
            fine, [*names, *FILES, "missing.jsonl", "a folder", ".", "", "/dev/null", "\udcff.jsonl", "n" * 300, "x\ny.txt"]
        )

    def model(self) -> list[str]:
        fine = ["tiny"] * 5 if self.rng.random() > 0.15 else [f"model{n}" for n in range(60)] + [f"files{n}" for n in range(15)]
        return [
            "--model",
            self.pick(fine, [*WORDS, "missing", "a folder", "good.txt", "gpt2", "nobody/nothing", "tny-mdlm", "/dev/null"]),
        ]

    def rewards(self) -> list[str]:
        fine = ["length:words=3", "letters", "letters:letter=a=2", "regex:pattern=the,penalty=3", "keywords:words=red"]
        count = self.rng.choice([0, 1, 1, 1, 1, 2]) if self.hostility else 1
        return [word for _ in range(count) for word in ("-r", self.pick(fine, [*SPECS, *WORDS]))]

    def output(self) -> str:
        fine = [f"out-{self.rng.randrange(10**9)}.{ending}" for ending in ("jsonl", "txt")]
        return self.pick(
            fine, [*WORDS, "a folder", "missing/x.jsonl", "good.jsonl", "/dev/null", "/dev/full", "n" * 300, "good.txt/x", "tiny"]
        )

    def steering(self) -> list[str]:
        kinds = ["difference", "max", "sum", "terminal"], ["multinomial", "systematic", "stratified", "residual", "ssp", "killing"]
        return self.sometimes(
            ("--particles", [1, 2, 3], NUMBERS),
            ("--method", ["fk", "best-of-n", "base"], WORDS),
            ("--lambda", [0, 1, 10], [*NUMBERS, 1e300, 1e-300]),
            ("--potential", kinds[0], WORDS),
            ("--resample-every", [1, 2], NUMBERS),
            ("--ess-threshold", [0, 0.5, 2], NUMBERS),
            ("--pseudo-count", [0.5, 1], NUMBERS),
            ("--temper", [0.2], NUMBERS),
            ("--resampler", kinds[1], WORDS),
            ("--seed", [0, 7, -3], NUMBERS),
            ("--return", ["best", "draw", "all"], WORDS),
            ("--device", ["cpu"], [*WORDS, "cuda", "mps", "cpu:1", "meta", "cuda:-1"]),
            ("--dtype", ["float32"], ["float64", "bfloat16", *WORDS]),
            ("--batch-size", [1, 2, 64], NUMBERS),
            ("--threads", [1], NUMBERS),
        )

    def generate(self) -> list[str]:
        words = ["generate", *self.model(), *self.rewards()]
        words += [
            "--length",
            self.pick([2, 4, 8, 12], NUMBERS),
            "--steps",
            self.pick([1, 3], NUMBERS),
            "-n",
            self.pick([1, 2], NUMBERS),
        ]
        words += self.steering()
        words += self.sometimes(
            ("--samples", [1, 2], NUMBERS),
            ("--stride", [3], NUMBERS),
            ("--temperature", [0.5, 1], [*NUMBERS, 1e-30, 1e30]),
            ("--top-p", [0.5, 1], NUMBERS),
            ("--kernel", ["ancestral", "first-hitting", "remdm-cap", "confidence"], WORDS),
            ("--x0-samples", [1, 2], NUMBERS),
            ("--x0-average", ["tilt", "reward"], WORDS),
            ("--device-map", [], ["auto", *WORDS]),
            ("-f", ["jsonl", "text"], WORDS),
            ("--prompts", [self.path(".txt", ".jsonl", ".csv")], [self.path("")]),
            ("--template", ["the {2} sat", "{1}"], [*TEMPLATES, *WORDS]),
            ("-o", [self.output()], [self.output()]),
            (
                "--trace",
                [f"trace-{self.rng.randrange(10**9)}.html"],
                [*WORDS, "a folder", "missing/x.html", "x.pdf", "n" * 300 + ".html"],
            ),
            share=0.15,
        )
        words += [flag for flag in ("--overwrite", "--resume", "--offline", "--spread", "--chat", "-v") if self.rng.random() < 0.06]
        return words + [
            self.pick(["the", "he", "red lake"], [*WORDS, "the " * 5_000]) for _ in range(self.rng.choice([0, 1, 1, 2]))
        ]

    def score(self) -> list[str]:
        words = ["score", self.path(".txt", ".jsonl", ".csv"), *self.rewards()]
        return words + self.sometimes(
            ("--input", ["text", "jsonl"], [*WORDS, "csv"]),
            ("-f", ["jsonl", "text"], WORDS),
            ("--batch-size", [1, 64], NUMBERS),
            ("--device", ["cpu"], [*WORDS, "cuda", "meta"]),
        )

    def image(self) -> list[str]:
        rewards = ["-r", self.pick(["digit:label=7"], [*SPECS, "digit", "digit:label=11", "digit:label=x"])]
        words = ["image", "generate", *rewards, "--steps", self.pick([1, 2], NUMBERS), "-n", self.pick([1, 2], NUMBERS)]
        words += [
            "-o",
            self.pick([f"images-{self.rng.randrange(10**9)}"], [*WORDS, "good.txt", "good.txt/x", "/dev/null", "n" * 300]),
        ]
        return (
            words
            + self.steering()
            + self.sometimes(
                ("--model", ["tiny-digits"], [*WORDS, "tiny", "tiny-mdlm", "missing", "a folder"]),
                ("--samples", [1], NUMBERS),
                ("--scheduler", ["ddim", "ddpm"], [*WORDS, "flow-sde", "sde-dpmsolver"]),
                ("--guidance-scale", [], NUMBERS),
                ("--eta", [1, 0.5], NUMBERS),
                ("--height", [], NUMBERS),
                ("--judge", ["digit:model=heldout-digit"], [*SPECS, *WORDS]),
                share=0.15,
            )
        )

    def eval(self) -> list[str]:
        suites = [self.path(".toml"), *(f"suite{number}.toml" for number in range(20)), "toxicity-smok", *WORDS]
        runs = ["run", "a folder", "missing", "tiny", "good.txt", *WORDS]
        kind = self.rng.choice(["run", "run", "validate", "show", "report", "report", "compare", "ls", "", "rn"])
        words = ["eval", kind] if kind else ["eval"]
        if kind == "run":
            words += [self.pick(["good.toml"], suites), *self.sometimes(("--model", ["tiny"], ["missing", *WORDS]))]
            words += [
                "-o",
                self.pick([f"run-{self.rng.randrange(10**9)}", "run"], [*WORDS, "good.txt", "good.txt/x", "n" * 300, "/dev/null"]),
            ]
            shards = [*WORDS, *NUMBERS, "0/1", "2/1", "1/0", "1/" + "9" * 5000, "9" * 30 + "/" + "9" * 31, "\u0661/\u0662"]
            words += self.sometimes(("--shard", ["1/1", "1/2"], shards), ("--batch-size", [1, "auto"], NUMBERS))
        elif kind == "validate":
            words += [self.pick(["good.toml"], suites) for _ in range(self.rng.choice([0, 1, 2]))]
        elif kind == "show":
            words += [self.pick(["toxicity-smoke"], suites)]
        elif kind == "report":
            words.append(self.pick(["run"], runs))
            words += self.sometimes(
                ("-f", ["md", "csv"], WORDS),
                ("--html", [f"page-{self.rng.randrange(10**9)}.html"], [*WORDS, "good.txt/x", "/dev/full", "n" * 300]),
                ("--texts", [0, 1], NUMBERS),
                ("--lineages", [0, 1], NUMBERS),
            )
        elif kind == "compare":
            words += [self.pick(["run"], runs), *self.sometimes(("--method", ["fk:2"], WORDS), ("--against", ["fk"], WORDS))]
        return words

    def models(self) -> list[str]:
        kind = self.rng.choice(["", "list", "show", "show", "check", "pull", "shw"])
        words = ["models", *([kind] if kind else [])]
        if kind in ("show", "pull", "check"):
            words += self.model()[1:]
        if kind == "check":
            words += self.sometimes(("--as", [], [*WORDS, "mdlm-owt"]), ("--seed", [1], NUMBERS))
        return words + self.sometimes(("-f", ["jsonl", "text"], WORDS)) + ["--json"] * (self.rng.random() < 0.2)

    def bench(self) -> list[str]:
        words = ["bench", *self.model(), "--steps", self.pick([2, 4], NUMBERS), "--length", self.pick([4, 8], NUMBERS)]
        return words + self.sometimes(
            ("-n", [1, 2], NUMBERS),
            ("--prompts", [1, 2], NUMBERS),
            ("--x0-samples", [1, 2], NUMBERS),
            ("--dense-steps", [1, 2], NUMBERS),
            ("--device", ["cpu"], WORDS),
            ("--threads", [1], NUMBERS),
        )

    def listing(self) -> list[str]:
        words = self.rng.choice(
            [["rewards"], ["rewards", "show"], ["plugins"], ["plugins", "list"], ["plugin", "new"], [], ["generat"]]
        )
        if words[-1:] in (["show"], ["new"]):
            words = [*words, self.pick(["length" if "show" in words else f"p{self.rng.randrange(10**9)}"], WORDS)]
        return words + self.sometimes(("-f", ["jsonl", "text"], WORDS), ("--out", ["a folder"], [*WORDS, "good.txt", "n" * 300]))

    def selftest(self) -> list[str]:
        """Never one that runs: it takes half a minute."""
        return ["selftest", "--populations", self.rng.choice([*NUMBERS, *WORDS]), *self.sometimes(("--seed", [1], NUMBERS))]


WEIGHTS = {"generate": 46, "score": 20, "image": 6, "eval": 10, "models": 6, "bench": 5, "listing": 5, "selftest": 2}


def arguments(seed: int) -> list[str]:
    """The command line of a seed."""
    case = Case(seed)
    (command,) = case.rng.choices(list(WEIGHTS), list(WEIGHTS.values()))
    words: list[str] = getattr(case, command)()
    return words


class Hangs(BaseException):
    """Not an Exception, which the command line would explain."""


@contextlib.contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Raise `Hangs` after so many seconds of this process: those on the wall would count what else is running."""

    def stop(*_: object) -> None:
        raise Hangs

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def complaint(words: list[str], result: Result) -> str | None:
    """What is wrong with how a command line ended, if anything."""
    errors = [line for line in result.stderr.split("\n") if line.startswith("error: ")]
    if not (result.exception is None or isinstance(result.exception, SystemExit)):
        return f"raised {result.exception!r}"
    if result.exit_code not in (0, 1, 2, 130):
        return f"exit code {result.exit_code}"
    if "Traceback" in result.stderr:
        return "a traceback"
    if "FKTEXT_DEBUG=1 shows where" in result.stderr:
        return "an error that nobody expected"
    if len(errors) > 1 or (errors and result.exit_code == 0):
        return f"{len(errors)} error lines, exit code {result.exit_code}"
    if result.exit_code == 2 and not errors and "Usage" not in result.stdout:
        return "exit code 2 without a word"
    if errors and not errors[0].isprintable():
        return "control characters for a terminal"
    form = [words[at + 1] for at, word in enumerate(words[:-1]) if word in ("-f", "--format")]
    if (
        (form or ["jsonl" if words[:1] == ["score"] else ""])[-1] == "jsonl"
        and "--json" not in words
        and words[0] not in ("eval", "plugin")
    ):
        for line in result.stdout.split("\n")[:-1]:
            try:
                json.loads(line, parse_constant=refuse_constant)
            except ValueError as error:
                return None if "Usage" in result.stdout else f"{error}: {line[:80]!r} on stdout"
    return None


def run(call: Call, seeds: range) -> list[str]:
    """The seeds whose command lines ended badly, and how."""
    found = []
    for seed in seeds:
        words = arguments(seed)
        try:
            with at_most(SECONDS):
                result = call(*words)
            wrong = complaint(words, result)
        except Hangs:
            result, wrong = None, f"more than {SECONDS} s"
        if wrong:
            shown = [word if len(word) < 60 else f"{word[:20]}...({len(word)})" for word in words]
            last = result.stderr.strip().split("\n")[-1][-300:] if result else ""
            found.append(f"seed {seed}: {wrong}\n  {shown}\n  {last!r}")
    return found


@pytest.fixture
def place(tiny: Path, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> Path:
    make_files(tmp_path, tiny, random.Random(0))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    made = call("eval", "run", "good.toml", "-o", "run")
    assert made.exit_code == 0, made.stderr
    return tmp_path


@pytest.mark.usefixtures("place")
@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers here")
def test_some_hostile_command_lines(call: Call) -> None:
    assert "\n".join(run(call, range(150))) == ""


@pytest.mark.long
@pytest.mark.usefixtures("place")
@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers here")
def test_five_thousand_hostile_command_lines(call: Call) -> None:
    first, last = map(int, os.environ.get("FKTEXT_HOSTILE", "1000:6000").split(":"))
    assert "\n".join(run(call, range(first, last))) == ""
