"""Build the site from the repository's pages: those outside docs/ are shown too, under their own paths."""

from __future__ import annotations

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
    """Add the pages that lie beside docs/."""
    root = Path(config.config_file_path).parent
    for path in BESIDE:
        files.append(File.generated(config, path, abs_src_path=str(root / path)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Turn links between docs/ and the repository around it into links between pages of the site; README is the first page."""
    if page.file.src_uri in BESIDE:
        return markdown.replace("](../README.md", "](../index.md").replace("](docs/", "](")
    return markdown.replace("](../", "](") if "/" not in page.file.src_uri else markdown
