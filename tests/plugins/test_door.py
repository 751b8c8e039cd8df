"""The plugin door, with fake distributions that do everything wrong a distribution can."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from typer.testing import CliRunner

from fktext.errors import PluginError, RewardError, UsageError
from fktext.plugins import load_plugins
from fktext.plugins.registry import Registry
from fktext.rewards import RewardContext, Weighted, Window, Windowed
from fktext_cli import app

Make = Callable[..., str]

GOOD = """
@hookimpl
def fktext_register_rewards(register):
    register({name!r}, lambda context: Constant(), summary="nothing much")
"""
OPTIONS = """
def factory(context: "RewardContext", *, target: Literal["toxic", "nontoxic"] = "toxic", words: int = 20, strict: bool = False,
            share: Annotated[float, Field(gt=0, le=1)] = 0.5, model: "str | None" = None, plain="x") -> "Reward":
    return Constant(context=context, target=target, words=words, strict=strict, share=share, model=model, plain=plain)

def needy(context, *, path: str, n: int):
    return Constant()

def exiting(context):
    raise SystemExit(3)

def crashing(context):
    raise OSError("no such weights")

def wrong(context, *, target: "Missing" = 1):
    return Constant()

@hookimpl
def fktext_register_rewards(register):
    register("toxicity", __name__ + ":factory", summary="log p(toxic)", options={"target": "which way"})
    register("needy", needy, summary="s")
    register("crashing", crashing, summary="s")
    register("exiting", exiting, summary="s")
    register("absent", "not_there_at_all:factory", summary="s")
    register("nothing", __name__ + ":not_there", summary="s")
    register("greedy", lambda context, **options: Constant(), summary="s")
    register("noscore", lambda context: 3, summary="s")
    register("typo", needy, summary="s", options={"pth": "which file"})
    register("wrong", wrong, summary="s")
