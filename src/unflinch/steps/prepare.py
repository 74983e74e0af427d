"""Prompts of a run: loaded, checked, split, and limited without losing breadth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import ceil
from typing import TypeVar

from unflinch.data.prompts import Prompt, bundled, guard_prompts, load_prompts
from unflinch.data.rewording import reworded
from unflinch.data.splits import (
    KINDS,
    LIMITED_KINDS,
    PromptSets,
    Splits,
    check_ordinary,
    check_targets,
    sample_prompts,
    split_prompts,
    without_guard,
)
from unflinch.errors import PromptSetError
from unflinch.models.thinking import Modes, in_modes
from unflinch.options import PromptOptions

Sets = TypeVar("Sets", bound=PromptSets)

_GUARD_SHARES = (0.35, 0.2, 0.45)
"""Of fit, select and test: half of the guard bounds the fit as well as all of it, and a lost one must be seen."""
_TYPICAL = 3
"""One in so many ordinary fit prompts is chosen whatever models do with it, and comes first: what a change costs is
taken from these. The rest are what models nearly refuse, as only that bounds the fit."""


def load_splits(options: PromptOptions) -> Splits:
    """Return fit, select and test prompts of a run; the guard is always part of each.

    Raises:
        PromptFileError: if a file cannot be read.
        PromptSetError: if the targets cannot be used, or a split has no prompts of some kind.
    """
    targets: Sequence[Prompt] = load_prompts(options.targets) if options.targets else bundled("targets")
    keep: Sequence[Prompt] = load_prompts(options.keep) if options.keep else bundled("keep")
    ordinary = load_prompts(options.ordinary) if options.ordinary else bundled("ordinary")
    if not options.wide:
        targets, keep = ([p for p in prompts if not p.wide] for prompts in (targets, keep))
    guard = guard_prompts()
    if options.keep:
        keep = without_guard(keep, guard)
    check_targets(targets, guard, keep)
    wanted = {p.key for p in targets} | {p.key for p in keep} | {p.key for p in guard}
    ordinary = tuple(p for p in ordinary if p.key not in wanted)
    check_ordinary(ordinary, guard)
    shares = (options.fit_share, options.select_share, 1 - options.fit_share - options.select_share)
    splits = split_prompts(targets, keep, guard, ordinary, shares, _GUARD_SHARES)
    limited = Splits(
        _in_other_words(_limited(splits.fit, options, "fit", for_fit=True), options),
        _limited(splits.select, options, "select"),
        _limited(splits.test, options, "test"),
    )
    _check_not_empty(limited, len(targets))
    return limited


def _limited(sets: Sets, options: PromptOptions, part: str, for_fit: bool = False) -> Sets:
    """Return as many prompts as the options allow, those first that models often refuse.

    For the fit, targets with an often refused harmful twin come before the others, and these twins before other keeps,
    in the order of their targets: pairs teach more than as many single prompts (see LOG). What is measured takes no
    notice of twins.
    """
    most = {kind: getattr(options, f"max_{kind}_{part}") for kind in LIMITED_KINDS}
    paired = {p.contrast_of for p in sets.keep if for_fit and p.often_refused}
    targets = sample_prompts(
        sets.targets,
        most["targets"],
        options.seed,
        lambda p: 2 * (not p.often_refused) + (for_fit and p.text not in paired),
    )
    chosen = {p.text: place for place, p in enumerate(targets) if for_fit}
    keep = sample_prompts(
        sets.keep,
        most["keep"],
        options.seed,
        lambda p: 2 * (not p.often_refused) + (for_fit and p.contrast_of not in chosen),
    )
    keep = tuple(sorted(keep, key=lambda p: chosen.get(p.contrast_of or "", len(chosen))))
    sample = _for_fit if for_fit else sample_prompts
    ordinary = sample(sets.ordinary, most["ordinary"], options.seed)
    guard = sample_prompts(sets.guard, len(sets.guard), options.seed)  # all, so ordered that the first ones are of all
    return replace(sets, targets=targets, keep=keep, guard=guard, ordinary=ordinary)


def _in_other_words(sets: Sets, options: PromptOptions) -> Sets:
    """Return the sets with some prompts of every kind, the guard too, reworded: the fit alone does that."""
    share, seed = options.reworded_share, options.seed
    return replace(sets, **{kind: reworded(getattr(sets, kind), share, seed) for kind in KINDS})


def _for_fit(ordinary: Sequence[Prompt], n: int, seed: int) -> tuple[Prompt, ...]:
    """Return at most `n` ordinary prompts, typical ones and then those that models nearly refuse.

    Half of these are in other languages than English, where there are so many, and come first: most of the prompts that
    a patch newly refuses are among them (LOG).
    """
    typical = sample_prompts(ordinary, ceil(n / _TYPICAL), seed)
    others = _without(ordinary, typical)
    spoken = [p for p in others if p.often_refused and p.language != "en"]
    foreign = sample_prompts(spoken, (n - len(typical)) // 2, seed)
    rest = n - len(typical) - len(foreign)
    return typical + foreign + sample_prompts(_without(others, foreign), rest, seed, lambda p: not p.often_refused)


def _without(prompts: Sequence[Prompt], taken: Sequence[Prompt]) -> list[Prompt]:
    gone = set(taken)
    return [p for p in prompts if p not in gone]


def _check_not_empty(splits: Splits, targets: int) -> None:
    for part in ("fit", "select", "test"):
        sets: PromptSets = getattr(splits, part)
        for kind in LIMITED_KINDS:
            if not getattr(sets, kind):
                raise PromptSetError(
                    f"no {kind} fall into the '{part}' split ({targets} targets given); "
                    f"expected at least one of each kind in every split: give more {kind} prompts"
                )


def splits_in_modes(splits: Splits, modes: Modes, system_prompt: str | None) -> Splits:
    """Return every prompt as it is asked: once a mode of thinking, under the run's system prompt."""

    def asked(sets: Sets) -> Sets:
        return replace(sets, **{kind: in_modes(getattr(sets, kind), modes, system_prompt) for kind in KINDS})

    return Splits(asked(splits.fit), asked(splits.select), asked(splits.test))
