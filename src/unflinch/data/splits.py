"""Fit, select and test prompts as three types, split by content; and the checks of a target set."""

from __future__ import annotations

import hashlib
import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Literal

from unflinch.data.near_duplicates import NearDuplicates, normalise_text
from unflinch.data.prompts import UNCATEGORISED, Prompt
from unflinch.errors import ConfigError, PromptSetError
from unflinch.results import PromptSetHash

logger = logging.getLogger(__name__)

Part = Literal["fit", "select", "test"]

SPLIT_SALT = "unflinch-split-3"
"""Part of every split hash. Changing it moves prompts between fit and test: figures stop being comparable."""

NEAR_DUPLICATE = 0.8
"""Token-set Jaccard similarity from which a target counts as a guard prompt in other words."""


KINDS = ("targets", "keep", "guard", "ordinary")
"""Fields of `PromptSets`."""
LIMITED_KINDS = ("targets", "keep", "ordinary")
"""Those of which a run may take fewer; the guard is always whole."""


@dataclass(frozen=True)
class PromptSets:
    """The four kinds of prompt of one split."""

    targets: tuple[Prompt, ...]
    """Harmless prompts that should be answered."""
    keep: tuple[Prompt, ...]
    """Requests whose refusal is right."""
    guard: tuple[Prompt, ...]
    """The always-on part of the keeps."""
    ordinary: tuple[Prompt, ...]
    """Everything else, whose answers must not change."""


@dataclass(frozen=True)
class FitPrompts(PromptSets):
    """What statistics, subspaces and edits are computed from."""


@dataclass(frozen=True)
class SelectPrompts(PromptSets):
    """What layers, ranks and strengths are chosen on."""


@dataclass(frozen=True)
class TestPrompts(PromptSets):
    """What is measured once, after every choice; only `validate` receives it."""

    __test__ = False  # pytest takes a class of this name for a test


@dataclass(frozen=True)
class Splits:
    """The three disjoint splits of a run."""

    fit: FitPrompts
    select: SelectPrompts
    test: TestPrompts


def split_prompts(
    targets: Sequence[Prompt],
    keep: Sequence[Prompt],
    guard: Sequence[Prompt],
    ordinary: Sequence[Prompt],
    shares: tuple[float, float, float] = (0.4, 0.2, 0.4),
    guard_shares: tuple[float, float, float] | None = None,
) -> Splits:
    """Return every prompt in exactly one of fit, select and test.

    The place depends on nothing but the prompt: position = SHA-256(salt, normalised text) as a fraction of
    1, compared with the cumulated shares. Order and other prompts do not matter, and a harmful twin takes the
    hash of the target it contrasts with, so both always land in the same split. Order is kept inside.

    Args:
        targets: harmless prompts to be answered.
        keep: requests whose refusal is right.
        guard: the always-on part of the keeps.
        ordinary: prompts whose answers must not change.
        shares: expected shares of fit, select and test; each >= 0, their sum 1.
        guard_shares: the same for the guard, if it is divided otherwise.

    Raises:
        ConfigError: if the shares are negative or do not sum to 1.
    """
    if len(shares) != 3 or min(shares) < 0 or abs(sum(shares) - 1) > 1e-9:
        raise ConfigError(f"split shares {shares}; expected three that sum to 1, such as (0.4, 0.2, 0.4)")
    divided = ((targets, shares), (keep, shares), (guard, guard_shares or shares), (ordinary, shares))
    parts = [_by_part(prompts, own) for prompts, own in divided]

    def take(part: Part) -> tuple[tuple[Prompt, ...], ...]:
        return tuple(tuple(by_part[part]) for by_part in parts)

    return Splits(FitPrompts(*take("fit")), SelectPrompts(*take("select")), TestPrompts(*take("test")))


def hash_prompts(prompts: Iterable[Prompt]) -> PromptSetHash:
    """Return how many prompts there are, and the SHA-256 of their sorted keys, one a line."""
    keys = sorted(prompt.key for prompt in prompts)
    return PromptSetHash(len(keys), hashlib.sha256("".join(f"{key}\n" for key in keys).encode()).hexdigest())


def check_targets(targets: Sequence[Prompt], guard: Sequence[Prompt], keep: Sequence[Prompt]) -> None:
    """Return if `targets` may be used as prompts to be answered; warn if none has a category.

    Args:
        targets: prompts that somebody wants answered.
        guard: prompts that must stay refused whatever is asked; compared with every user turn, in
            equal or nearly equal words (`NEAR_DUPLICATE`).
        keep: prompts whose refusal is right; compared in equal words.

    Raises:
        PromptSetError: if there are no targets, all have one category, or one is also a guard or keep prompt.
    """
    if not targets:
        raise PromptSetError("there are no targets: give at least 30 prompts that the model refuses wrongly")
    _check_guard(targets, guard, "target")
    kept = {normalise_text(prompt.text) for prompt in keep}
    for target in targets:
        if normalise_text(target.text) in kept:
            raise PromptSetError(
                f"the target {_quoted(target)} is also a keep prompt, and cannot be both answered and "
                "refused: remove it from one of the two sets"
            )
    categories = {target.category for target in targets}
    if categories == {UNCATEGORISED}:
        logger.warning("none of the %d targets has a category: their breadth cannot be checked", len(targets))
    elif len(categories) == 1:
        raise PromptSetError(
            f"all {len(targets)} targets have the one category {categories.pop()!r}; expected several, as a "
            "patch fitted on one topic learns the topic: add targets of other categories, or leave out the "
            "category field"
        )


def check_ordinary(ordinary: Sequence[Prompt], guard: Sequence[Prompt]) -> None:
    """Return if `ordinary` may be used as prompts whose answers are to stay: one that is refused counts as a target.

    Raises:
        PromptSetError: if one is, in equal or nearly equal words, a guard prompt.
    """
    _check_guard(ordinary, guard, "ordinary prompt")


