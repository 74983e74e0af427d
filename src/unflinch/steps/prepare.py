"""Prompts of a run: loaded, checked, split, and limited without losing breadth."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

from unflinch.data.prompts import Prompt, bundled, guard_prompts, load_prompts
from unflinch.data.splits import PromptSets, Splits, check_targets, sample_prompts, split_prompts
from unflinch.errors import PromptSetError
from unflinch.options import PromptOptions

Sets = TypeVar("Sets", bound=PromptSets)


def load_splits(options: PromptOptions) -> Splits:
    """Return fit, select and test prompts of a run; the guard is always part of each.

    Raises:
        PromptFileError: if a file cannot be read.
        PromptSetError: if the targets cannot be used, or a split has no prompts of some kind.
    """
    targets = load_prompts(options.targets) if options.targets else bundled("targets")
    keep = load_prompts(options.keep) if options.keep else bundled("keep")
    ordinary = load_prompts(options.ordinary) if options.ordinary else bundled("ordinary")
    guard = guard_prompts()
    check_targets(targets, guard, keep)
    wanted = {p.key for p in targets} | {p.key for p in keep} | {p.key for p in guard}
    ordinary = tuple(p for p in ordinary if p.key not in wanted)
    shares = (options.fit_share, options.select_share, 1 - options.fit_share - options.select_share)
    splits = split_prompts(targets, keep, guard, ordinary, shares)
    limited = Splits(
        _limited(splits.fit, options, options.max_targets_fit, options.max_keep_fit, options.max_ordinary_fit),
        _limited(
            splits.select, options, options.max_targets_select, options.max_keep_select, options.max_ordinary_select
        ),
        _limited(splits.test, options, options.max_targets_test, options.max_keep_test, options.max_ordinary_test),
    )
    _check_not_empty(limited, len(targets))
    return limited


def _limited(sets: Sets, options: PromptOptions, targets: int, keep: int, ordinary: int) -> Sets:
    def sample(prompts: tuple[Prompt, ...], n: int) -> tuple[Prompt, ...]:
        return sample_prompts(prompts, n, options.seed)

    return replace(
        sets,
        targets=sample(sets.targets, targets),
        keep=sample(sets.keep, keep),
        ordinary=sample(sets.ordinary, ordinary),
    )


def _check_not_empty(splits: Splits, targets: int) -> None:
    for part in ("fit", "select", "test"):
        sets: PromptSets = getattr(splits, part)
        for kind in ("targets", "keep", "ordinary"):
            if not getattr(sets, kind):
                raise PromptSetError(
                    f"no {kind} fall into the '{part}' split ({targets} targets given); "
                    f"expected at least one of each kind in every split: give more {kind} prompts"
                )
