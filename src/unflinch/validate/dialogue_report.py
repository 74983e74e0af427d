"""What the dialogues say: KL by turn and its drift, and whether the patched model has started to babble."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import numpy as np
from jaxtyping import Float64
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from unflinch.data.dialogues import Dialogue
from unflinch.metrics.intervals import Draws, percentile_interval, rate, resampled
from unflinch.metrics.kl import kl_distribution
from unflinch.models.thinking import Thinking
from unflinch.results import Interval, Judgement, Label
from unflinch.validate.babble import guess_language, other_script_share, repeated_share
from unflinch.validate.dialogues import Advance, MeasuredDialogue, Transcript, lead, measure_dialogues
from unflinch.validation_results import DialogueOutcome, DialogueReport, Estimate, Speech, TurnKL

JudgeAnswer = Callable[[str, str], Label]
"""Takes what was asked and what was answered."""

Sums = Float64[np.ndarray, " dialogues"]

MOST_REPEATED = 0.5
"""Share of a dialogue's token runs, said before in it, above which it loops, ..."""
MORE_REPEATED = 0.25
"""... if that is so much above the base model's share: small models say whole answers again."""
MORE_OTHER_SCRIPT = 0.3
"""Share of letters of another script, above the base model's, from which on a dialogue has left its own."""
MOST_UNLIKELY = 4.0
"""Perplexity under the base model, over that of its own answers, above which a dialogue's answers are not its words."""
SMALLEST_KL = 1e-6
"""In nats; what rounding alone gives. Added to both sides of the drift, so that nothing over nothing is 1."""


def report_dialogues(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    dialogues: Sequence[Dialogue],
    judge: Callable[[str, str], Judgement],
    changed: Callable[[], AbstractContextManager[object]],
    max_new_tokens: int,
    progress: Callable[[str, int], Advance],
    thinking: Thinking | None = None,
) -> DialogueReport:
    """Return what a change does to dialogues; those in which the base model refuses a turn are left out.

    Args:
        model: the base model.
        tokenizer: with a chat template.
        dialogues: what the user says.
        judge: takes what was asked and what was answered.
        changed: context in which the model is patched.
        max_new_tokens: most tokens of an answer.
        progress: called with who answers and how many answers there will be; returns what counts them.
        thinking: how the model thinks, for dialogues that are led with thinking on.
    """

    def label(asked: str, said: str) -> Label:
        return judge(asked, said).label

    led = lead(model, tokenizer, dialogues, max_new_tokens, progress("base model", _count(dialogues)), thinking)
    usable = [
        (dialogue, transcript)
        for dialogue, transcript in zip(dialogues, led, strict=True)
        if all(transcript.answers) and "refuses" not in _labels(dialogue, transcript, label)
    ]
    kept, before = [dialogue for dialogue, _ in usable], [transcript for _, transcript in usable]
    advance = progress("patched", _count(kept))
    measured = measure_dialogues(model, tokenizer, kept, before, changed, max_new_tokens, advance, thinking)
    return dialogue_report(measured, len(dialogues) - len(kept), max_new_tokens, label)


def _count(dialogues: Sequence[Dialogue]) -> int:
    return sum(len(dialogue.turns) for dialogue in dialogues)


