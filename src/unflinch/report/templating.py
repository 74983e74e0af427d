"""How pages are made of templates: the filters that they use, and figures in the two widths that they show."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined

from unflinch.report import wording

WIDE, NARROW = 976, 376
"""Widths in pixels at which every figure is drawn: for a desk and for a phone."""


@dataclass(frozen=True)
class Figure:
    """One figure in both widths, as SVG whose texts are escaped already; the page shows the one that fits."""

    wide: str
    narrow: str


def both_widths(draw: Callable[[int], str]) -> Figure:
    """Return a figure drawn for wide and for narrow screens."""
    return Figure(draw(WIDE), draw(NARROW))


def environment() -> Environment:
    """Return what renders the templates of this folder; everything that they show is escaped."""
    made = Environment(
        loader=PackageLoader("unflinch.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(
        percent=wording.percent,
        small_percent=wording.small_percent,
        percent_range=wording.percent_range,
        nats=wording.nats,
        p_value=wording.p_value,
        duration=wording.duration,
        magnitude=wording.magnitude,
        words=wording.words,
        title_words=wording.title,
        language=wording.language,
    )
    return made
