"""Paired scores, against values worked out by hand and by counting coin tosses."""

from __future__ import annotations

from fractions import Fraction
from math import comb, sqrt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unflinch.metrics.paired import paired_score

PAIRS = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=60)


def score_of(pairs: list[tuple[bool, bool]]):
    return paired_score("mmlu", "acc", [base for base, _ in pairs], [patched for _, patched in pairs])


def test_a_small_table_gives_the_figures_worked_out_by_hand() -> None:
    # 10 items: 4 right on both sides, 3 lost, 1 gained, 2 wrong on both sides.
    found = score_of([(True, True)] * 4 + [(True, False)] * 3 + [(False, True)] + [(False, False)] * 2)
    assert (found.n, found.lost, found.gained) == (10, 3, 1)
    assert found.base == pytest.approx(0.7)
    assert found.patched == pytest.approx(0.5)
    assert found.difference == pytest.approx(-0.2)
    assert found.base_error == pytest.approx(sqrt(0.7 * 0.3 / 9))
    # Differences: 3 times -1, once +1, mean -0.2: squares about it 3 * 0.64 + 1.44 + 6 * 0.04 = 3.6.
    assert found.difference_error == pytest.approx(sqrt(3.6 / 9 / 10))
    # Two-sided: 2 * P(at most 1 of 4 fair tosses) = 2 * 5 / 16.
    assert found.p_value == pytest.approx(0.625)


@given(PAIRS)
def test_the_test_counts_fair_tosses(pairs: list[tuple[bool, bool]]) -> None:
    found = score_of(pairs)
    tosses, fewer = found.lost + found.gained, min(found.lost, found.gained)
    tail = sum(Fraction(comb(tosses, k), 2**tosses) for k in range(fewer + 1))
    assert found.p_value == pytest.approx(float(min(Fraction(1), 2 * tail)))


@given(PAIRS)
def test_sides_can_be_exchanged(pairs: list[tuple[bool, bool]]) -> None:
    there, back = score_of(pairs), score_of([(patched, base) for base, patched in pairs])
    assert there.difference == pytest.approx(-back.difference)
    assert there.difference_error == pytest.approx(back.difference_error)
    assert (there.lost, there.gained, there.base_error) == (back.gained, back.lost, back.patched_error)
    assert there.p_value == pytest.approx(back.p_value)


@given(st.lists(st.booleans(), min_size=2))
def test_a_model_differs_from_itself_by_nothing(right: list[bool]) -> None:
    found = paired_score("gsm8k", "exact_match", right, right)
    assert (found.difference, found.difference_error, found.p_value) == (0.0, 0.0, 1.0)
    assert found.within_one_error


def test_within_one_error_is_measured_by_the_error_of_the_base() -> None:
    base = [True, False] * 50
    assert score_of(list(zip(base, [False] * 4 + base[4:], strict=True))).within_one_error
    assert not score_of(list(zip(base, [False] * 20 + base[20:], strict=True))).within_one_error


@pytest.mark.parametrize(("base", "patched"), [([], []), ([True], [True, False])])
def test_unpaired_items_are_refused(base: list[bool], patched: list[bool]) -> None:
    with pytest.raises(ValueError, match="same items"):
        paired_score("mmlu", "acc", base, patched)