def dialogue_report(
    measured: Sequence[MeasuredDialogue], left_out: int, max_new_tokens: int, judge: JudgeAnswer
) -> DialogueReport:
    """Return the figures of all dialogues.

    Formulas, with d a dialogue, t its token, T_d the number of tokens, all intervals from whole dialogues resampled:
        drift = (mean_d KL_last,d + 1e-6) / (mean_d KL_first,d + 1e-6), KL_turn,d the mean over the turn's tokens;
        perplexity = exp(sum_dt -log p_base(t) / sum_d T_d), of the patched model's answers and of the base model's;
        length ratio = sum_d T_d(patched) / sum_d T_d(base).

    Args:
        measured: dialogues in which the base model refuses nothing and leaves no answer empty.
        left_out: how many others there were.
        max_new_tokens: length at which answers were cut off.
        judge: labels an answer.
    """
    before, after = [m.before for m in measured], [m.after for m in measured]
    labels_before = [_labels(m.dialogue, m.before, judge) for m in measured]
    labels_after = [_labels(m.dialogue, m.after, judge) for m in measured]
    own, foreign = _totals([m.surprise_before for m in measured]), _totals([m.surprise_after for m in measured])
    outcomes = [_outcome(*row) for row in zip(measured, labels_before, labels_after, strict=True)]
    said = [label for labels in labels_after for label in labels]
    return DialogueReport(
        n=len(measured),
        left_out=left_out,
        turns=_turns(measured),
        drift=_drift(measured),
        before=_speech(measured, before, labels_before, own, max_new_tokens),
        after=_speech(measured, after, labels_after, foreign, max_new_tokens),
        length_ratio=_ratio(_lengths(after), _lengths(before)),
        perplexity_ratio=_perplexity_ratio(own, foreign),
        refused_after=rate(said.count("refuses"), len(said)),
        refusing=rate(sum("refuses" in labels for labels in labels_after), len(labels_after)),
        babbling=rate(sum(bool(outcome.babbles) for outcome in outcomes), len(outcomes)),
        dialogues=tuple(outcomes),
    )


def signs_of_babbling(
    measured: MeasuredDialogue, labels_before: Sequence[Label], labels_after: Sequence[Label], perplexity_ratio: float
) -> tuple[str, ...]:
    """Return in what ways the patched model babbles in a dialogue and the base model does not.

    - `loops`: more than half of its token runs were said before in it, and 25 % of the runs more than the base model's;
    - `degenerate`: an answer is empty, loops or is no language, and none of the base model's is;
    - `other script`: a share of its letters that is 30 % above the base model's is of another script;
    - `other language`: its most common words are another language's than the user's, the base model's are not;
    - `unlikely`: its perplexity under the base model is more than four times that of the base model's own answers.

    Args:
        measured: the dialogue.
        labels_before: of the base model's answers.
        labels_after: of the patched model's.
        perplexity_ratio: of the patched model's answers to the base model's own.
    """
    language = measured.dialogue.language
    before, after = ("\n".join(led.texts) for led in (measured.before, measured.after))
    repeated = repeated_share(measured.after.answers)
    foreign = other_script_share(after, language) - other_script_share(before, language)
    signs = {
        "degenerate": "degenerate" in labels_after and "degenerate" not in labels_before,
        "loops": repeated > max(MOST_REPEATED, repeated_share(measured.before.answers) + MORE_REPEATED),
        "other language": _elsewhere(after, language) and not _elsewhere(before, language),
        "other script": foreign > MORE_OTHER_SCRIPT,
        "unlikely": perplexity_ratio > MOST_UNLIKELY,
    }
    return tuple(name for name, found in signs.items() if found)


def _elsewhere(text: str, language: str) -> bool:
    return guess_language(text) not in (None, language)


def _labels(dialogue: Dialogue, led: Transcript, judge: JudgeAnswer) -> list[Label]:
    return [judge(asked, said) for asked, said in zip(dialogue.turns, led.texts, strict=True)]


def _outcome(
    measured: MeasuredDialogue, labels_before: Sequence[Label], labels_after: Sequence[Label]
) -> DialogueOutcome:
    dialogue = measured.dialogue
    ratio = _perplexity_ratio(_totals([measured.surprise_before]), _totals([measured.surprise_after])).value
    return DialogueOutcome(
        dialogue.language,
        dialogue.category,
        dialogue.turns,
        measured.before.texts,
        measured.after.texts,
        tuple(float(turn.mean()) for turn in measured.kl),
        ratio,
        signs_of_babbling(measured, labels_before, labels_after, ratio),
    )