"""


def values(term: Weighted) -> Any:
    """What the reward of a fake plugin was built with."""
    return cast(Any, term.reward).values


def status(registry: Registry) -> dict[str, str]:
    return {plugin.distribution: plugin.status for plugin in registry.plugins}


def test_nothing_installed_is_fine(fake_dist: Make) -> None:
    registry = load_plugins()
    assert registry.plugins == ()
    assert dict(registry.rewards) == {}
    with pytest.raises(UsageError, match="unknown reward 'toxicity': Known: none"):
        registry.create("toxicity")


def test_a_plugin_brings_its_rewards_and_every_broken_one_is_reported(fake_dist: Make) -> None:
    fake_dist("fk-good", GOOD.format(name="length"), version="2.3")
    fake_dist("fk-absent", "import not_there_at_all")
    fake_dist("fk-exit", "raise SystemExit(3)")
    fake_dist("fk-syntax", "def f(:")
    fake_dist("fk-misspelt", "@hookimpl\ndef fktext_register_reward(register): pass")
    fake_dist("fk-signature", "@hookimpl\ndef fktext_register_rewards(register, tokenizer): pass")
    fake_dist("fk-unmarked", "def fktext_register_rewards(register): pass")
    fake_dist("fk-empty", "")
    fake_dist("fk-boom", GOOD.format(name="early") + "    raise RuntimeError('boom\\nwith details')")
    fake_dist("fk-quits", GOOD.format(name="late") + "    raise SystemExit")
    fake_dist("fk-twice", GOOD.format(name="a") + "    register('a', lambda context: Constant(), summary='s')")
    fake_dist("fk-name", GOOD.format(name="a b"))
    fake_dist("fk-factory", "@hookimpl\ndef fktext_register_rewards(register): register('x', 'not a path', summary='s')")
    fake_dist("fk-nosummary", "@hookimpl\ndef fktext_register_rewards(register): register('x', lambda context: Constant())")
    fake_dist("fk-garbled", "", entry_points="[fktext]\nno equals sign here\n")
    registry = load_plugins()
    assert list(registry.rewards) == ["length"]
    assert status(registry) == {
        "fk-good": "ok",
        "fk-absent": "import-error",
        "fk-exit": "import-error",
        "fk-syntax": "import-error",
        "fk-misspelt": "invalid",
        "fk-signature": "invalid",
        "fk-unmarked": "invalid",
        "fk-empty": "invalid",
        "fk-boom": "hook-error",
        "fk-quits": "hook-error",
        "fk-twice": "hook-error",
        "fk-name": "hook-error",
        "fk-factory": "hook-error",
        "fk-nosummary": "hook-error",
        "fk-garbled": "invalid",
    }
    errors = {plugin.distribution: plugin.error for plugin in registry.plugins}
    absent = r"ModuleNotFoundError: No module named 'not_there_at_all' \(.*fake_fk_absent_main\.py:\d+\)"
    assert re.fullmatch(absent, errors["fk-absent"])
    assert errors["fk-exit"].startswith("SystemExit: 3 (")
    assert "did you mean 'fktext_register_rewards'?" in errors["fk-misspelt"]
    assert "tokenizer" in errors["fk-signature"]
    assert "hookimpl" in errors["fk-unmarked"]
    assert errors["fk-boom"].startswith("RuntimeError: boom (")
    assert "registered twice" in errors["fk-twice"]
    assert "summary" in errors["fk-nosummary"]
    assert len(registry.problems()) == 14
    assert all("\n" not in line and line.startswith("plugin fk-") for line in registry.problems())
    hooks = {plugin.distribution: plugin.hooks for plugin in registry.plugins}
    assert hooks["fk-good"] == ("fktext_register_rewards",)
    good = registry.rewards["length"]
    assert (good.qualified, good.summary) == ("fk-good:length", "nothing much")
    assert registry.plugins[[plugin.distribution for plugin in registry.plugins].index("fk-good")].version == "2.3"


def test_a_reward_of_a_broken_plugin_gives_the_stored_error(fake_dist: Make) -> None:
    fake_dist("fk-absent", "import not_there_at_all", point="fluency")
    fake_dist("fk-boom", GOOD.format(name="early") + "    raise RuntimeError('boom')")
    registry = load_plugins()
    for name in ("fluency", "fk-absent:anything", "fk_absent:anything"):
        with pytest.raises(PluginError, match="No module named 'not_there_at_all'") as caught:
            registry.create(name)
        assert isinstance(caught.value.__cause__, ModuleNotFoundError)
    for name in ("early", "early=2", "fk-boom:early", "fk-boom:early:=2"):
        with pytest.raises(PluginError, match="RuntimeError: boom"):
            registry.create(name)
    with pytest.raises(UsageError, match=r"unknown reward 'other'.*Broken.*fk-absent:fluency.*fk-boom:boom"):
        registry.create("other")


HANGS = {
    "a network": "import socket\nserver = socket.create_server(('localhost', 0))\n"
    "socket.create_connection(server.getsockname()).recv(1)",
    "a clock": "import time\ntime.sleep(60)",
    "nothing": "while True: pass",
    "a hook": "import time\n@hookimpl\ndef fktext_register_rewards(register): time.sleep(60)",
}


@pytest.mark.parametrize("waits_for", HANGS)
def test_a_plugin_that_hangs_stops_nobody(fake_dist: Make, tmp_path: Path, waits_for: str) -> None:
    """In a process of its own: the plugin's thread would go on, and the program must end all the same."""
    fake_dist("fk-good", GOOD.format(name="length"))
    fake_dist("fk-hangs", HANGS[waits_for])
    fake_dist("fk-later", GOOD.format(name="width"))
    program = (
        "from fktext.plugins import load_plugins\nregistry = load_plugins()\nprint(sorted(registry.rewards))\n"
        "print([(plugin.distribution, plugin.status) for plugin in registry.plugins])\nprint(*registry.problems())"
    )
    path = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    environment = {**os.environ, "PYTHONPATH": path, "FKTEXT_PLUGIN_TIMEOUT": "1"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=50)
    assert done.returncode == 0, done.stderr
    rewards, plugins, problem = done.stdout.splitlines()
    assert rewards == "['length', 'width']"
    assert plugins == "[('fk-good', 'ok'), ('fk-hangs', 'timeout'), ('fk-later', 'ok')]"
    assert problem.startswith("plugin fk-hangs:hangs took too long: it was not imported within 1 s")
    assert "FKTEXT_DISABLE_PLUGINS=fk-hangs leaves it out" in problem


