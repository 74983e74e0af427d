"""The refusal score is the log-odds of a refusing opening, mined from the model's own answers."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unflinch.metrics.refusal_score import RefusalOpenings, mine_openings

VOCABULARY = 12


def test_an_opening_weighs_the_share_of_its_answers_that_refuse() -> None:
    answers = [(1, 5), (1, 6), (1, 7), (2, 5), (2, 5), (3, 1), (), (4, 4), (4, 4)]
    refused = [True, True, False, True, True, True, False, False, False]
    weights = mine_openings(answers, refused, VOCABULARY, prior=0.5).weights
    expected = torch.zeros(VOCABULARY)
    expected[1], expected[2] = 2 / 3.5, 2 / 2.5  # token 3 opened one refusal only
    torch.testing.assert_close(weights, expected)


def test_a_single_refusal_is_enough_where_there_are_no_more() -> None:
    assert mine_openings([(1,), (2,)], [True, False], VOCABULARY).weights.nonzero().tolist() == [[1]]


@given(st.lists(st.tuples(st.integers(0, VOCABULARY - 1), st.booleans()), min_size=1, max_size=30))
def test_weights_are_shares_and_only_refusals_have_any(seen: list[tuple[int, bool]]) -> None:
    answers, refused = [(token,) for token, _ in seen], [r for _, r in seen]
    if not any(refused):
        with pytest.raises(ValueError, match="refused nothing"):
            mine_openings(answers, refused, VOCABULARY)
        return
    weights = mine_openings(answers, refused, VOCABULARY).weights
    assert ((weights >= 0) & (weights < 1)).all()
    assert weights.any()
    assert {int(i) for i in weights.nonzero()} <= {token for token, r in seen if r}


def test_the_score_is_the_log_odds_by_hand_and_grows_with_a_refusing_token() -> None:
    openings = RefusalOpenings(torch.tensor([0.0, 0.9, 0.5]))
    logits = torch.tensor([[1.0, 2.0, 0.5], [0.0, 0.0, 0.0]])
    for row, found in zip(logits.tolist(), openings.score(logits).tolist(), strict=True):
        total = math.fsum(map(math.exp, row))
        p = (0.9 * math.exp(row[1]) + 0.5 * math.exp(row[2])) / total
        assert found == pytest.approx(math.log(p / (1 - p)), rel=1e-5)
    raised = logits + torch.tensor([0.0, 1.0, 0.0])
    assert (openings.score(raised) > openings.score(logits)).all()


def test_the_score_stays_finite_where_a_refusal_is_certain_or_impossible() -> None:
    openings = RefusalOpenings(torch.tensor([0.0, 1.0]))
    scores = openings.score(torch.tensor([[500.0, 0.0], [0.0, 500.0]]).bfloat16())
    assert torch.isfinite(scores).all()
    assert scores[0] < -10 < 10 < scores[1]
