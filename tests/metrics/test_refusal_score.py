"""The refusal score: mined weights, sharpened log-odds, gradients."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unflinch.metrics.refusal_score import RefusalOpenings, mine_openings, path_score


def test_weights_are_the_share_of_answers_with_an_opening_that_are_refusals() -> None:
    answers = [(3, 9)] * 4 + [(5, 1)] * 3 + [(3, 2)] + [(7,)] + [()]
    refused = [True] * 4 + [True, True, False] + [False] + [True] + [True]
    weights = mine_openings(answers, refused, 10).weights
    assert weights[3].item() == pytest.approx(4 / 5.5)
    assert weights[5].item() == pytest.approx(2 / 3.5)
    assert weights[7].item() == 0  # seen once only
    assert int((weights > 0).sum()) == 2


def test_a_single_refusal_counts_where_there_is_no_other() -> None:
    assert mine_openings([(3,), (4,)], [True, False], 6).weights[3].item() == pytest.approx(1 / 1.5)


def test_a_model_that_refuses_nothing_has_no_openings() -> None:
    with pytest.raises(ValueError, match="refused nothing"):
        mine_openings([(1,), ()], [False, True], 4)


@given(seed=st.integers(0, 10_000), scale=st.sampled_from([0.1, 1.0, 4.0]))
def test_the_score_equals_the_sharpened_log_odds_of_the_openings_in_float64(seed: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(3, 20, generator=generator) * scale
    weights = torch.rand(20, generator=generator)
    found = RefusalOpenings(weights).score(logits)
    for row, score in zip(logits.tolist(), found.tolist(), strict=True):
        opening = math.fsum(math.exp(3 * x) for w, x in zip(weights.tolist(), row, strict=True) if w >= 0.5)
        other = math.fsum(math.exp(3 * x) for w, x in zip(weights.tolist(), row, strict=True) if w < 0.5)
        assert score == pytest.approx(math.log(opening / other) / 3, rel=1e-4, abs=1e-4)


@given(seed=st.integers(0, 10_000))
def test_the_sign_of_a_clear_score_is_the_greedy_choice(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(8, 12, generator=generator) * 3
    weights = torch.tensor([1.0, 0.7] + [0.0] * 10)
    score = RefusalOpenings(weights).score(logits)
    clear = score.abs() > math.log(12) / 3
    assert torch.equal((score > 0)[clear], (logits.argmax(-1) < 2)[clear])


def test_the_likeliest_opening_counts_where_none_mostly_refuses() -> None:
    assert RefusalOpenings(torch.tensor([0.0, 0.3, 0.1])).tokens.tolist() == [False, True, False]


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("height", [1.0, 30.0, 1e4])
def test_score_and_gradient_are_finite_however_sure_the_model_is(place: int, height: float) -> None:
    logits = torch.zeros(1, 6)
    logits[0, place] = height
    logits.requires_grad_(True)
    weights = torch.zeros(6)
    weights[0] = 1.0
    score = RefusalOpenings(weights).score(logits)
    score.sum().backward()
    assert logits.grad is not None
    assert score.isfinite().all() and logits.grad.isfinite().all()
    assert (score > 0).item() == (place == 0)


@given(seed=st.integers(0, 10_000), length=st.integers(1, 6))
def test_a_paths_score_is_the_smooth_minimum_of_its_tokens_log_odds_in_float64(seed: int, length: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(length, 12, generator=generator) * 2
    path = torch.randint(12, (length,), generator=generator).tolist()
    steps = []
    for row, own in zip(logits.tolist(), path, strict=True):
        others = math.fsum(math.exp(3 * x) for token, x in enumerate(row) if token != own)
        steps.append(row[own] - math.log(others) / 3)
    expected = -math.log(math.fsum(math.exp(-3 * step) for step in steps)) / 3
    assert path_score(logits, path).item() == pytest.approx(expected, rel=1e-4, abs=1e-4)
    assert expected <= min(steps) + 1e-9


def test_a_path_that_scores_above_zero_is_what_greedy_decoding_writes() -> None:
    logits = torch.randn(4000, 3, 8, generator=torch.Generator().manual_seed(0)) * 3
    scores = torch.stack([path_score(row, (1, 5, 2)) for row in logits])
    greedy = (logits.argmax(-1) == torch.tensor([1, 5, 2])).all(-1)
    assert int((scores > 0).sum()) > 3 and greedy[scores > 0].all()


def test_each_prompt_is_scored_where_its_refusal_is_decided() -> None:
    openings = RefusalOpenings(torch.tensor([1.0, 0.0, 0.0, 0.9, 0.0]))
    logits = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(1))
    found = openings.decision_scores(logits, [(), (2, 1), ()])
    expected = [openings.score(logits[:1, -1])[0], path_score(logits[1, 2:], (2, 1)), openings.score(logits[2:, -1])[0]]
    torch.testing.assert_close(found, torch.stack(expected))
