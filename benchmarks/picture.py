"""Draw README's picture: the particles of one run, from masks to words, as an animated SVG.

    python benchmarks/picture.py > docs/images/particles.svg

Every line is a particle as it stands at a weighing; the bar is its weight. Where the population resamples, lines of low weight
become copies of others. Nothing is made up: it is the run of the settings below, and the same seed draws the same picture.
"""

from __future__ import annotations

import argparse
from html import escape
from typing import NamedTuple

import fktext
from fktext.trace import Board, Particles, Weighing

ROW, TOP, LEFT, WIDE, CHAR, MASK = 30, 74, 86, 760, 8.4, 28  # pixels
CLOSE = (".", ",", "!", "?", "'")  # to the word before
SECONDS = 1.1  # a frame
STYLE = """
svg { font: 14px ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
.card { fill: #fbfbfd; stroke: #d5d8e0; }
.title { font-weight: 600; fill: #1d2433; } .note { fill: #687086; font-size: 12px; }
.mask { fill: #d9dce6; } .word { fill: #1d2433; } .prompt { fill: #9299ab; } .dead { fill: #b9bdc9; }
.bar { fill: #3c6df0; } .copy { fill: none; stroke: #3c6df0; stroke-width: 1.6; } .best { fill: #e7f0ff; }
.frame { opacity: 0; }
"""


class Frame(NamedTuple):
    """The particles at a weighing: their tokens as (text, kind), and what the engine made of them."""

    lines: list[list[tuple[str, str]]]
    weighing: Weighing


def words(board: Board, given: Board) -> list[tuple[str, str]]:
    """Return (text, kind) of what a particle says, word pieces joined."""
    found: list[tuple[str, str]] = []
    for place, piece in enumerate(board):
        kind = "mask" if piece is None else "word" if given[place] is None else "prompt"
        if piece and piece.isalnum() and found and found[-1][1] != "mask":
            found[-1] = (found[-1][0] + piece, kind)
        elif piece != "":
            found.append(((piece or "").strip(), kind))
    return found


def frames(model: fktext.TextModel, prompt: str, reward: str, settings: fktext.Settings) -> list[Frame]:
    """Run one population, and keep what its particles look like at each weighing."""
    [population] = fktext.generate(model, reward, prompt, settings, watch=True)
    start, *weighings = population.events
    particles, found = Particles(start), []
    for weighing in weighings:
        particles.add(weighing)
        found.append(Frame([words(board, start.board) for board in particles.boards], weighing))
    return found


def line(parts: list[tuple[str, str]], row: int, dead: bool) -> str:
    """Draw a particle."""
    spans, boxes, place, y = [], [], float(LEFT), TOP + row * ROW
    for text, kind in parts:
        if kind == "mask":
            boxes.append(f'<rect class="mask" x="{place:.0f}" y="{y + 4}" width="{MASK}" height="14" rx="3"/>')
            place += MASK + CHAR / 2
        else:
            place -= CHAR if text in CLOSE and place > LEFT else 0
            spans.append(f'<tspan x="{place:.0f}" class="{"dead" if dead else kind}">{escape(text)}</tspan>')
            place += (len(text) + (text != "'")) * CHAR
    faint = ' opacity=".5"' if dead else ""
    return f'<g{faint}>{"".join(boxes)}<text y="{y + 16}">{"".join(spans)}</text></g>'


def drawn(frame: Frame, number: int, *, resampling: bool, last: bool) -> str:
    """Draw a frame; while the population resamples the lines that end are grey, and curves lead to their places."""
    ancestors, weights = frame.weighing.ancestors, frame.weighing.weights
    ends = [resampling and ancestors[row] != row for row in range(len(ancestors))]
    best = max(range(len(weights)), key=lambda row: frame.weighing.rewards[row]) if last else -1
    parts = [f'<g class="frame f{number}">']
    note = "resampled" if resampling else "finished" if last else "weighed"
    parts.append(
        f'<text class="note" x="24" y="56">step {frame.weighing.k}: {note}; {frame.weighing.ess:.1f} effective particles</text>'
    )
    for row, tokens in enumerate(frame.lines):
        y = TOP + row * ROW
        if row == best:
            parts.append(f'<rect class="best" x="16" y="{y - 4}" width="{WIDE - 32}" height="{ROW - 4}" rx="6"/>')
        parts.append(f'<rect class="bar" x="24" y="{y + 6}" width="{max(1.5, 44 * weights[row]):.1f}" height="10" rx="2"/>')
        parts.append(line(tokens, row, ends[row]))
        if last:
            worth = f"reward {frame.weighing.rewards[row]:.3f}"
            parts.append(f'<text class="note" x="{WIDE - 28}" y="{y + 16}" text-anchor="end">{worth}</text>')
        if ends[row]:
            a, b = TOP + ancestors[row] * ROW + 11, y + 11
            parts.append(f'<path class="copy" d="M 78 {a} C 60 {a} 60 {b} 78 {b}"/>')
    return "".join([*parts, "</g>"])


def picture(found: list[Frame], command: str) -> str:
    """Draw all frames one after the other, over and over; without motion only the last."""
    shown: list[tuple[Frame, bool, float]] = []
    for frame in found:
        last = frame is found[-1]
        shown.append((frame, False, 5 * SECONDS if last else SECONDS))
        if frame.weighing.resampled:
            shown.append((frame, True, SECONDS))
    total, clock, rules, drawings = sum(each for _, _, each in shown), 0.0, [], []
    for number, (frame, resampling, seconds) in enumerate(shown):
        begin, end = 100 * clock / total, 100 * (clock + seconds) / total
        keys = f"{begin:.2f}% {{opacity: 1}} {min(end, 99.99):.2f}% {{opacity: 0}}"
        rules.append(f"@keyframes k{number} {{ 0% {{opacity: 0}} {keys} }}")
        rules.append(f".f{number} {{ animation: k{number} {total:.1f}s step-end infinite; }}")
        drawings.append(drawn(frame, number, resampling=resampling, last=frame is found[-1] and not resampling))
        clock += seconds
    height = TOP + ROW * len(found[0].lines) + 14
    still = f"@media (prefers-reduced-motion: reduce) {{ .frame {{ animation: none; }} .f{len(shown) - 1} {{ opacity: 1; }} }}"
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDE} {height}" width="{WIDE}" height="{height}" role="img">',
            f"<title>{escape(command)}: particles unmask, are weighed, and are resampled</title>",
            f"<style>{STYLE}{''.join(rules)}{still}</style>",
            f'<rect class="card" x=".5" y=".5" width="{WIDE - 1}" height="{height - 1}" rx="10"/>',
            f'<text class="title" x="24" y="32">$ {escape(command)}</text>',
            *drawings,
            "</svg>",
        ]
    )


def main() -> None:
    """Print the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny-mdlm")
    parser.add_argument("--prompt", default="the movie")
    parser.add_argument("--reward", default="sentiment")
    parser.add_argument("--particles", type=int, default=8)
    parser.add_argument("--length", type=int, default=18)
    parser.add_argument("--every", type=int, default=16, help="steps between weighings")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    settings = fktext.Settings(particles=args.particles, length=args.length, resample_every=args.every, seed=args.seed)
    how = f"-r {args.reward} -n {args.particles} --length {args.length} --resample-every {args.every}"
    how += f" --seed {args.seed}" if args.seed else ""
    command = f'fktext generate "{args.prompt}" {how}'
    print(picture(frames(fktext.load(args.model), args.prompt, args.reward, settings), command))


if __name__ == "__main__":
    main()
