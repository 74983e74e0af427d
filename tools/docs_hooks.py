"""What MkDocs puts into the pages of the documentation: figures, made from the committed results.

A comment `<!-- dial figure -->` gets a drawing, and an image of `docs/figures` becomes part of the page, so that it
follows the page's light or dark colours. Tables stand in the pages themselves: `update_tables.py`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from docs_figures import FIGURES, NARROW, WIDE
from docs_tables import TABLES
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from readme_tables import RESULTS, ROOT

_PLACES = re.compile(r"<!-- /?([\w. -]+) (table|figure) -->")
_PALETTE = ROOT / "src" / "unflinch" / "report" / "templates" / "palette.css"
_COLOURS = re.compile(r":root \{([^{}]*)\}")
_COMMITTED, _SHOWN = "../benchmarks/results/", "results/"
"""Where a page of the repository finds a committed picture, and where one of the site does."""
_DRAWING = re.compile(r'<img alt="([^"]*)" src="(?:\.\./)*figures/([\w-]+\.svg)" ?/?>')


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the figure of all methods side by side, which lies beside the results that it shows, and figures' colours."""
    name = "side_by_side.svg"
    files.append(File.generated(config, f"{_SHOWN}{name}", abs_src_path=str(RESULTS / name)))
    files.append(File.generated(config, "palette.css", content=figure_colours(_PALETTE.read_text(encoding="utf-8"))))
    return files


def figure_colours(palette: str) -> str:
    """Return the report's palette, light and dark, as colours of the pages' figures."""
    light, dark = _COLOURS.findall(palette)
    colours = light.replace("color-scheme: light dark;", "")
    return f'.figure {{{colours}}}\n[data-md-color-scheme="slate"] .figure {{{dark}}}\n'


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Return the page with its pictures where the site has them.

    Raises:
        PluginError: if the page asks for a table or figure that there is none of.
    """
    for name, kind in _PLACES.findall(markdown):
        if name not in (TABLES if kind == "table" else FIGURES):
            raise PluginError(f"a page asks for the {kind} {name!r}; there are {', '.join([*TABLES, *FIGURES])}")
    return markdown.replace(_COMMITTED, _SHOWN)


def on_page_content(html: str, config: MkDocsConfig, **_: Any) -> str:
    """Return the page with its figures, drawn ones in the widths of a desk and of a telephone."""
    for name, draw in FIGURES.items():
        place = f"<!-- {name} figure -->"
        if place in html:
            wide, narrow = draw(WIDE), draw(NARROW)
            html = html.replace(
                place, f'<div class="figure wide">{wide}</div>\n<div class="figure narrow">{narrow}</div>'
            )
    return _DRAWING.sub(lambda found: _inline(Path(config.docs_dir) / "figures" / found[2], found[1]), html)


def _inline(drawing: Path, description: str) -> str:
    svg = drawing.read_text(encoding="utf-8").replace("<svg ", f'<svg role="img" aria-label="{description}" ', 1)
    return f'<span class="figure scrolled">{svg}</span>'