def test_a_slow_plugin_is_waited_for(fake_dist: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_dist("fk-slow", "import time\ntime.sleep(0.3)\n" + GOOD.format(name="length"))
    assert status(load_plugins()) == {"fk-slow": "ok"}
    for wrong in ("soon", "0", "-1", "nan", "inf"):
        monkeypatch.setenv("FKTEXT_PLUGIN_TIMEOUT", wrong)
        with pytest.raises(UsageError, match=f"FKTEXT_PLUGIN_TIMEOUT is '{wrong}'; expected seconds, such as 10"):
            load_plugins()


def test_an_interrupt_is_the_users_or_the_plugins_own_error(fake_dist: Make) -> None:
    fake_dist("fk-good", GOOD.format(name="length"))
    fake_dist("fk-raises", "raise KeyboardInterrupt")
    fake_dist("fk-hook", GOOD.format(name="late") + "    raise KeyboardInterrupt('mine')")
    registry = load_plugins()
    assert status(registry) == {"fk-good": "ok", "fk-hook": "hook-error", "fk-raises": "import-error"}
    assert {plugin.error.partition(" (")[0] for plugin in registry.plugins} == {"", "KeyboardInterrupt", "KeyboardInterrupt: mine"}
    fake_dist(
        "fk-slow",
        """
        import signal, threading, time
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        time.sleep(1)
        """,
    )
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores interrupts
    try:
        with pytest.raises(KeyboardInterrupt):
            load_plugins()
    finally:
        signal.signal(signal.SIGINT, before)


LEAKS = """
import ctypes, os, sys

def leak(where):
    print("print", where)
    os.write(1, f"write {where}\\n".encode())
    ctypes.CDLL(None).puts(f"puts {where}".encode())
    os.system(f"echo echo {where}")
    sys.__stdout__.write(f"stdout {where}\\n")
    sys.__stdout__.flush()

leak("at import")

class Leaking:
    def score(self, samples):
        leak("at score")
        return [1.0] * len(samples)

def create(context):
    leak("at creation")
    return Leaking()

@hookimpl
def fktext_register_rewards(register):
    register("leaking", create, summary="s")
"""
CLOSES = """
import os, sys

def close():
    for stream in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__):
        stream.close()
    os.closerange(1, 3)

close()

class Closing:
    def score(self, samples):
        close()
        return [1.0] * len(samples)

@hookimpl
def fktext_register_rewards(register):
    register("closing", lambda context: Closing(), summary="s")
"""


@pytest.fixture
def fktext(fake_dist: Make, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """The command line as a process of its own that sees the fake distributions, and a file of one text."""
    (tmp_path / "text.txt").write_text("a text\n")

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(tmp_path), *filter(None, sys.path)]),
            "OMP_NUM_THREADS": "1",
        }
        command = [sys.executable, "-m", "fktext_cli", *arguments]
        return subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120)

    return run


def test_what_plugins_and_c_code_write_is_no_result(fake_dist: Make, fktext: Callable[..., Any]) -> None:
    fake_dist("fk-leaks", LEAKS)
    done = fktext("score", "text.txt", "-r", "leaking")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["reward"] == 1.0
    written = {
        f"{how} at {when}" for how in ("print", "write", "puts", "echo", "stdout") for when in ("import", "creation", "score")
    }
    assert written <= set(done.stderr.splitlines())


def test_closed_streams_stay_open(fake_dist: Make, fktext: Callable[..., Any]) -> None:
    fake_dist("fk-closes", CLOSES)
    done = fktext("score", "text.txt", "-r", "closing")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["reward"] == 1.0
    assert done.stderr.splitlines() == ["1 texts, 1 of them different"]


def test_a_crash_in_c_code_names_the_plugin(fake_dist: Make, fktext: Callable[..., Any]) -> None:
    module = fake_dist("fk-crashes", "import ctypes\nctypes.string_at(0)")
    done = fktext("rewards")
    assert done.returncode < 0
    assert f"{module}.py" in done.stderr


