"""Figures of dialogues against numpy on made-up ones, and what counts as babbling."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from unflinch.data.dialogues import Dialogue
from unflinch.results import Label
from unflinch.validate.dialogue_report import SMALLEST_KL, dialogue_report, signs_of_babbling
from unflinch.validate.dialogues import MeasuredDialogue, Transcript

ENGLISH = Dialogue(("How is the weather?", "And tomorrow?", "Thanks, what should I wear?"), "travel", "en")
PLAIN = ("It is going to be sunny and dry.", "Tomorrow will be the same as today.", "You can wear a light shirt.")
GERMAN = ("Das Wetter ist heute sonnig und trocken.", "Morgen wird es auch nicht anders sein.", "Ein Hemd ist genug.")


def plain(asked: str, said: str) -> Label:
    return "refuses" if "sorry" in said else "answers" if said.strip() else "degenerate"


def transcript(texts: tuple[str, ...] = PLAIN, lengths: tuple[int, ...] = (5, 7, 6), start: int = 100) -> Transcript:
    """Return a transcript whose tokens are all different."""
    tokens = iter(range(start, start + sum(lengths)))
    answers = tuple(tuple(next(tokens) for _ in range(length)) for length in lengths)
    return Transcript(((1,), (1, 2), (1, 2, 3)), answers, texts)


def values(lengths: tuple[int, ...], mean: float, generator: torch.Generator) -> tuple[Tensor, ...]:
    return tuple(torch.rand(length, generator=generator) * 2 * mean for length in lengths)


def measured(seed: int, before: Transcript | None = None, after: Transcript | None = None) -> MeasuredDialogue:
    generator = torch.Generator().manual_seed(seed)
    before, after = before or transcript(), after or transcript(lengths=(6, 4, 8), start=200)
    own = tuple(len(answer) for answer in before.answers)
    foreign = tuple(len(answer) for answer in after.answers)
    return MeasuredDialogue(
        ENGLISH,
        before,
        after,
        values(own, 0.01, generator),
        tuple(turn > 1 for turn in values(own, 0.6, generator)),
        values(own, 0.4, generator),
        values(foreign, 0.5, generator),
    )


def test_the_figures_equal_those_of_numpy() -> None:
    rows = [measured(seed) for seed in range(8)]
    found = dialogue_report(rows, 2, 6, plain)
    assert (found.n, found.left_out, len(found.turns), len(found.dialogues)) == (8, 2, 3, 8)
    kl = np.array([[turn.mean().item() for turn in row.kl] for row in rows])
    for turn in range(3):
        assert found.turns[turn].turn == turn + 1
        assert found.turns[turn].kl.mean == pytest.approx(kl[:, turn].mean())
        flips = np.concatenate([row.flips[turn].numpy() for row in rows])
        assert (found.turns[turn].top1_flip_rate.count, found.turns[turn].top1_flip_rate.n) == (flips.sum(), len(flips))
    drift = (kl[:, 2].mean() + SMALLEST_KL) / (kl[:, 0].mean() + SMALLEST_KL)
    assert found.drift.value == pytest.approx(drift)
    assert found.drift.interval.low < drift < found.drift.interval.high
    own, foreign = (
        np.exp(np.concatenate([torch.cat(getattr(row, f"surprise_{side}")).numpy() for row in rows]).mean())
        for side in ("before", "after")
    )
    assert (found.before.perplexity, found.after.perplexity) == pytest.approx((own, foreign))
    assert found.perplexity_ratio.value == pytest.approx(foreign / own)
    assert found.perplexity_ratio.interval.low < foreign / own < found.perplexity_ratio.interval.high
    assert found.length_ratio.value == pytest.approx(1.0)
    assert (found.before.tokens, found.after.tokens) == (6.0, 6.0)
    assert (found.before.ended.count, found.after.ended.count) == (8, 8)  # shorter than 6 tokens
    assert found.dialogues[3].kl == pytest.approx(kl[3])
    assert found.babbling.count == 0 and found.babbling.n == 8
    assert found.refused_after.count == 0


def test_a_model_that_is_not_changed_does_not_drift_and_does_not_babble() -> None:
    rows = []
    for seed in range(5):
        row = measured(seed, after=transcript())
        still = tuple(torch.zeros_like(turn) for turn in row.kl)
        rows.append(replace(row, kl=still, surprise_after=row.surprise_before))
    found = dialogue_report(rows, 0, 24, plain)
    ones = (found.drift, found.perplexity_ratio, found.length_ratio)
    assert [one.value for one in ones] == pytest.approx([1.0] * 3)
    assert [one.interval.high - one.interval.low for one in ones] == pytest.approx([0.0] * 3, abs=1e-9)
    assert found.before == found.after
    assert found.babbling.count == 0


@pytest.mark.parametrize(
    ("sign", "led", "ratio"),
    [
        (None, transcript(), 1.0),
        (None, transcript(), 3.9),
        ("unlikely", transcript(), 4.1),
        ("other language", transcript(GERMAN), 1.0),
        ("other script", transcript(("Привет", "как дела", "abc")), 1.0),
        ("loops", replace(transcript(), answers=((1, 2) * 6, (1, 2) * 6, (5,))), 1.0),
        ("degenerate", transcript(("It is sunny.", "", "You can wear a shirt.")), 1.0),
    ],
)
def test_every_way_of_babbling_is_told_from_plain_answers(sign: str | None, led: Transcript, ratio: float) -> None:
    row = measured(0, after=led)
    before, after = ([plain(*turn) for turn in zip(ENGLISH.turns, texts, strict=True)] for texts in (PLAIN, led.texts))
    assert signs_of_babbling(row, before, after, ratio) == ((sign,) if sign else ())


def test_what_the_base_model_does_as_well_is_not_held_against_the_patch() -> None:
    german = transcript(GERMAN)
    assert dialogue_report([measured(0, after=german)], 0, 24, plain).dialogues[0].babbles == ("other language",)
    both = dialogue_report([measured(0, before=german, after=german)], 0, 24, plain)
    assert both.dialogues[0].babbles == () and both.babbling.count == 0
    looping = replace(transcript(), answers=((1, 2) * 4, (1, 2) * 3, (5,)))
    again = replace(looping, answers=((1, 2) * 6, (1, 2) * 6, (5,)))
    assert dialogue_report([measured(0, before=looping, after=again)], 0, 24, plain).babbling.count == 0
    assert (both.before.other_language.count, both.after.other_language.count) == (1, 1)


def test_a_model_that_says_nothing_any_more_babbles() -> None:
    silent = Transcript(((1,), (1, 2), (1, 2, 3)), ((), (), ()), ("", "", ""))
    row = replace(measured(0, after=silent), surprise_after=(torch.zeros(0),) * 3)
    found = dialogue_report([row], 0, 24, plain)
    assert found.dialogues[0].babbles == ("degenerate",)
    assert found.length_ratio.value == 0
    assert math.isfinite(found.perplexity_ratio.value)


def test_refusals_that_the_patch_brings_are_counted() -> None:
    row = measured(0, after=transcript(("I'm sorry.", *PLAIN[1:])))
    found = dialogue_report([row, measured(1)], 0, 24, plain)
    assert (found.refused_after.count, found.refused_after.n) == (1, 6)
    assert (found.refusing.count, found.refusing.n) == (1, 2)


def test_no_dialogues_are_reported_as_none() -> None:
    found = dialogue_report([], 6, 24, plain)
    assert (found.n, found.left_out, found.turns, found.babbling.n) == (0, 6, (), 0)


def test_hopeless_answers_have_a_perplexity_that_json_can_hold() -> None:
    row = measured(0)
    found = dialogue_report(
        [replace(row, surprise_after=tuple(turn + 5000 for turn in row.surprise_after))], 0, 24, plain
    )
    assert math.isfinite(found.perplexity_ratio.value) and math.isfinite(found.after.perplexity)
    assert found.dialogues[0].babbles == ("unlikely",)
