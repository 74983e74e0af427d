"""A model that was made to babble fails the verdict on its dialogues; the untouched one passes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
from planted_model import DIALOGUES
from tiny_patches import random_patch

from unflinch.data.dialogues import bundled_dialogues
from unflinch.models.load import LoadedModel, load_model
from unflinch.options import ValidateOptions
from unflinch.patch.attach import attached
from unflinch.validate.dialogue_report import report_dialogues
from unflinch.validate.judges import RuleJudge
from unflinch.validation_results import DialogueReport

pytestmark = pytest.mark.xdist_group("planted")
OPTIONS = ValidateOptions()


@pytest.fixture(scope="module")
def loaded(planted: Path) -> LoadedModel:
    return load_model(str(planted), dtype="float32", device="cpu")


def report(loaded: LoadedModel, change: Callable[[], object]) -> DialogueReport:
    """Return what a change does to all dialogues."""
    finished: list[int] = []
    found = report_dialogues(
        loaded.model,
        loaded.tokenizer,
        bundled_dialogues(DIALOGUES),
        RuleJudge(),
        change,  # type: ignore[arg-type]
        12,
        lambda _what, _answers: finished.append,
    )
    assert sum(finished) == 3 * (DIALOGUES + found.n)
    return found


def test_the_untouched_model_passes(loaded: LoadedModel) -> None:
    found = report(loaded, nullcontext)
    assert found.n >= DIALOGUES / 2 and found.n + found.left_out == DIALOGUES
    assert found.babbling.count == 0
    assert found.refusing.count == 0
    assert found.perplexity_ratio.value == pytest.approx(1.0, abs=1e-4)
    assert found.drift.value == pytest.approx(1.0, abs=0.05)
    assert [turn.kl.max for turn in found.turns] == pytest.approx([0.0] * 3, abs=1e-5)
    assert found.before == found.after


def test_a_random_update_that_is_far_too_strong_babbles_and_fails(loaded: LoadedModel) -> None:
    patch = random_patch(loaded.model, ranks=(8,))
    found = report(loaded, lambda: attached(loaded.model, patch, strength=8.0))
    assert found.babbling.value > OPTIONS.max_dialogues_babbling
    assert found.perplexity_ratio.value > OPTIONS.max_perplexity_ratio
    assert found.turns[0].kl.mean > OPTIONS.max_kl_cvar95
