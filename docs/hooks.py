"""Build the site from the repository's pages: those outside docs/ are shown too, under their own paths, and notebooks as pages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mkdocs.structure.files import File

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

BESIDE = (
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "benchmarks/RESULTS.md",
    "plugins/examples/fktext-readability/README.md",
    "recipes/README.md",
    "weights/LICENSE.md",
    "weights/README.md",
)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that lie beside docs/, and one for each notebook, which stays there to be downloaded."""
    root = Path(config.config_file_path).parent
    for path in BESIDE:
        files.append(File.generated(config, path, abs_src_path=str(root / path)))
    for file in [file for file in files if file.src_uri.endswith(".ipynb")]:
        page = notebook_page(file.content_string) + f"\n\n[Download this notebook]({file.name}.ipynb)\n"
        files.append(File.generated(config, file.src_uri.removesuffix("ipynb") + "md", content=page))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Turn links between docs/ and the repository around it into links between pages of the site; README is the first page."""
    if page.file.src_uri in BESIDE:
        return markdown.replace("](../README.md", "](../index.md").replace("](docs/", "](")
    return markdown.replace("](../", "](") if "/" not in page.file.src_uri else markdown


def notebook_page(notebook: str) -> str:
    """Return the Markdown of a notebook: its text, its code, and what the code put out when it was last run."""
    parts = []
    for cell in json.loads(notebook)["cells"]:
        source = "".join(cell["source"])
        parts += [f"```python\n{source}\n```", *map(_shown, cell["outputs"])] if cell["cell_type"] == "code" else [source]
    return "\n\n".join(parts)


def _shown(output: dict[str, Any]) -> str:
    """Return the Markdown of what a cell put out: text, a picture or a table."""
    data = output.get("data", {"text/plain": output.get("text", "")})
    if "image/png" in data:
        return f"![](data:image/png;base64,{''.join(data['image/png']).strip()})"
    if "text/html" in data:
        return "".join(data["text/html"])
    return f"```text\n{''.join(data['text/plain']).rstrip()}\n```"