def test_control_characters_of_a_plugin_are_printed_as_escapes(fake_dist: Make) -> None:
    fake_dist(
        "fk-red",
        """
        def red(context, *, word: str = "\\x1b[31mw"):
            return Constant()

        @hookimpl
        def fktext_register_rewards(register):
            register("red", red, summary="\\x1b[31mé\\x07", options={"word": "\\x1b[2J"}, values="\\x9b1m", models={"m": "\\u202e"})
        """,
    )
    fake_dist("fk-broken", 'raise RuntimeError("\\x1b[31mboom")')
    for command in (["rewards"], ["rewards", "show", "red"], ["plugins"], ["plugins", "list"], ["score", "-", "-r", "broken"]):
        done = CliRunner().invoke(app, command)
        assert all(character.isprintable() or character == "\n" for character in done.output), done.output
        assert "\\x1b[31m" in done.output
    found = CliRunner().invoke(app, ["rewards", "show", "red", "--json"]).stdout
    assert json.loads(found)["summary"] == "\x1b[31mé\x07"  # data stays as it is


def test_option_types_are_printed_as_a_user_reads_them(fake_dist: Make) -> None:
    fake_dist(
        "fk-good",
        """
        from typing import Optional, Union

        def factory(context, *, a: Optional[Annotated[int, Field(ge=4)]] = None, b: Annotated[int, Field(ge=4)] | None = None,
                    c: Literal["x", "y"] | None = None, d: Union[int, str] = 1, e: Annotated[float | None, Field(gt=0)] = None,
                    f: Annotated[int, Field(ge=1, le=5)] = 1):
            return Constant()

        @hookimpl
        def fktext_register_rewards(register):
            register("good", factory, summary="s")
        """,
    )
    printed = CliRunner().invoke(app, ["rewards", "show", "good"]).stdout
    expected = ["a=<int from 4>", "b=<int from 4>", "c=<x|y>", "d=<int|text>", "e=<float above 0>", "f=<int 1..5>"]
    assert [line.split("  ")[2] for line in printed.splitlines()[2:8]] == expected


def test_a_clash_of_two_strangers_is_refused_by_its_bare_name(fake_dist: Make) -> None:
    fake_dist("fk-one", GOOD.format(name="cola") + "    register('only', lambda context: Constant(), summary='s')", point="same")
    fake_dist("fk-two", GOOD.format(name="cola"), point="same")
    registry = load_plugins()
    assert status(registry) == {"fk-one": "conflict", "fk-two": "conflict"}
    assert sorted(registry.rewards) == ["fk-one:cola", "fk-two:cola", "only"]
    term = registry.create("fk-two:cola:=2")
    assert (term.name, term.weight) == ("fk-two:cola", 2.0)
    for spec in ("fk-two:cola=2", "fk_two:cola=2,a=b"):
        with pytest.raises(UsageError, match=r"'fk.two' is a distribution; write fk.two:cola, .* with a weight, fk.two:cola:=2$"):
            registry.create(spec)
    assert registry.resolve("fk_one:cola").distribution == "fk-one"
    with pytest.raises(UsageError, match="write fk-one:cola or fk-two:cola"):
        registry.create("cola")
    assert "fk-two also has cola; write fk-one:cola" in registry.problems()[0]


def test_a_stranger_never_shadows_a_built_in(fake_dist: Make) -> None:
    fake_dist("aaa", GOOD.format(name="toxicity"))
    fake_dist("fktext", GOOD.format(name="toxicity"), point="builtin")
    registry = load_plugins()
    assert status(registry) == {"aaa": "conflict", "fktext": "ok"}
    assert registry.resolve("toxicity").distribution == "fktext"
    assert registry.resolve("fktext:toxicity").distribution == "fktext"
    assert registry.resolve("aaa:toxicity").distribution == "aaa"
    assert list(registry.rewards) == ["toxicity", "aaa:toxicity"]


def test_a_broken_reward_named_like_its_distribution_gives_the_stored_error(fake_dist: Make) -> None:
    fake_dist("early", "import not_there_at_all", point="early")
    with pytest.raises(PluginError, match="No module named 'not_there_at_all'"):
        load_plugins().create("early:words=2")


