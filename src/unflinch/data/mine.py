"""The data side of mining false refusals: how broad a set of prompts is, and writing it to a file."""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from unflinch.data.prompts import Prompt
from unflinch.errors import RunFolderError

FEWEST_PROMPTS = 30
FEWEST_CATEGORIES = 6
FEWEST_EFFECTIVE_CATEGORIES = 4.0
LARGEST_SHARE = 0.4


@dataclass(frozen=True)
class Spectrum:
    """How the prompts of a set spread over categories and languages, most frequent first."""

    categories: dict[str, int]
    languages: dict[str, int]
    effective_categories: float
    """exp(entropy) of the category shares: the number of equally large categories of the same breadth."""
    dominating_share: float
    """Share of the largest category, in [0, 1]."""


@dataclass(frozen=True)
class MinedPrompts:
    """The refused candidates, and whether they are broad enough."""

    refused: tuple[Prompt, ...]
    asked: int
    warnings: list[str]


def spectrum(prompts: Sequence[Prompt]) -> Spectrum:
    """Return the spread of the prompts; zeros for no prompts.

    Effective categories: exp(-sum_c p_c ln p_c) with p_c the share of category c.
    """
    categories = _counts(prompt.category for prompt in prompts)
    shares = [count / len(prompts) for count in categories.values()]
    return Spectrum(
        categories=categories,
        languages=_counts(prompt.language for prompt in prompts),
        effective_categories=math.exp(-sum(share * math.log(share) for share in shares)) if shares else 0.0,
        dominating_share=max(shares, default=0.0),
    )


def spectrum_warnings(spectrum: Spectrum) -> list[str]:
    """Return a sentence for every way in which the set is too small or too narrow; empty for a broad set."""
    n = sum(spectrum.categories.values())
    warnings = []
    if n < FEWEST_PROMPTS:
        warnings.append(f"Only {n} prompts, fewer than {FEWEST_PROMPTS}: rates will be rough; add prompts.")
    if not n:
        return warnings
    if len(spectrum.categories) < FEWEST_CATEGORIES:
        warnings.append(
            f"Only {len(spectrum.categories)} categories, fewer than {FEWEST_CATEGORIES} "
            f"({', '.join(spectrum.categories)}): refusals outside them may stay; add other kinds of prompt."
        )
    if spectrum.effective_categories < FEWEST_EFFECTIVE_CATEGORIES:
        warnings.append(
            f"The spread equals {spectrum.effective_categories:.2f} categories of equal size, fewer than "
            f"{FEWEST_EFFECTIVE_CATEGORIES:.0f}: add prompts to the small categories."
        )
    if spectrum.dominating_share > LARGEST_SHARE:
        largest = next(iter(spectrum.categories))
        warnings.append(
            f"{spectrum.dominating_share:.1%} of the prompts are of the category {largest}, more than "
            f"{LARGEST_SHARE:.0%}: add prompts of others, or use fewer of it."
        )
    return warnings


def write_prompts(path: Path, prompts: Sequence[Prompt]) -> None:
    """Write the prompts as JSON lines that `load_prompts` reads back; the file appears whole or not at all.

    Raises:
        RunFolderError: if the file cannot be written; an existing file is then unchanged.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        try:
            with temporary.open("w", encoding="utf-8", newline="\n") as stream:
                for prompt in prompts:
                    stream.write(json.dumps(_record(prompt), ensure_ascii=False) + "\n")
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise RunFolderError(
            f"{path} cannot be written ({error.strerror or error}); expected a writable folder "
            "with free space: free some, or choose another folder"
        ) from error


def _record(prompt: Prompt) -> dict[str, object]:
    """Return the fields of one line, without those that are absent."""
    record: dict[str, object] = {"text": prompt.text}
    if prompt.messages:
        record = {"messages": [{"role": turn.role, "content": turn.content} for turn in prompt.messages]}
    record |= {"category": prompt.category, "language": prompt.language}
    optional = {
        "system": prompt.system,
        "contrast_of": prompt.contrast_of,
        "often_refused": prompt.often_refused or None,
        "wide": prompt.wide or None,
    }
    return record | {name: value for name, value in optional.items() if value is not None}


def _counts(labels: Iterable[str]) -> dict[str, int]:
    """Return how often each label occurs, most frequent first, equal counts by name."""
    return dict(sorted(Counter(labels).items(), key=lambda item: (-item[1], item[0])))
