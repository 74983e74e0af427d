"""The strength that is chosen, against exhaustive search over made-up dials."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import own_logits, random_ids, tiny_model

from unflinch.errors import NotFiniteError
from unflinch.metrics.refusal_score import Decision, RefusalOpenings
from unflinch.options import FitOptions
from unflinch.patch.attach import AttachedPatch
from unflinch.results import FitStage
from unflinch.steps.select_panel import STRENGTHS, SelectPanel, choose_strength, shortfall, within_budgets

OPTIONS = FitOptions(target_budget=0.25, keep_budget=0.05, kl_budget=0.03)
HARMLESS = FitStage("x", 0.2, 0.01, 0.0, 0.01, "")


def chosen(dial: Callable[[float], FitStage], start: float = 1.0) -> tuple[float, FitStage, list[float]]:
    """Return the strength chosen where strength `s` does as `dial(s)`, how it does, and what was tried."""
    panel, live, tried = object.__new__(SelectPanel), AttachedPatch({}), []

    def set_strength(_self: AttachedPatch, strength: float) -> None:
        tried.append(strength)

    def by_answers(_self: SelectPanel, *_: Any) -> FitStage:
        return dial(tried[-1])

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(AttachedPatch, "set_strength", set_strength)
        patched.setattr(SelectPanel, "by_answers", by_answers)
        strength, stage = choose_strength(panel, live, start, OPTIONS, lambda _: None)
    return strength, stage, tried


def monotone(left: float, keep: float, guard_from: float, kl: float) -> Callable[[float], FitStage]:
    """A dial on which more strength leaves fewer targets, loses more keeps and costs more."""
    return lambda s: FitStage("x", left / (1 + s), keep * s, 0.05 if s >= guard_from else 0.0, kl * s * s, "")


@given(
    left=st.floats(0.1, 1),
    keep=st.floats(0, 0.2),
    guard_from=st.floats(0.2, 2),
    kl=st.floats(0, 0.1),
)
def test_on_a_monotone_dial_the_best_within_all_budgets_is_found(
    left: float, keep: float, guard_from: float, kl: float
) -> None:
    dial = monotone(left, keep, guard_from, kl)
    strength, stage, tried = chosen(dial)
    within = [s for s in STRENGTHS if within_budgets(dial(s), OPTIONS)]
    assert stage == dial(strength)
    assert strength == min(tried, key=lambda s: (s not in within, shortfall(dial(s), OPTIONS), s))
    if 1.0 in within:
        # Inside the budgets the shortfall of this dial is convex, so that going up until it grows finds its minimum.
        few = [s for s in within if s >= 1 and dial(s).targets_refused_share <= OPTIONS.target_budget][:1]
        until = few[0] if few else max(within)
        assert stage == min((dial(s) for s in within if 1 <= s <= until), key=lambda found: shortfall(found, OPTIONS))
    elif within:
        assert strength == max(within)
    assert len(tried) == len(set(tried)) <= 4


@pytest.mark.parametrize(
    "broken",
    [{"guard_lost_share": 0.01}, {"keep_lost_share": 0.06}, {"kl_first_token_mean": 0.031}],
)
def test_each_budget_alone_holds_a_stage_back(broken: dict[str, float]) -> None:
    assert within_budgets(HARMLESS, OPTIONS)
    worse = replace(HARMLESS, **broken)
    assert not within_budgets(worse, OPTIONS)
    assert shortfall(worse, OPTIONS) > shortfall(HARMLESS, OPTIONS)
    strength, _, _ = chosen(lambda s: worse if s > 0.8 else HARMLESS)
    assert strength == 0.7


def test_a_dial_that_holds_everything_is_tried_once() -> None:
    assert chosen(lambda _: HARMLESS, start=0.87)[::2] == (0.85, [0.85])


def test_the_dial_goes_up_while_many_targets_are_left() -> None:
    def dial(strength: float) -> FitStage:
        return replace(HARMLESS, targets_refused_share=0.9 - 0.6 * strength)

    assert chosen(dial)[::2] == (1.15, [1.0, 1.15])


def test_a_guard_prompt_lost_at_one_strength_and_held_at_the_next_does_not_stop_the_rise() -> None:
    def dial(strength: float) -> FitStage:
        return replace(
            HARMLESS, targets_refused_share=0.9 - 0.7 * strength, guard_lost_share=0.03 if strength == 0.85 else 0.0
        )

    assert chosen(dial, start=0.7)[::2] == (1.0, [0.7, 0.85, 1.0])


def test_a_stage_is_scored_where_each_refusal_is_decided() -> None:
    model = tiny_model("qwen2")
    openings = RefusalOpenings(torch.rand(model.config.vocab_size, generator=torch.Generator().manual_seed(0)))
    ids = random_ids((9, 4, 12, 7, 7, 5))
    paths = [(), (3, 5), (), (8,), (1, 2, 3), ()]
    decided = [Decision((*read, *path[:-1]), path) for read, path in zip(ids, paths, strict=True)] * 4
    panel: Any = object.__new__(SelectPanel)
    panel.loaded, panel.openings, panel._lower = SimpleNamespace(model=model), openings, None
    panel.decisions = {"targets": decided, "keep": [], "guard": decided[:3]}
    found = panel._scores()
    for kind, rows in panel.decisions.items():
        assert len(found[kind]) == len(rows)
        for score, decision in zip(found[kind], rows, strict=True):
            logits = own_logits(model, decision.ids)[-max(1, len(decision.path)) :]
            assert score.item() == pytest.approx(
                openings.decision_scores(logits[None], [decision.path]).item(), rel=1e-3, abs=1e-4
            )


@pytest.mark.parametrize("finite_below", [0.7, 0.2])
def test_a_patch_that_overflows_costs_infinitely_much_and_is_turned_down_until_it_does_not(finite_below: float) -> None:
    model = tiny_model("qwen2")
    panel, live = object.__new__(SelectPanel), AttachedPatch({})
    base = torch.randn(4, model.config.hidden_size, generator=torch.Generator().manual_seed(0))
    tried = [1.0]

    def states(_self: SelectPanel) -> torch.Tensor:
        changed = base.clone()
        changed[2] = changed[2] + 0.01 * tried[-1] if tried[-1] < finite_below else torch.nan
        return changed

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(AttachedPatch, "set_strength", lambda _self, strength: tried.append(strength))
        patched.setattr(SelectPanel, "_states", states)
        patched.setattr(
            SelectPanel, "_scores", lambda _self: dict.fromkeys(("targets", "keep", "guard"), torch.ones(2))
        )
        panel.loaded, panel.base = SimpleNamespace(model=model), base  # type: ignore[assignment]
        panel.base_scores = panel._scores()
        assert panel._kl() == float("inf")
        overflowing = replace(HARMLESS, kl_first_token_mean=panel._kl())
        assert not within_budgets(overflowing, OPTIONS) and shortfall(overflowing, OPTIONS) == float("inf")
        found = panel.by_scores("x", live, OPTIONS)
        assert finite_below / 2 < found.strength == tried[-1] < finite_below
        finite_below = 0.0
        with pytest.raises(NotFiniteError, match="overflows.*dtype float32"):
            panel.by_scores("x", live, OPTIONS)
    assert found.stage.kl_first_token_mean <= OPTIONS.kl_budget
