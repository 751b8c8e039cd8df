"""Startup: help is fast and imports nothing heavy."""

from __future__ import annotations

import inspect
import os
import re
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from importlib.metadata import version
from typing import Any, get_args, get_type_hints

import pytest
import typer
from typer.models import OptionInfo
from typer.testing import Result

from fktext.settings import CHOICES, PARTS, Settings
from fktext_cli.app import COMMANDS, app
from fktext_cli.options import Where, unfolded


def seconds_of(program: str, **more: str) -> tuple[float, subprocess.CompletedProcess[str]]:
    """CPU seconds of a Python program: the clock on the wall would count what else is running."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **more}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done


def every_command() -> Iterator[tuple[str, Any]]:
    """Each command, and each group of commands, with what it is called after `fktext`."""

    def below(name: str, group: Any) -> Iterator[tuple[str, Any]]:
        context = typer.Context(group, info_name=name)
        for each in group.list_commands(context):
            _, command, _ = group.resolve_command(context, [each])
            yield f"{name} {each}".strip(), command
            if hasattr(command, "list_commands"):
                yield from below(f"{name} {each}".strip(), command)

    return below("", typer.main.get_command(app))


def test_help_takes_less_than_300_ms_and_no_heavy_import() -> None:
    ours = """
import sys
from fktext_cli.app import COMMANDS, app
try:
    app(["--help"])
finally:
    heavy = ("torch", "transformers", "numpy", "pydantic", *(f"fktext_cli.{name}" for name in COMMANDS))
    print([name for name in heavy if name in sys.modules], file=sys.stderr)