def check_candidates(candidates: Sequence[Prompt], guard: Sequence[Prompt]) -> None:
    """Return if `candidates` may be asked to see which the model refuses; their breadth is looked at afterwards.

    Raises:
        PromptSetError: if there are none, or one is, in equal or nearly equal words, a guard prompt.
    """
    if not candidates:
        raise PromptSetError("there are no candidates: give harmless prompts that the model may refuse")
    _check_guard(candidates, guard, "candidate")


def without_guard(keep: Sequence[Prompt], guard: Sequence[Prompt]) -> tuple[Prompt, ...]:
    """Return the keeps that are no guard prompt, in equal or nearly equal words; warn of the others.

    The guard is part of every run and has splits of its own: the same prompt could be fitted on as a keep and measured
    as a guard.
    """
    near = NearDuplicates(NEAR_DUPLICATE, (prompt.text for prompt in guard))
    others = tuple(prompt for prompt in keep if _said_before(near, prompt) is None)
    if left_out := len(keep) - len(others):
        logger.warning("%d of %d keep prompts are guard prompts, which every run has: left out", left_out, len(keep))
    return others


def sample_prompts(
    prompts: Iterable[Prompt], n: int, seed: int, priority: Callable[[Prompt], int] = lambda _: 0
) -> tuple[Prompt, ...]:
    """Return at most `n` of the prompts, spread over categories and, inside each, over languages.

    Round-robin over categories; inside a category one prompt of each language, then the languages in proportion;
    inside those the order of SHA-256(seed, content). A limit keeps the breadth, a larger `n` only appends, the given
    order is ignored.

    Args:
        prompts: the prompts to choose from.
        n: how many, at least 0.
        seed: another seed gives another sample.
        priority: prompts with the smallest value are all taken, spread like that, before any with the next.

    Raises:
        ConfigError: if `n` is negative.
    """
    if n < 0:
        raise ConfigError(f"a sample of {n} prompts; expected 0 or more")
    classes: defaultdict[int, list[Prompt]] = defaultdict(list)
    for prompt in prompts:
        classes[priority(prompt)].append(prompt)
    return tuple(prompt for place in sorted(classes) for prompt in _spread(classes[place], seed))[:n]


def _spread(prompts: Sequence[Prompt], seed: int) -> list[Prompt]:
    """Return the prompts so that every beginning is spread over categories and languages."""

    def rank(prompt: Prompt) -> tuple[str, str]:
        return _digest(str(seed), prompt.key), prompt.contrast_of or ""

    strata = [
        _in_proportion([sorted(spoken, key=rank) for spoken in _groups(group, attrgetter("language"), seed)])
        for group in _groups(prompts, attrgetter("category"), seed)
    ]
    return _interleave(strata)


def _groups(prompts: Iterable[Prompt], label: Callable[[Prompt], str], seed: int) -> list[list[Prompt]]:
    """Return the prompts by label, the labels in the order of SHA-256(seed, label)."""
    groups: defaultdict[str, list[Prompt]] = defaultdict(list)
    for prompt in prompts:
        groups[label(prompt)].append(prompt)
    return [groups[name] for name in sorted(groups, key=lambda name: _digest(str(seed), name))]


def _interleave(groups: Sequence[Sequence[Prompt]]) -> list[Prompt]:
    """Return the first of every group, then the second of every group that has one, and so on."""
    longest = max(map(len, groups), default=0)
    return [group[turn] for turn in range(longest) for group in groups if turn < len(group)]


def _in_proportion(groups: Sequence[Sequence[Prompt]]) -> list[Prompt]:
    """Return all prompts so that every beginning has the first of every group, and then shares like the whole."""
    places = [(turn / len(group), prompt) for group in groups for turn, prompt in enumerate(group)]
    return [prompt for _, prompt in sorted(places, key=lambda placed: placed[0])]


def _by_part(prompts: Sequence[Prompt], shares: tuple[float, float, float]) -> dict[Part, list[Prompt]]:
    parts: dict[Part, list[Prompt]] = {"fit": [], "select": [], "test": []}
    for prompt in prompts:
        text = prompt.text if prompt.contrast_of is None else prompt.contrast_of
        # 52 bits: exact as a float, so the position stays below 1.
        position = int(_digest(SPLIT_SALT, normalise_text(text))[:13], 16) / 2**52
        late: Part = "select" if position < shares[0] + shares[1] else "test"
        parts["fit" if position < shares[0] else late].append(prompt)
    return parts


def _check_guard(prompts: Sequence[Prompt], guard: Sequence[Prompt], kind: str) -> None:
    """Raise `PromptSetError` if a user turn of a prompt is a guard prompt, or nearly one."""
    known = NearDuplicates(NEAR_DUPLICATE, (prompt.text for prompt in guard))
    for prompt in prompts:
        if (place := _said_before(known, prompt)) is not None:
            raise PromptSetError(
                f"the {kind} {_quoted(prompt)} is, in equal or nearly equal words, a guard prompt "
                f"({guard[place].category}), whose refusal no patch may remove: take it out of the {kind}s"
            )


def _said_before(known: NearDuplicates, prompt: Prompt) -> int | None:
    """Return the place of a known text that a user turn of the prompt is, or nearly is."""
    places = (known.find(turn["content"]) for turn in prompt.conversation() if turn["role"] == "user")
    return next((place for place in places if place is not None), None)


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()


def _quoted(prompt: Prompt) -> str:
    """Return the start of the text, in quotes, on one line."""
    text = " ".join(prompt.text.split())
    return f'"{text}"' if len(text) <= 120 else f'"{text[:117]}..."'