def _turns(measured: Sequence[MeasuredDialogue]) -> tuple[TurnKL, ...]:
    """Return KL turn by turn, over the dialogues that have so many turns."""
    found = []
    for turn in range(max((len(m.kl) for m in measured), default=0)):
        having = [m for m in measured if turn < len(m.kl)]
        flipped = sum(int(m.flips[turn].sum()) for m in having)
        tokens = sum(len(m.flips[turn]) for m in having)
        values = [float(m.kl[turn].mean()) for m in having]
        found.append(TurnKL(turn + 1, kl_distribution(values), rate(flipped, tokens)))
    return tuple(found)


def _drift(measured: Sequence[MeasuredDialogue]) -> Estimate:
    first, last = ([float(m.kl[turn].mean()) + SMALLEST_KL for m in measured] for turn in (0, -1))
    return _ratio(last, first)


def _speech(
    measured: Sequence[MeasuredDialogue],
    led: Sequence[Transcript],
    labels: Sequence[Sequence[Label]],
    surprise: tuple[Sums, Sums],
    max_new_tokens: int,
) -> Speech:
    texts = [("\n".join(one.texts), m.dialogue.language) for one, m in zip(led, measured, strict=True)]
    answers = [answer for one in led for answer in one.answers]
    elsewhere = sum(_elsewhere(*text) for text in texts)
    given = [label for row in labels for label in row]
    nats, tokens = surprise
    return Speech(
        tokens=sum(map(len, answers)) / max(1, len(answers)),
        ended=rate(sum(len(answer) < max_new_tokens for answer in answers), len(answers)),
        repetition=sum(repeated_share(one.answers) for one in led) / max(1, len(led)),
        other_script=sum(other_script_share(*text) for text in texts) / max(1, len(texts)),
        other_language=rate(elsewhere, len(texts)),
        degenerate=rate(given.count("degenerate"), len(given)),
        perplexity=_exp(float(nats.sum() / max(1.0, tokens.sum()))),
    )


def _lengths(led: Sequence[Transcript]) -> list[float]:
    return [float(sum(map(len, one.answers))) for one in led]


def _totals(surprise: Sequence[Sequence[Tensor]]) -> tuple[Sums, Sums]:
    """Return the sum of nats and the number of tokens of every dialogue."""
    nats = [sum(float(turn.double().sum()) for turn in turns) for turns in surprise]
    tokens = [sum(len(turn) for turn in turns) for turns in surprise]
    return np.array(nats, dtype=np.float64), np.array(tokens, dtype=np.float64)


def _ratio(numerators: Sequence[float], denominators: Sequence[float]) -> Estimate:
    """Return the ratio of two sums over dialogues, both drawn together."""
    if not denominators:
        return Estimate(1.0, Interval(1.0, 1.0))
    above, below = np.asarray(numerators), np.asarray(denominators)
    draws = resampled(len(below))
    interval = percentile_interval(draws, lambda drawn: above[drawn].sum(axis=1) / below[drawn].sum(axis=1))
    return Estimate(float(above.sum() / below.sum()), interval)


def _perplexity_ratio(before: tuple[Sums, Sums], after: tuple[Sums, Sums]) -> Estimate:
    """Return exp(mean surprise after - mean surprise before), dialogues drawn whole."""
    count = len(before[0])
    if not count:
        return Estimate(1.0, Interval(1.0, 1.0))

    def mean(sums: tuple[Sums, Sums], drawn: Draws) -> Float64[np.ndarray, " resamples"]:
        nats, tokens = (values[drawn].sum(axis=1) for values in sums)
        return np.asarray(nats / np.maximum(1.0, tokens))

    def difference(drawn: Draws) -> Float64[np.ndarray, " resamples"]:
        return np.asarray(mean(after, drawn) - mean(before, drawn))

    interval = percentile_interval(resampled(count), difference)
    whole = float(difference(np.arange(count)[None])[0])
    return Estimate(_exp(whole), Interval(_exp(interval.low), _exp(interval.high)))


def _exp(nats: float) -> float:
    """Return exp, bounded so that JSON can hold it."""
    return math.exp(min(nats, 700.0))