"""
    empty = "import typer\napp = typer.Typer()\napp.callback()(lambda: None)\napp.command('x')(lambda: None)\napp(['--help'])"
    seconds, least = [], []
    for _ in range(3):
        spent, done = seconds_of(ours)
        assert "generate" in done.stdout
        assert done.stderr.strip() == "[]"
        seconds.append(spent)
        if spent < 0.3:
            return
        least.append(seconds_of(empty)[0])
    # On a machine so busy that CPU seconds are long ones, an application without any code of ours is the measure.
    assert min(seconds) < 1.4 * min(least)


def test_help_of_a_command_imports_no_torch() -> None:
    lines = "for name in COMMANDS:\n    try: app([name, '--help'])\n    except SystemExit: pass\nprint('torch' in sys.modules)"
    _, done = seconds_of(f"import sys\nfrom fktext_cli.app import COMMANDS, app\n{lines}")
    assert done.stdout.split()[-1] == "False"


def test_every_command_has_help(call: Callable[..., Result]) -> None:
    found = dict(every_command())
    assert {*COMMANDS, "image generate", "rewards show", "plugin new", "eval run"} < set(found)
    for name in found:
        result = call(*name.split(), "--help")
        assert (result.exit_code, result.stderr) == (0, "")
        assert f"Usage: fktext {name} " in result.stdout
        assert not re.search(
            r"\b(Optional|Union|Literal|list|tuple|dict|str|Path)\[|default: \(\)|\bNone\b|typing\.", result.stdout
        ), name


@pytest.mark.parametrize("command", ["rewards", "rewards show toxicity", "rewards show aesthetic", "models show tiny-mdlm"])
def test_types_print_as_a_user_reads_them(call: Callable[..., Result], command: str) -> None:
    text = call(*command.split()).stdout
    types = re.findall(r"=<([^>]*)>", text)
    assert ("rewards" in command) == bool(types)
    assert [kind for kind in types if not re.fullmatch(r"[a-z][a-z0-9|-]*( (\d+\.\.\d+|(from|above|to|below) \d+))?", kind)] == []
    assert not re.search(r"\bNone\b|\(\)|typing", text)


def test_help_shows_no_type_of_a_flag_and_breaks_no_word(call: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("typer.rich_utils.MAX_WIDTH", 80)
    for name in dict(every_command()):
        text = call(*name.split(), "--help").stdout
        assert not re.search(r"<(bool|str|int|path|text)\b", text), name
        assert "--help" in text
    text = call("generate", "--help").stdout
    words = {word for choices in CHOICES.values() for word in choices} | {"NAME:option=value"}
    shown = " ".join(text.replace("│", " ").split())
    assert [word for word in words if word not in shown] == []


def test_brackets_are_no_markup(call: Callable[..., Result]) -> None:
    assert "needs fktext[report]" in " ".join(call("eval", "report", "--help").stdout.replace("│", " ").split())


@pytest.mark.parametrize(("name", "about"), COMMANDS.items())
def test_the_list_of_commands_says_what_they_say_themselves(name: str, about: str) -> None:
    assert (dict(every_command())[name].help or "").split("\n")[0] == about


@pytest.mark.parametrize("command", ["", "image", "eval", "plugin"])
def test_a_group_alone_is_help_and_a_usage_error(call: Callable[..., Result], command: str) -> None:
    result = call(*command.split())
    assert (result.exit_code, result.stderr) == (2, "")
    assert "Commands" in result.stdout


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("fktext ", [*COMMANDS]),
        ("fktext sel", ["selftest"]),
        ("fktext models ", ["list", "show", "check", "pull"]),
        ("fktext generate --part", ["--particles"]),
        ("fktext image generate --method ", ["fk", "best-of-n", "base", "svdd", "beam", "particle-gibbs"]),
    ],
)
def test_the_shell_completes(line: str, expected: list[str]) -> None:
    environment = {"_FKTEXT_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
    _, done = seconds_of("import fktext_cli; fktext_cli.main()", **environment)
    assert done.stdout.split() == expected


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("fktext generate --reward se", ["sentiment"]),
        ("fktext score texts.txt -r tox", ["toxicity"]),
        ("fktext image generate --reward bri", ["brightness"]),
        ("fktext rewards show c", ["classifier", "clip", "cola", "colour"]),
        ("fktext generate --model tiny-", ["tiny-mdlm", "tiny-ssdlm"]),
        ("fktext models show mdlm-owt-", ["mdlm-owt-noeos", "mdlm-owt-fp32"]),
        ("fktext generate --kernel remdm-c", ["remdm-cap", "remdm-conf"]),
        ("fktext eval run sentiment-s", ["sentiment-smoke"]),
    ],
)
def test_the_shell_completes_names_and_imports_no_torch(line: str, names: list[str]) -> None:
    program = """
import sys
import fktext_cli
try:
    fktext_cli.main()
finally:
    print("torch" in sys.modules, file=sys.stderr)