def test_a_distribution_named_like_a_built_in_reward_does_not_take_its_options(fake_dist: Make) -> None:
    fake_dist("fktext", OPTIONS, point="builtin")
    fake_dist("toxicity", GOOD.format(name="words"))
    registry = load_plugins()
    assert values(registry.create("toxicity:words=7"))["words"] == 7
    assert registry.create("toxicity:words:=7").weight == 7.0


@pytest.mark.parametrize("named", ["fk-good", "fk-good:good", " other , good "])
def test_disabled_plugins_are_not_imported(fake_dist: Make, monkeypatch: pytest.MonkeyPatch, named: str) -> None:
    module = fake_dist("fk-good", GOOD.format(name="length"))
    monkeypatch.setenv("FKTEXT_DISABLE_PLUGINS", named)
    registry = load_plugins()
    assert status(registry) == {"fk-good": "disabled"}
    assert module not in sys.modules
    assert registry.problems() == []
    with pytest.raises(PluginError, match="FKTEXT_DISABLE_PLUGINS"):
        registry.create("fk-good:length")


def test_strict_raises_what_would_be_reported(fake_dist: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_dist("fk-absent", "import not_there_at_all")
    for off in ("", "0"):
        monkeypatch.setenv("FKTEXT_STRICT_PLUGINS", off)
        assert status(load_plugins()) == {"fk-absent": "import-error"}
    monkeypatch.setenv("FKTEXT_STRICT_PLUGINS", "1")
    with pytest.raises(PluginError, match="not_there_at_all") as caught:
        load_plugins()
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)
    monkeypatch.setenv("FKTEXT_DISABLE_PLUGINS", "fk-absent")
    assert status(load_plugins()) == {"fk-absent": "disabled"}


def test_the_first_of_two_versions_on_the_path_counts(fake_dist: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_dist("fk-good", GOOD.format(name="old"), version="1.0")
    first = tmp_path / "first"
    folder = first / "fk_good-2.0.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: FK.Good\nVersion: 2.0\n")
    (folder / "entry_points.txt").write_text("[fktext]\nnew = fake_new\n")
    (first / "fake_new.py").write_text("from fktext.plugins import hookimpl\n" + GOOD.format(name="new"))
    monkeypatch.syspath_prepend(first)
    registry = load_plugins()
    assert [(plugin.distribution, plugin.version) for plugin in registry.plugins] == [("FK.Good", "2.0")]
    assert list(registry.rewards) == ["new"]


def test_every_reward_takes_the_options_of_a_window(fake_dist: Make) -> None:
    fake_dist("fk-good", OPTIONS)
    fake_dist(
        "fk-own",
        """
        def own(context, *, trim: str = "no"):
            return Constant(trim=trim)

        @hookimpl
        def fktext_register_rewards(register):
            register("own", own, summary="s", values="0", models={"tiny": "public domain"})
        """,
    )
    registry = load_plugins()
    term = registry.create("toxicity:part=continuation,trim=3,empty=-inf,words=7=2")
    assert isinstance(term.reward, Windowed)
    assert term.reward.window == Window("continuation", 3, -math.inf)
    assert cast(Any, term.reward.reward).values["words"] == 7
    assert (term.name, term.weight, term.plugin) == ("toxicity:part=continuation,trim=3,empty=-inf,words=7", 2.0, "fk-good 1.0")
    assert not isinstance(registry.create("toxicity:part=text").reward, Windowed)
    own = registry.create("own:trim=hair,part=continuation")  # its own option of that name comes first
    assert isinstance(own.reward, Windowed)
    assert own.reward.window == Window("continuation")
    assert cast(Any, own.reward.reward).values == {"trim": "hair"}
    assert registry.rewards["own"].values == "0"
    assert registry.rewards["own"].models == {"tiny": "public domain"}
    for wrong, message in (
        ("part=prompt", "'text' or 'continuation'"),
        ("trim=x", "valid integer"),
        ("trim=0", "trim came as 0"),
        ("empty=nan", "empty came as nan"),
        ("tirm=3", "did you mean 'trim'"),
    ):
        with pytest.raises(UsageError, match=message):
            registry.create(f"toxicity:{wrong}")


