"""KL by group and by position equals plain loops over the values."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from unflinch.data.prompts import Message, Prompt, bundled
from unflinch.validate.kl_distribution import SequenceKL
from unflinch.validate.kl_groups import kind_of, kl_groups, kl_positions

LENGTHS = (4, 2, 1, 3, 4, 2)
TURNS = (Message("user", "a"), Message("assistant", "b"), Message("user", "c"))
PROMPTS = (
    Prompt("a", "code", "en"),
    Prompt("b", "code", "de", system="Be brief."),
    Prompt("c", "dialogue", "en", messages=TURNS),
    Prompt("d", "instruction", "en"),
    Prompt("e", "sensitive_answered", "ru"),
    Prompt("f", "other_language", "de"),
)


def sequence_kl() -> SequenceKL:
    generator = torch.Generator().manual_seed(0)
    positions, flips = torch.full((6, 4), torch.nan), torch.zeros(6, 4, dtype=torch.bool)
    for row, length in enumerate(LENGTHS):
        positions[row, 4 - length :] = torch.rand(length, generator=generator)
        flips[row, 4 - length :] = torch.rand(length, generator=generator) > 0.5
    return SequenceKL(positions, flips)


def test_the_kind_of_a_prompt_is_its_form_first_and_its_subject_second() -> None:
    assert [kind_of(prompt) for prompt in PROMPTS] == [
        "code",
        "system_prompt",
        "multi_turn",
        "everyday",
        "sensitive_answered",
        "everyday",
    ]
    under = [replace(prompt, system=prompt.system or "Be kind.") for prompt in PROMPTS]
    assert [kind_of(prompt, "Be kind.") for prompt in under] == [kind_of(prompt) for prompt in PROMPTS]
    assert {kind_of(prompt) for prompt in bundled("ordinary")} == {
        "code",
        "everyday",
        "maths",
        "multi_turn",
        "sensitive_answered",
        "system_prompt",
    }


@pytest.mark.parametrize("key", ["by_kind", "by_category", "by_language"])
def test_groups_equal_loops_over_their_members(key: str) -> None:
    found = sequence_kl()
    name = {"by_kind": kind_of, "by_category": lambda p: p.category, "by_language": lambda p: p.language}[key]
    groups = kl_groups(PROMPTS, found)[key]
    sizes = [group.sequence.n for group in groups]
    assert sum(sizes) == len(PROMPTS) and sizes == sorted(sizes, reverse=True)
    for group in groups:
        rows = [row for row, prompt in enumerate(PROMPTS) if name(prompt) == group.group]
        own = [found.positions[row, 4 - LENGTHS[row] :].tolist() for row in rows]
        assert group.sequence.mean == pytest.approx(np.mean([np.mean(row) for row in own]))
        assert group.first_token.mean == pytest.approx(np.mean([row[0] for row in own]))
        assert group.first_token.max == pytest.approx(max(row[0] for row in own))
        assert group.top1_flip_rate.n == sum(LENGTHS[row] for row in rows)
        assert group.top1_flip_rate.count == sum(int(found.flips[row].sum()) for row in rows)


def test_positions_are_counted_from_the_beginning_of_every_answer() -> None:
    found = sequence_kl()
    positions = kl_positions(found)
    assert [(p.position, p.kl.n) for p in positions] == [(1, 6), (2, 5), (3, 3), (4, 2)]
    for position in positions:
        at = position.position - 1
        having = [row for row, length in enumerate(LENGTHS) if length > at]
        values = [float(found.positions[row, 4 - LENGTHS[row] + at]) for row in having]
        assert position.kl.mean == pytest.approx(np.mean(values))
        assert position.top1_flip_rate.count == sum(int(found.flips[row, 4 - LENGTHS[row] + at]) for row in having)
    assert positions[0].kl.mean == pytest.approx(np.mean(found.first_token))
    assert sum(p.top1_flip_rate.count for p in positions) == found.flipped
    assert sum(p.kl.n for p in positions) == found.scored == sum(LENGTHS)
