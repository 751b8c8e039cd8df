"""README and guides do what they say: every `fktext` command and Python block in them is run, in order, in a folder per page."""

import re
import runpy
import shlex
from functools import cache
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fktext.families.family import Family
from fktext.testing import selftest
from fktext_cli import app

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")], key=lambda page: page.name)
# A block below a line `<!-- no-run -->` is not run here, and says in its first line, which readers see, what it costs or needs.
SELFTEST = selftest.run
BLOCK = re.compile(r"^(<!-- no-run -->\n)?```(\w+)(.*?)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page):
    """(language, whether it is run, code) of each fenced block."""
    return [(language, not mark, code) for mark, language, _, code in BLOCK.findall(page.read_text())]


def commands(code):
    """The `fktext` commands of a shell block, continuation lines joined."""
    joined = code.replace("\\\n", " ")
    return [line.removeprefix("$ ") for line in joined.splitlines() if line.removeprefix("$ ").startswith("fktext ")]


@pytest.fixture(scope="module")
def one_selftest():
    """Have `fktext selftest` compute what it prints once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selftest, "run", cache(lambda **settings: tuple(SELFTEST(**settings))))
        yield


@pytest.fixture
def short(monkeypatch):
    """Have models write a dozen tokens in eight steps where they are not told how many."""
    own = Family.defaults
    monkeypatch.setattr(Family, "defaults", lambda *given: own(*given) | {"length": 12, "steps": 8})


def run(page, folder):
    """Run a page, all in this process, as importing transformers takes longer than most blocks; tests/e2e start `fktext` itself."""
    for language, runs, code in blocks(page):
        if runs and language == "python":
            script = folder / "block.py"
            script.write_text(code)
            runpy.run_path(str(script), run_name="__main__")
        if runs and language == "sh":
            for command in commands(code):
                words = shlex.split(command, comments=True)
                assert not set(words) & {"|", ">", "<", "&&"}, f"shell syntax in {command!r}"
                result = CliRunner().invoke(app, words[1:], prog_name="fktext")
                assert result.exit_code == 0, f"{command}\n{result.output}"


@pytest.mark.usefixtures("one_selftest", "short")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(page, tmp_path)


@pytest.mark.long
@pytest.mark.usefixtures("one_selftest")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_page_runs_at_full_length(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(page, tmp_path)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_block_that_is_not_run_says_why_where_readers_see_it(page):
    for mark, language, remark, code in BLOCK.findall(page.read_text()):
        assert not remark, f"{page.name}: what stands behind ```{language} is not rendered: {remark}"
        assert not mark or code.startswith("#"), f"{page.name}: {code}"


def test_some_page_has_commands():
    assert sum(len(commands(code)) for page in PAGES for language, _, code in blocks(page) if language == "sh") >= 5


def test_ci_runs_readmes_second_command():
    readme = [code.strip() for language, _, code in blocks(ROOT / "README.md") if language == "sh"]
    installs = [code for code in readme if code.startswith("python3 -m venv")]
    assert len(installs) == 2
    assert "fktext generate" in installs[0]
    script = (ROOT / ".ci" / "run").read_text()
    assert installs[1].replace("pip install ", "pip install -q ") in script


def test_links_between_pages_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_models_and_licences_are_those_of_the_catalogue():
    from fktext.files.catalogue import catalogue

    guide = (ROOT / "docs" / "models.md").read_text()
    rows = re.findall(r"^\| (`.+`) \| `([\w-]+)` \| [\d,]+ \|.*\| (.+) \|$", guide, re.MULTILINE)
    listed = {(name, family, licence) for names, family, licence in rows for name in re.findall("`(.+?)`", names)}
    assert listed == {(entry.name, entry.family, entry.licence) for entry in catalogue()}
