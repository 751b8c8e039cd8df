"""The page's moving part: it plays the particles of a population in a browser, from the events of `fktext.trace` alone.

`player.js` defines `fktextPlayer(figure)`, which takes events one by one; `player.css` is its style. Both load and send nothing.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from html import escape
from importlib import resources

from fktext.trace import Event, Start, plain

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>body {{ margin: 0; }} .player {{ margin: 0; }}
{style}</style>
</head>
<body>
<main>
{figures}
</main>
<script>{script}</script>
</body>
</html>
"""


@cache
def asset(name: str) -> str:
    """Return the text of `player.js` or `player.css`."""
    return (resources.files("fktext.player") / name).read_text(encoding="utf-8")


def digest(script: str) -> str:
    """Return what a content security policy calls a script that may run."""
    return f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}"


def figure(events: Iterable[Event]) -> str:
    """Return a figure that plays a population, for a page that has script and style."""
    kept = list(events)
    title = next((event.template or event.prompt or "no prompt" for event in kept if isinstance(event, Start)), "")
    data = json.dumps([plain(event) for event in kept], allow_nan=False, separators=(",", ":"))
    for sign in "<>&":  # no text may end the script that holds it
        data = data.replace(sign, f"\\u{ord(sign):04x}")
    label = escape(f"Particles of “{title}”, played weighing by weighing")
    return f'<figure class="player" hidden aria-label="{label}"><script type="application/json">{data}</script></figure>'


def page(events: Iterable[Event], title: str = "particles") -> str:
    """Return a page that plays one population and needs nothing else."""
    script = asset("player.js")
    return _PAGE.format(
        title=escape(title),
        policy=f"default-src 'none'; style-src 'unsafe-inline'; script-src '{digest(script)}'; img-src data:",
        style=asset("player.css"),
        figures=figure(events),
        script=script,
    )


@dataclass(frozen=True)
class Frame:
    """A page in a frame of a notebook, where its script runs and reaches nothing outside.

    Attributes:
        html: the page.
        height: of the frame, in pixels.
    """

    html: str
    height: int

    def _repr_html_(self) -> str:
        return (
            f'<iframe srcdoc="{escape(self.html)}" sandbox="allow-scripts" title="particles" '
            f'style="width: 100%; height: {self.height}px; border: 0"></iframe>'
        )