def test_options_are_read_from_the_factory_and_converted(fake_dist: Make) -> None:
    fake_dist("fk-good", OPTIONS)
    registry = load_plugins()
    options = registry.rewards["toxicity"].options()
    assert {name: (option.expects, option.default) for name, option in options.items()} == {
        "target": ("toxic|nontoxic", "toxic"),
        "words": ("int", 20),
        "strict": ("bool", False),
        "share": ("float above 0 to 1", 0.5),
        "model": ("text", None),
        "plain": ("text", "x"),
    }
    assert options["target"].help == "which way"
    context = RewardContext(device="cpu", offline=True)
    term = registry.create("toxicity:target=nontoxic,words=3,strict=true,share=0.25,model=a/b=-2", context)
    assert (term.name, term.weight) == ("toxicity:target=nontoxic,words=3,strict=true,share=0.25,model=a/b", -2.0)
    assert values(term) == {
        "context": context,
        "target": "nontoxic",
        "words": 3,
        "strict": True,
        "share": 0.25,
        "model": "a/b",
        "plain": "x",
    }
    assert values(registry.create("toxicity"))["context"] == RewardContext()


@pytest.mark.parametrize(
    ("spec", "parts"),
    [
        ("toxcity", ["unknown reward 'toxcity'", "did you mean 'toxicity'?"]),
        ("toxicity:targt=toxic", ["reward 'toxicity'", "'targt'", "did you mean 'target'?", "Known: empty, model"]),
        ("toxicity:target=nice", ["reward 'toxicity' option 'target' came as 'nice'", "'toxic' or 'nontoxic'"]),
        ("toxicity:words=many", ["reward 'toxicity' option 'words' came as 'many'", "integer"]),
        ("toxicity:words=2.5", ["reward 'toxicity' option 'words' came as '2.5'", "integer"]),
        ("toxicity:strict=perhaps", ["option 'strict' came as 'perhaps'", "boolean"]),
        ("toxicity:share=2", ["option 'share' came as '2'", "less than or equal to 1"]),
        ("needy:n=3", ["reward 'needy' needs path=<text>: write needy:path=<text>"]),
        ("needy", ["write needy:path=<text>,n=<int>"]),
    ],
)
def test_bad_options_are_usage_errors(fake_dist: Make, spec: str, parts: list[str]) -> None:
    fake_dist("fk-good", OPTIONS)
    with pytest.raises(UsageError) as caught:
        load_plugins().create(spec)
    assert "\n" not in str(caught.value)
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "error", "text"),
    [
        (
            "absent",
            PluginError,
            "reward 'fk-good:absent' cannot be imported: ModuleNotFoundError: No module named 'not_there_at_all'",
        ),
        ("nothing", PluginError, "cannot be imported: AttributeError"),
        ("greedy", PluginError, "expected (context, *, option: type = default, ...)"),
        ("noscore", PluginError, "returned int, which has no score()"),
        ("typo:path=x,n=1", PluginError, "but registers help for pth"),
        ("wrong", PluginError, "whose annotations cannot be read: NameError"),
        ("crashing", RewardError, "reward 'crashing' cannot be built: OSError: no such weights"),
        ("exiting", RewardError, "reward 'exiting' cannot be built: SystemExit: 3"),
    ],
)
def test_bad_factories_are_named(fake_dist: Make, spec: str, error: type[Exception], text: str) -> None:
    fake_dist("fk-good", OPTIONS)
    with pytest.raises(error) as caught:
        load_plugins().create(spec)
    assert type(caught.value) is error
    assert text in str(caught.value)


def test_loading_plugins_imports_no_torch(fake_dist: Make, tmp_path: Path) -> None:
    fake_dist("fk-good", OPTIONS)
    program = "import sys; from fktext.plugins import load_plugins; r = load_plugins(); print(sorted(r.rewards)); " + (
        "sys.exit('torch' in sys.modules)"
    )
    path = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    done = subprocess.run([sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "toxicity" in done.stdout
