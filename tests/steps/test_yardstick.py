"""The yardstick is turned down to the share of targets that is asked for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unflinch.steps.yardstick import equal_strength


@given(st.floats(0.05, 1.0), st.floats(0.5, 4.0))
def test_strength_is_where_a_falling_curve_reaches_the_share(share: float, power: float) -> None:
    def left(strength: float) -> float:
        return (1 - strength) ** power

    exact = 1 - share ** (1 / power)
    assert exact - 1e-9 <= equal_strength(left, share) <= exact + 1 / 32 + 1e-9


def test_strength_is_whole_where_even_that_leaves_more() -> None:
    assert equal_strength(lambda strength: 1 - 0.5 * strength, 0.25) == 1


def test_strength_is_the_least_where_nothing_needs_to_go() -> None:
    assert equal_strength(lambda strength: 1 - strength, 1.0) == pytest.approx(1 / 32)
