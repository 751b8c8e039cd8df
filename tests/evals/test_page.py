"""The pages of reports and traces: what is in them, that nothing in them can load or run, and what they do in a browser."""

from __future__ import annotations

import json
import math
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import pytest
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parent))
from browser import Browser

from fktext_evals import Results, read
from fktext_evals.reporting import page, plots
from fktext_evals.reporting.figures import figures, held_out, joint
from fktext_evals.reporting.verdict import verdict
from fktext_evals.running.results import RunError

ATTACK = "</script></textarea><script>document.title = 'hacked'</script><img src=x onerror=\"document.title='hacked'\">"
VOID = {"meta", "link", "br", "img", "input", "hr"}


class Page(HTMLParser):
    """A strict reader: every tag must be closed by its own, in order; keeps tags with their attributes, and what each one says."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.inside: dict[str, list[str]] = {}
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open, f"never closed: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), f"<{tag}> has an attribute twice"
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open, f"</{tag}> closes nothing"
        assert (opened := self._open.pop()) == tag, f"</{tag}> closes <{opened}>"

    def handle_data(self, data: str) -> None:
        for tag in set(self._open):
            self.inside.setdefault(tag, []).append(data)

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def warned(results: Results, texts: str | None = None) -> Results:
    """The run with a content warning, and with other texts."""
    rows = results.rows
    if texts is not None:
        rows = [
            {
                **row,
                "text": texts,
                "continuation": texts,
                "lineage": row["lineage"] and {**row["lineage"], "texts": [[texts] * row["particles"]] * len(row["weighed_at"])},
            }
            for row in rows
        ]
    return replace(results, rows=rows, suite=replace(results.suite, warning="Mind the gap."))


@pytest.fixture(scope="module")
def trace() -> dict[str, Any]:
    """A trace of two populations of three particles; the second says what an attacker would."""
    lineage = {
        "k": [2, 4, 6],
        "ess": [1.5, 2.9, 2.0],
        "resampled": [True, False, False],
        "ancestors": [[0, 0, 2], [0, 1, 2], [0, 1, 2]],
        "rewards": [[-1.0, None, -3.0], [-1.0, -1.5, -2.0], [-0.5, -0.25, None]],
        "weights": [[0.7, 0.0, 0.3], [0.4, 0.3, 0.3], [0.4, 0.6, 0.0]],
        "texts": [[" a", " b", " c"], [" d", " e", " f"], [" g", " h", " i"]],
        "chosen": 1,
    }
    particles = [
        {"text": "she g", "continuation": " g", "reward": value, "rewards": [value], "weight": 0.3, "ancestor": 0}
        for value in (-0.5, -0.25, None)
    ]
    one = {"prompt": "she", "template": None, "prompt_index": 0, "sample": 0, "names": ["toxicity"], "log_z": -1.25}
    one |= {"particles": particles, "lineage": lineage, "denoiser_rows": 12.0, "reward_calls": 9.0, "seconds": 0.5}
    bad = [{**particle, "continuation": ATTACK} for particle in particles]
    two = {**one, "prompt": ATTACK, "sample": 1, "particles": bad, "lineage": {**lineage, "texts": [[ATTACK] * 3] * 3}}
    settings = {"rewards": ["toxicity"], "method": "fk", "particles": 3, "samples": 2, "lam": 10.0}
    settings |= {"potential": "max", "resampler": "ssp"}
    return {"run": {"seed": 0, "model": {"name": "tiny", "digest": "0"}, "settings": settings}, "populations": [one, two]}


def test_it_stands_alone(whole: Results, trace: dict[str, Any]) -> None:
    for text in (page.html([whole]), page.trace_html(trace)):
        found = Page(text)
        assert text.startswith("<!DOCTYPE html>")
        assert not re.search(
            r"(https?:)?//\w|@import|url\(", re.sub(r'<pre.*?</pre>|<script type="application.*?</script>', "", text, flags=re.S)
        )
        for tag, attributes in found.tags:
            assert tag not in ("link", "img", "iframe", "object", "embed", "base", "form")
            assert not {"src", "href", "action", "srcset"} & set(attributes) or (attributes.get("href") or "").startswith("#"), tag
            assert not any(name.startswith("on") for name in attributes), attributes
        (policy,) = [item["content"] for item in found.of("meta") if item.get("http-equiv") == "Content-Security-Policy"]
        assert policy is not None
        assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-")
        assert len([item for item in found.of("script") if "type" not in item]) == 1


def test_texts_are_escaped(whole: Results, trace: dict[str, Any]) -> None:
    clean = page.html([warned(whole)])
    for text, same in ((page.html([warned(whole, ATTACK)]), clean), (page.trace_html(trace), None)):
        found = Page(text)
        assert "hacked" in text
        assert "<img" not in text
        assert len(found.of("script")) == text.count("<script")
        if same:
            assert len(found.of("script")) == len(Page(same).of("script"))
        said = "".join(found.inside["td"])
        assert ATTACK in said
    whole = replace(whole, suite=replace(whole.suite, name=ATTACK, description=ATTACK, warning=ATTACK))
    assert "<img" not in page.html([whole])


def test_texts_come_after_the_warning_and_only_there(whole: Results) -> None:
    text = page.html([warned(whole, "quite unlikely")])
    *players, gate = re.finditer(r'<details class="gate">(.*?)</details>', text, re.S)
    assert all('<figure class="player" hidden' in each[1] for each in players)
    assert players
    assert "Content warning." in gate[1]
    assert "Mind the gap." in gate[1]
    assert gate[1].count("quite unlikely") == 4 * 3 * 2  # methods, prompts, texts of the first seed
    rest = re.sub(r'<script type="application/json">.*?</script>', "", text.replace(gate[0], ""), flags=re.S)
    assert "quite unlikely" not in rest
    assert "quite unlikely" not in page.html([warned(whole, "quite unlikely")], texts=0)
    assert "gate" not in page.html([whole]).partition("</style>")[2].partition("<script>")[0]


@pytest.mark.parametrize(
    ("rewards", "hidden"),
    [
        (["toxicity"], True),
        (["toxicity:target=nontoxic=-1"], True),
        (["sentiment", "classifier:model=somebody/toxic-bert,label=1=2"], True),
        (["toxicity:target=nontoxic"], False),
        (["toxicity=-2"], False),
        (["sentiment"], False),
        ([], False),
    ],
)
def test_a_warning_where_toxicity_is_steered_up(trace: dict[str, Any], rewards: list[str], hidden: bool) -> None:
    run = {**trace["run"], "settings": {**trace["run"]["settings"], "rewards": rewards}}
    assert ('<details class="gate">' in page.trace_html({**trace, "run": run})) == hidden


def test_tables_say_what_markdown_says(whole: Results) -> None:
    from fktext_evals import markdown

    found = re.search(r"\| fk \| 3 \| (\S+) \[(\S+), (\S+)\]", markdown(whole))
    assert found is not None
    line = next(line for line in page.html([whole]).split("<tr") if "fk</th>" in line and 'class="r">3<' in line)
    assert f'<td class="r mean">{found[1]}</td><td class="ci">[{found[2]}, {found[3]}]</td>' in line
    assert line.count('<svg class="strip') == 3


def headings(text: str) -> list[str]:
    return [tag for tag, _ in Page(text).tags if re.fullmatch("h[1-6]", tag)]


@pytest.mark.parametrize("runs", [1, 2])
def test_headings_go_down_a_level_at_a_time_and_have_content(whole: Results, runs: int) -> None:
    text = page.html([whole] * runs)
    levels = [int(tag[1]) for tag in headings(text)]
    assert levels[:2] == [1, 2]
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert not re.search(r"</h(\d)>\s*(<h\1|</section)", text), "a heading without content"


def test_what_no_best_of_n_cost_has_no_table(whole: Results) -> None:
    """One best-of-n is no curve to interpolate; two that cost less than FK have nothing at its cost."""
    assert "at equal seconds" not in page.html([whole])
    best = next(method for method in whole.suite.methods if method.name == "best-of-n")
    more = replace(best, settings=replace(best.settings, particles=3))
    rows = [{**row, "particles": 3, "seconds": 1.01 * row["seconds"]} for row in whole.of(best.key)]
    dear = [{**row, "seconds": 99.0} if row["method"] == "fk" else row for row in whole.rows]
    found = replace(whole, suite=replace(whole.suite, methods=(*whole.suite.methods, more)), rows=[*dear, *rows])
    text = page.html([found])
    assert "Steering against best-of-n, at equal seconds" not in text
    assert re.search(
        r"Nothing was run at such a cost, so there is no comparison: .*fk at N = 2 costs [\d\u2009]+ times the seconds", text
    )


def test_the_verdict_is_on_top_and_tables_have_captions(whole: Results) -> None:
    text = page.html([whole])
    assert f'<p class="verdict">{verdict(whole)}</p>' in text
    found = Page(text)
    assert len(found.of("caption")) == len(found.of("table")) > 3
    for svg in found.of("svg"):
        assert svg.get("aria-hidden") == "true" or svg.get("aria-label"), svg


def with_resamplings(whole: Results, particles: int | None) -> Results:
    """Let FK at so many particles alone have resampled."""

    def lineage(row: dict[str, Any]) -> dict[str, Any] | None:
        resampled = (row["method"], row["particles"]) == ("fk", particles)
        return row["lineage"] and {**row["lineage"], "resampled": [resampled] * len(row["lineage"]["resampled"])}

    return replace(whole, rows=[{**row, "lineage": lineage(row)} for row in whole.rows])


@pytest.mark.parametrize(("particles", "opened"), [(2, 2), (3, 3), (None, 2)])
def test_the_lineage_that_is_open_has_resampled(whole: Results, particles: int | None, opened: int) -> None:
    text = page.html([with_resamplings(whole, particles)])
    assert re.findall(r'<details class="one" open><summary>(.*?) <', text) == [f"fk, N = {opened}"]


def test_figures_have_the_numbers(whole: Results) -> None:
    found = {figure.name: figure for figure in figures(whole)}
    assert list(found) == ["reward-rows", "reward-calls", "reward-seconds", "reward-held-out", "ess", "roots"]
    assert [line.name for line in found["reward-calls"].lines] == ["best-of-n", "fk"]  # base asks nobody: 0 has no logarithm
    assert [judge.name for judge in held_out(whole)] == ["held-out"]
    fk = found["reward-rows"].lines[2]
    rows = whole.of(("fk", 3))
    assert (fk.name, [point.label for point in fk.points]) == ("fk", ["2", "3"])
    assert fk.points[1].x.mean == pytest.approx(sum(row["denoiser_rows"] for row in rows) / 12)
    assert fk.points[1].y.mean == pytest.approx(sum(row["reward"] for row in rows) / 12)
    roots = found["roots"].lines[1]
    assert [point.x.mean for point in roots.points] == [2, 4, 6]
    assert roots.points[-1].y.mean == pytest.approx(sum(row["unique_roots"] for row in rows) / 36)
    assert all(before.y.mean >= after.y.mean for before, after in zip(roots.points, roots.points[1:], strict=False))


@pytest.mark.parametrize(("kind", "value", "title"), [("perplexity", math.e**2, ""), ("mean", -2.0, ""), ("share", 0.0, " %")])
def test_a_judge_is_drawn_by_its_kind(
    whole: Results, kind: Literal["share", "perplexity", "mean"], value: float, title: str
) -> None:
    judges = (whole.suite.judges[0], replace(whole.suite.judges[1], kind=kind, threshold=0.5))
    rows = [{**row, "judges": {**row["judges"], "held-out": -2.0}} for row in whole.rows]
    found = {figure.name: figure for figure in figures(replace(whole, suite=replace(whole.suite, judges=judges), rows=rows))}
    figure = found["reward-held-out"]
    assert [point.y.mean for line in figure.lines for point in line.points] == pytest.approx([value] * 4)
    assert figure.y_title == f"a-ful{title}, held-out judge"


def test_rewards_of_minus_infinity_are_left_out_of_figures(whole: Results) -> None:
    rows = [{**row, "reward": None} if row["method"] == "base" else row for row in whole.rows]
    found = replace(whole, rows=rows)
    assert [line.name for line in next(figures(found)).lines] == ["best-of-n", "fk"]
    assert '<td class="r mean">\u2212∞</td>' in page.html([found])


def test_several_runs_and_unfinished_ones(whole: Results) -> None:
    part, none = replace(whole, rows=whole.rows[:40]), replace(whole, rows=[])
    text = page.html([whole, part, none])
    Page(text)
    assert text.count('<section class="run"') == 3
    assert "8 of 48 texts are missing" in text
    assert "There are no texts yet" in text


def test_runs_of_older_versions_have_no_lineage(whole: Results) -> None:
    new = ("lineage", "weighed_at", "roots")
    rows = [{name: value for name, value in row.items() if name not in new} for row in whole.rows]
    text = page.html([replace(whole, rows=rows)])
    assert 'class="chart"' in text
    assert "Lineages" not in text


def test_a_damaged_lineage_is_an_error(whole: Results) -> None:
    rows = [
        {**row, "lineage": row["lineage"] and {**row["lineage"], "ancestors": [[9] * row["particles"]] * 3}} for row in whole.rows
    ]
    with pytest.raises(RunError, match="an ancestor is not one of the particles"):
        page.html([replace(whole, rows=rows)])


def test_control_characters_and_halves_of_surrogates_are_shown(whole: Results, tmp_path: Path) -> None:
    page.write(tmp_path / "page.html", page.html([warned(whole, "a\x00b\x1bc\ud800")]))
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "a␀b␛c&#55296;" in text


def test_written_whole_or_not_at_all(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="cannot write"):
        page.write(tmp_path / "nowhere" / "page.html", "x")
    (tmp_path / "page.html").mkdir()
    with pytest.raises(RunError, match="cannot write"):
        page.write(tmp_path / "page.html", "x")
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


def test_cli_writes_page_and_plots(whole: Results, tmp_path: Path) -> None:
    from fktext_cli import app

    runner = CliRunner(env={"NO_COLOR": "1", "COLUMNS": "100", "TERM": "dumb"})
    done = runner.invoke(app, ["eval", "report", str(whole.folder), "--html", str(tmp_path), "--plots", str(tmp_path / "plots")])
    assert (done.exit_code, done.stdout) == (0, "")
    assert f"wrote {tmp_path / 'report.html'}" in done.stderr
    Page((tmp_path / "report.html").read_text())
    written = sorted(path.name for path in (tmp_path / "plots").iterdir())
    assert written == sorted(
        f"{name}.{end}"
        for name in ("reward-rows", "reward-calls", "reward-seconds", "reward-held-out", "ess", "roots")
        for end in ("png", "svg")
    )
    assert (tmp_path / "plots" / "ess.png").read_bytes().startswith(b"\x89PNG")
    again = tmp_path / "again"
    runner.invoke(app, ["eval", "report", str(whole.folder), "--plots", str(again)])
    for name in written:
        assert (again / name).read_bytes() == (tmp_path / "plots" / name).read_bytes(), "the same run, the same file"
    both = runner.invoke(app, ["eval", "report", str(whole.folder), "--html", str(tmp_path / "r.html"), "-f", "md", "--texts", "0"])
    assert both.stdout.startswith("# words: a test")
    assert "Show the texts" not in (tmp_path / "r.html").read_text()


def test_the_same_run_gives_the_same_page(whole: Results) -> None:
    assert page.html([read(whole.folder)]) == page.html([whole])


def seen(browser: Browser, text: str) -> bool:
    return bool(browser.run(f"document.body.innerText.includes({json.dumps(text)})"))


def test_report_in_a_browser(browser: Browser, whole: Results, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    page.write(path, page.html([warned(whole, "quite unlikely " + ATTACK)]))
    browser.requests.clear()
    browser.complaints.clear()
    browser.open(path)
    assert browser.run("document.title") == "words · fktext report"
    assert browser.requests == [path.resolve().as_uri()], "the page loads something"
    assert browser.complaints == []
    assert browser.run("document.documentElement.scrollWidth <= innerWidth"), "wider than the window"

    # nothing generated is on the page, nor does walking in the tree show any, until somebody asks for it
    assert not seen(browser, "quite unlikely")
    browser.run("document.querySelector('details.one[open] .stage').focus()")
    for key in ("ArrowLeft", "ArrowLeft", "ArrowUp"):
        browser.key(key)
    assert seen(browser, "Step 4, particle ")
    assert seen(browser, "Show texts in spite of the content warning")
    assert not seen(browser, "quite unlikely")
    browser.run("document.querySelector('details.one[open] .detail button').click()")
    assert seen(browser, "quite unlikely")
    browser.open(path)
    assert not seen(browser, "quite unlikely"), "a consent is for one visit"
    browser.run("document.querySelectorAll('details.gate').forEach((gate) => { gate.open = true; })")
    assert seen(browser, ATTACK)
    assert browser.run("document.title") == "words · fktext report"
    assert (browser.complaints, len(set(browser.requests))) == ([], 1)


def test_tree_in_a_browser(browser: Browser, trace: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "trace.html"
    page.write(path, page.trace_html(trace))
    browser.open(path)
    width = "document.querySelector('.tree').getBoundingClientRect().width"
    browser.run("document.querySelector('.stage').focus()")
    fitted = browser.run(width)
    browser.key("+")
    assert browser.run(width) == pytest.approx(1.3 * fitted, rel=1e-3)
    browser.run("document.querySelector('[data-zoom=in]').click()")
    assert browser.run(width) == pytest.approx(1.3 * 1.4 * fitted, rel=1e-3)
    browser.key("0")
    assert browser.run(width) == pytest.approx(fitted, rel=1e-3)

    where = "document.querySelector('.where').textContent"
    browser.key("ArrowLeft")
    assert browser.run(where) == "Step 6, particle 1: reward \u22120.25, weight 0.6, returned."
    browser.key("ArrowLeft")
    browser.key("ArrowLeft")
    assert browser.run(where) == "Step 2, particle 0, at the start: reward \u22121, weight 0.7, 2 copies go on."
    browser.key("ArrowDown")
    assert browser.run(where) == "Step 2, particle 1, at the start: reward \u2212∞, weight 0, dies out."
    browser.run("box = document.querySelector('[data-n=\"1,2\"]').getBoundingClientRect()")
    circle = browser.run("[box.x + box.width / 2, box.y + box.height / 2]")
    browser.call("Input.dispatchMouseEvent", type="mouseMoved", x=circle[0], y=circle[1])
    assert browser.run(where) == "Step 4, particle 2: reward \u22122, weight 0.3, goes on."
    assert browser.run("document.querySelectorAll('.edge.on').length") == 1
    browser.run("document.querySelectorAll('details.gate')[0].open = true")
    browser.run("new Promise((done) => setTimeout(done, 50))")
    assert browser.run("document.querySelector('.detail .text').textContent") == " f"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast_on_a_phone(browser: Browser, whole: Results, tmp_path: Path, scheme: str) -> None:
    """All text has at least the contrast that WCAG 2.2 asks for (1.4.3: 4.5), and the page does not scroll sideways."""
    path = tmp_path / "report.html"
    page.write(path, page.html([warned(whole)]))
    browser.open(path, 360, 780, scheme)
    assert browser.run("document.documentElement.scrollWidth") <= 360
    worst = browser.run((Path(__file__).parent / "contrast.js").read_text())
    assert worst["ratio"] >= 4.5, worst


def test_several_runs_are_drawn_into_one_figure(whole: Results, tmp_path: Path) -> None:
    other = replace(whole, folder=Path("elsewhere"), rows=whole.rows[::2])
    found = {figure.name: figure for figure in joint([whole, other])}
    alone = {figure.name: figure for figure in figures(whole) if not figure.curve}
    assert found.keys() == alone.keys()
    lines = found["reward-rows"].lines
    assert [line.name for line in lines[: len(alone["reward-rows"].lines)]] == [
        f"run: {line.name}" for line in alone["reward-rows"].lines
    ]
    assert "elsewhere: fk" in [line.name for line in lines]
    assert len({line.series for line in lines}) == len(lines)
    assert [line.name for line in next(joint([whole, whole])).lines][:1] == [f"1: {alone['reward-rows'].lines[0].name}"]
    assert not list(joint([whole, replace(other, suite=replace(whole.suite, rewards=("length:words=3",)))]))
    written = plots.write([whole, other], tmp_path, ["svg"])
    assert {"1-ess.svg", "2-ess.svg", "all-reward-seconds.svg"} <= {path.name for path in written}
    assert "all-ess.svg" not in {path.name for path in written}