"""
    environment = {"_FKTEXT_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
    spent, least = [], []
    for _ in range(3):
        seconds, done = seconds_of(program, **environment)
        assert done.stdout.split() == names
        assert done.stderr.split()[-1] == "False"
        spent.append(seconds)
        if seconds < 0.5:
            return
        least.append(seconds_of("import typer, pydantic, pluggy, rich.console")[0])
    assert min(spent) < 3 * min(least)  # on a machine so busy that CPU seconds are long ones


def test_generate_names_every_option(call: Callable[..., Result]) -> None:
    names = "model reward particles samples prompts length steps potential lambda resample-every ess-threshold resampler x0-samples"
    names += " x0-average method return temperature top-p seed device dtype batch-size offline output format overwrite resume"
    text = call("generate", "--help").stdout
    assert [name for name in names.split() if f"--{name} " not in text] == []
    assert "default: ()" not in text


def test_the_default_model_is_the_library_s() -> None:
    from fktext.models import DEFAULT
    from fktext_cli.generate import generate

    assert inspect.signature(generate).parameters["model"].default == DEFAULT


def test_every_default_of_the_commands_and_of_suites_is_the_library_s() -> None:
    from fktext_cli import generate, image
    from fktext_evals.suites.suite import parse

    settings = asdict(Settings())
    texts, images = (inspect.signature(command.generate).parameters for command in (generate, image))
    assert {name: texts[name].default for name in settings} == settings
    own = {"particles": 4, "steps": 50}  # an image costs what many texts do
    assert {name: images[name].default for name in settings if name in images} == {
        name: own.get(name, value) for name, value in settings.items() if name in images
    }
    suite = parse(
        {
            "name": "s",
            "description": "d",
            "prompts": ["the"],
            "rewards": ["length:words=3"],
            "methods": [{"name": "fk", "particles": settings["particles"]}],
            "judges": [{"name": "j", "reward": "length:words=3", "label": "l", "kind": "mean"}],
        },
        "here",
    )
    assert asdict(suite.methods[0].settings) == settings


def test_settings_name_what_the_engine_has() -> None:
    from fktext.settings import CHOICES
    from fktext.smc import RESAMPLERS
    from fktext.smc.lookahead import PSEUDO_COUNT
    from fktext.smc.potentials import POTENTIALS

    assert CHOICES["potential"] == tuple(POTENTIALS)
    assert CHOICES["resampler"] == tuple(RESAMPLERS)
    assert Settings().pseudo_count == PSEUDO_COUNT


def test_the_choices_of_the_options_are_those_of_the_library() -> None:
    from fktext_cli import generate, image

    for command in (generate, image):
        hints = get_type_hints(command.generate)
        found = {name: get_args(hint) for name, hint in hints.items() if name in CHOICES}
        for name, hint in get_type_hints(command.generate, include_extras=True).items():
            if name in PARTS and name in CHOICES:  # plugins bring more, so the help alone has them
                found[name] = tuple(get_args(hint)[1].metavar.split("|"))
        assert found == {name: known for name, known in CHOICES.items() if name in hints}
        assert {"potential", "resampler", "method"} <= set(found)


def test_the_bounds_of_the_options_are_those_of_the_library() -> None:
    from fktext.settings import BOUNDS
    from fktext_cli import generate, image

    found = {}
    for command in (generate, image):
        for name, hint in get_type_hints(command.generate, include_extras=True).items():
            option = next((item for item in get_args(hint) if isinstance(item, OptionInfo)), None)
            if name in BOUNDS and option is not None:
                found[command.__name__, name] = option.min, option.max
    assert {name for _, name in found} == set(BOUNDS)
    for (command_name, name), (least, most) in found.items():
        unbounded = name in ("lam", "temperature")  # the library refuses what is beyond
        assert most == (None if unbounded else BOUNDS[name][1]), (command_name, name)
        assert least in (None, BOUNDS[name][0]), (command_name, name)


def test_a_command_gets_the_dataclasses_its_options_were_made_of() -> None:
    got = []

    @unfolded("steps", "lam", steps=50, x0_samples=1)
    def command(prompt: str = "a", *, asked: Settings, where: Where) -> None:
        got.append((prompt, asked, where))

    assert [*inspect.signature(command).parameters] == ["prompt", "steps", "lam", "device", "threads", "offline", "verbose"]
    defaults = {name: item.default for name, item in inspect.signature(command).parameters.items()}
    command(**defaults)
    command(**{**defaults, "prompt": "b", "lam": 2.0, "device": "cpu"})
    assert got == [
        ("a", Settings(steps=50, x0_samples=1), Where()),
        ("b", Settings(steps=50, x0_samples=1, lam=2.0), Where(device="cpu")),
    ]


def test_version(call: Callable[..., Result]) -> None:
    assert call("--version").stdout == f"fktext {version('fktext')}\n"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["generat"], "Did you mean 'generate'?"),
        (["generate", "--partcles", "3"], "--particles"),
        (["generate", "--particles"], "--particles"),
    ],
)
def test_a_misspelt_command_or_option_is_one_line(call: Callable[..., Result], arguments: list[str], text: str) -> None:
    result = call(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert text in result.stderr
