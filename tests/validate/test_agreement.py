"""How far judges agree: Cohen's kappa against its formula worked out by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unflinch.results import LABELS, Label
from unflinch.validate.agreement import agreements

Labels = list[Label]


def kappa(ours: Labels, theirs: Labels) -> float | None:
    n = len(ours)
    same = sum(one == other for one, other in zip(ours, theirs, strict=True)) / n
    chance = sum(ours.count(label) * theirs.count(label) for label in LABELS) / n**2
    return None if chance == 1 else (same - chance) / (1 - chance)


@given(st.lists(st.tuples(st.sampled_from(LABELS), st.sampled_from(LABELS)), min_size=1, max_size=30))
def test_kappa_is_what_its_formula_says(pairs: list[tuple[Label, Label]]) -> None:
    ours, theirs = [one for one, _ in pairs], [other for _, other in pairs]
    (found,) = agreements({"a": ours, "b": theirs})
    expected = kappa(ours, theirs)
    assert found.kappa == (None if expected is None else pytest.approx(expected, abs=1e-9))
    assert (found.n, found.same) == (len(pairs), sum(one == other for one, other in pairs))


def test_refusals_of_different_kinds_agree_that_it_is_one() -> None:
    (found,) = agreements({"a": ["refuses", "evades", "answers"], "b": ["partly", "refuses", "degenerate"]})
    assert found.same == 0
    assert found.kappa_refusal == pytest.approx(1.0)


def test_every_two_judges_are_compared() -> None:
    labels: Labels = ["answers", "refuses"]
    pairs = agreements({"a": labels, "b": labels, "c": labels})
    assert [(pair.first, pair.second) for pair in pairs] == [("a", "b"), ("a", "c"), ("b", "c")]
    assert agreements({"a": labels}) == ()
    assert agreements({"a": [], "b": []})[0].kappa is None
