"""Where the KL along ordinary answers sits: by kind of prompt, category, language, and position in the answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from unflinch.data.prompts import Prompt
from unflinch.metrics.intervals import rate
from unflinch.metrics.kl import kl_distribution
from unflinch.results import KLGroup, KLPosition
from unflinch.validate.kl_distribution import SequenceKL

_OWN_KIND = ("sensitive_answered", "code", "maths")
"""Categories that are a kind of their own."""


def kind_of(prompt: Prompt, system_prompt: str | None = None) -> str:
    """Return what makes a prompt's answer easy or hard to keep.

    Several turns (`multi_turn`), else a system prompt (`system_prompt`), else a sensitive subject, code or maths by
    category, else `everyday`. Form comes before subject: what stands before the question is what moves the model.

    Args:
        prompt: as it was asked.
        system_prompt: of the run, if it has one: what all prompts are asked under is nothing of their own.
    """
    if prompt.messages is not None and len(prompt.messages) > 1:
        return "multi_turn"
    if prompt.system not in (None, system_prompt):
        return "system_prompt"
    return prompt.category if prompt.category in _OWN_KIND else "everyday"


def kl_groups(
    prompts: Sequence[Prompt], found: SequenceKL, system_prompt: str | None = None
) -> dict[str, tuple[KLGroup, ...]]:
    """Return KL by kind, category and language, each largest group first.

    Args:
        prompts: one for each row of `found`.
        found: KL along their answers.
        system_prompt: of the run.
    """
    grouped_by: dict[str, Callable[[Prompt], str]] = {
        "by_kind": lambda prompt: kind_of(prompt, system_prompt),
        "by_category": lambda prompt: prompt.category,
        "by_language": lambda prompt: prompt.language,
    }
    first, sequence = found.first_token, found.sequence_mean
    groups = {}
    for key, group_of in grouped_by.items():
        rows: dict[str, list[int]] = {}
        for row, prompt in enumerate(prompts):
            rows.setdefault(group_of(prompt), []).append(row)
        groups[key] = tuple(
            KLGroup(
                name,
                kl_distribution([first[row] for row in members]),
                kl_distribution([sequence[row] for row in members]),
                rate(int(found.flips[members].sum()), int((~found.positions[members].isnan()).sum())),
            )
            for name, members in sorted(rows.items(), key=lambda item: (-len(item[1]), item[0]))
        )
    return groups


def kl_positions(found: SequenceKL) -> tuple[KLPosition, ...]:
    """Return KL token by token of the answers, from the first to the last of the longest answer."""
    own = (~found.positions.isnan()).sum(1)
    width = found.positions.shape[1]
    positions = []
    for position in range(int(own.max())):
        rows = (own > position).nonzero()[:, 0]
        columns = width - own[rows] + position
        values = found.positions[rows, columns].tolist()
        flipped = int(found.flips[rows, columns].sum())
        positions.append(KLPosition(position + 1, kl_distribution(values), rate(flipped, len(values))))
    return tuple(positions)
