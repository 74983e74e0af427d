"""Dialogues are led turn by turn, and what is measured along them equals a loop over single unpadded sequences."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from tiny_models import own_logits, random_ids, tiny_model, tiny_tokenizer
from tiny_patches import random_patch

from unflinch.data.dialogues import Dialogue
from unflinch.patch.attach import attached
from unflinch.validate.dialogues import Forced, Transcript, answer_states, forced_sequences, lead, measure_dialogues

TOKENS = 5
DIALOGUES = (
    Dialogue(("How do I kill a process?", "And then?", "What is the capital?"), "code", "en"),
    Dialogue(("Paris", "user"), "travel", "fr"),
    Dialogue(("Was ist das?", "Und dann?", "Danke, und jetzt?"), "household", "de"),
)
TRANSLATED = Transcript(
    contexts=((5, 6, 7), (5, 6, 7, 20, 21, 8), (5, 6, 9, 9, 9, 9, 9)),
    answers=((20, 21), (22,), (23, 24)),
    texts=("a", "b", "c"),
)
"""The second context repeats the first answer as it was, the third does not."""


def greedy(family: str, context: tuple[int, ...], ends: set[int]) -> tuple[int, ...]:
    """Return the greedy answer of the unpatched model, without cache, padding or batch."""
    model = tiny_model(family)
    ids = list(context)
    for _ in range(TOKENS):
        token = int(own_logits(model, tuple(ids))[-1].argmax())
        if token in ends:
            break
        ids.append(token)
    return tuple(ids[len(context) :])


def test_every_turn_is_answered_after_all_that_was_said_before() -> None:
    model, tokenizer = tiny_model("qwen2"), tiny_tokenizer()
    finished: list[int] = []
    led = lead(model, tokenizer, DIALOGUES, TOKENS, finished.append)
    assert sum(finished) == 8
    for dialogue, transcript in zip(DIALOGUES, led, strict=True):
        assert len(transcript.answers) == len(transcript.contexts) == len(transcript.texts) == len(dialogue.turns)
        messages: list[dict[str, str]] = []
        for turn, said, context, text in zip(
            dialogue.turns, transcript.answers, transcript.contexts, transcript.texts, strict=True
        ):
            messages.append({"role": "user", "content": turn})
            ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
            assert context == tuple(ids)
            assert said == greedy("qwen2", context, {tokenizer.eos_token_id})
            assert text == tokenizer.decode(list(said), skip_special_tokens=True)
            messages.append({"role": "assistant", "content": text})


def test_turns_share_a_sequence_exactly_where_the_later_context_repeats_the_earlier_answer() -> None:
    assert forced_sequences(TRANSLATED) == [
        Forced((5, 6, 7, 20, 21, 8, 22), ((3, 5), (6, 7))),
        Forced((5, 6, 9, 9, 9, 9, 9, 23, 24), ((7, 9),)),
    ]


@pytest.mark.parametrize("family", ["qwen2", "gemma2"])
def test_kl_and_surprise_equal_a_loop_over_single_unpadded_sequences(family: str) -> None:
    model, tokenizer = tiny_model(family), tiny_tokenizer()
    patch = random_patch(model)
    before = [TRANSLATED, *lead(model, tokenizer, DIALOGUES[1:], TOKENS)]
    dialogues = (DIALOGUES[0], *DIALOGUES[1:])
    assert all(all(transcript.answers) for transcript in before)
    measured = measure_dialogues(model, tokenizer, dialogues, before, lambda: attached(model, patch), TOKENS)
    assert [m.before for m in measured] == before
    moved = 0.0
    for found in measured:
        own = (found.kl, found.flips, found.surprise_before)
        for context, answer, kl, flips, surprise in zip(found.before.contexts, found.before.answers, *own, strict=True):
            base = own_logits(model, (*context, *answer)).double()[-len(answer) - 1 : -1]
            with attached(model, patch):
                changed = own_logits(model, (*context, *answer)).double()[-len(answer) - 1 : -1]
            expected = (base.softmax(-1) * (base.log_softmax(-1) - changed.log_softmax(-1))).sum(-1)
            torch.testing.assert_close(kl.double(), expected, rtol=2e-3, atol=2e-5)
            assert flips.tolist() == (base.argmax(-1) != changed.argmax(-1)).tolist()
            own_tokens = -base.log_softmax(-1)[range(len(answer)), list(answer)]
            torch.testing.assert_close(surprise.double(), own_tokens, rtol=1e-4, atol=1e-4)
            moved = max(moved, float(expected.max()))
        for context, answer, surprise in zip(
            found.after.contexts, found.after.answers, found.surprise_after, strict=True
        ):
            assert len(surprise) == len(answer)
            base = own_logits(model, (*context, *answer)).double()[len(context) - 1 : len(context) + len(answer) - 1]
            foreign = -base.log_softmax(-1)[range(len(answer)), list(answer)]
            torch.testing.assert_close(surprise.double(), foreign, rtol=1e-4, atol=1e-4)
    assert moved > 1e-3  # the patch does something
    assert [m.after for m in measured] != before


def test_a_model_that_is_not_changed_moves_by_nothing_and_leads_the_same_dialogues() -> None:
    model, tokenizer = tiny_model("qwen2"), tiny_tokenizer()
    before = lead(model, tokenizer, DIALOGUES, TOKENS)
    for found, own in zip(
        measure_dialogues(model, tokenizer, DIALOGUES, before, nullcontext, TOKENS), before, strict=True
    ):
        assert found.after == own
        assert max(float(turn.max()) for turn in found.kl) == 0
        assert not any(turn.any() for turn in found.flips)
        assert all(torch.equal(a, b) for a, b in zip(found.surprise_before, found.surprise_after, strict=True))


def test_an_empty_answer_has_no_states_and_does_not_shift_the_others() -> None:
    model = tiny_model("qwen2")
    first, second, third = random_ids((9, 14, 11), seed=6)
    whole = Transcript((first, second, third), ((), (7, 8), ()), ("", "a", ""))
    alone = Transcript((second,), ((7, 8),), ("a",))
    states = answer_states(model, [whole, alone])
    assert states.shape[0] == 4
    torch.testing.assert_close(states[:2], states[2:], rtol=1e-4, atol=1e-5)
    assert answer_states(model, [Transcript((first,), ((),), ("",))]).shape[0] == 0


def test_the_model_leaves_as_it_came() -> None:
    model, tokenizer = tiny_model("qwen2"), tiny_tokenizer()
    ids = random_ids((12,), seed=5)[0]
    logits = own_logits(model, ids)
    before = lead(model, tokenizer, DIALOGUES, TOKENS)
    measure_dialogues(model, tokenizer, DIALOGUES, before, lambda: attached(model, random_patch(model)), TOKENS)
    assert torch.equal(own_logits(model, ids), logits)
    assert measure_dialogues(model, tokenizer, (), [], nullcontext, TOKENS) == []
