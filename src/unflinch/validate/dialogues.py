"""Ordinary dialogues of several turns, led by the base model and by the patched one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from unflinch.data.dialogues import Dialogue
from unflinch.metrics.kl import kl_divergence
from unflinch.models.chat import encode_all
from unflinch.models.forward import logits_from_hidden, scored_hidden
from unflinch.models.generate import generate
from unflinch.models.thinking import Thinking, thoughts_of

_ROWS = 256
"""Positions whose logits over the whole vocabulary are held at once."""

Advance = Callable[[int], None]


@dataclass(frozen=True)
class Messages:
    """The turns so far, as chat templates expect them."""

    turns: tuple[tuple[str, str], ...]
    """Role and content."""
    thinking: bool | None = None
    """Whether the model is to think before it answers."""

    def conversation(self) -> list[dict[str, str]]:
        """Return the messages."""
        return [{"role": role, "content": content} for role, content in self.turns]


@dataclass(frozen=True)
class Transcript:
    """A dialogue as one model led it, turn by turn."""

    contexts: tuple[tuple[int, ...], ...]
    """Token ids of everything that the model has read before each answer, its own thought included."""
    answers: tuple[tuple[int, ...], ...]
    texts: tuple[str, ...]
    """The same answers in words."""


@dataclass(frozen=True)
class MeasuredDialogue:
    """One dialogue before and after, with what was measured along both; token by token, one tensor a turn."""

    dialogue: Dialogue
    before: Transcript
    after: Transcript
    kl: tuple[Float[Tensor, " _tokens"], ...]
    """KL(base || patched) along the base model's answers."""
    flips: tuple[Bool[Tensor, " _tokens"], ...]
    """Whether the most likely token changed there."""
    surprise_before: tuple[Float[Tensor, " _tokens"], ...]
    """-log p of the base model's own answers under the base model, in nats."""
    surprise_after: tuple[Float[Tensor, " _tokens"], ...]
    """-log p of the patched model's answers under the base model, in nats."""


def lead(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    dialogues: Sequence[Dialogue],
    max_new_tokens: int,
    advance: Advance | None = None,
    thinking: Thinking | None = None,
) -> list[Transcript]:
    """Return every dialogue with the model's own greedy answers; each is read by the later turns as it was written.

    Of thoughts later turns read what the chat template hands on, without the thought itself. An answer whose thought
    does not close is empty.

    Args:
        model: the model, patched or not.
        tokenizer: with a chat template.
        dialogues: what the user says.
        max_new_tokens: most tokens of an answer.
        advance: called with the number of answers written.
        thinking: how the model thinks, for dialogues that are led with thinking on.
    """
    turns: list[list[tuple[str, str]]] = [[("system", d.system)] if d.system else [] for d in dialogues]
    contexts: list[list[tuple[int, ...]]] = [[] for _ in dialogues]
    answers: list[list[tuple[int, ...]]] = [[] for _ in dialogues]
    for turn in range(max((len(dialogue.turns) for dialogue in dialogues), default=0)):
        rows = [row for row, dialogue in enumerate(dialogues) if turn < len(dialogue.turns)]
        for row in rows:
            turns[row].append(("user", dialogues[row].turns[turn]))
        asked = [Messages(tuple(turns[row]), dialogues[row].thinking) for row in rows]
        sequences = encode_all(tokenizer, asked)
        thoughts = thoughts_of(model, tokenizer, asked, sequences, thinking)
        read = [(*ids, *(thought or ())) for ids, thought in zip(sequences, thoughts, strict=True)]
        decided = [place for place, thought in enumerate(thoughts) if thought is not None]
        written = generate(model, tokenizer, [read[place] for place in decided], max_new_tokens, advance=advance)
        said = dict(zip(decided, written, strict=True))
        for place, row in enumerate(rows):
            answer = said.get(place, ())
            contexts[row].append(read[place])
            answers[row].append(answer)
            turns[row].append(("assistant", str(tokenizer.decode(list(answer), skip_special_tokens=True))))
    return [
        Transcript(tuple(read), tuple(said), tuple(text for role, text in told if role == "assistant"))
        for read, said, told in zip(contexts, answers, turns, strict=True)
    ]


@torch.inference_mode()
def measure_dialogues(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    dialogues: Sequence[Dialogue],
    before: Sequence[Transcript],
    changed: Callable[[], AbstractContextManager[object]],
    max_new_tokens: int,
    advance: Advance | None = None,
    thinking: Thinking | None = None,
) -> list[MeasuredDialogue]:
    """Return what the change does along the base model's dialogues, and the dialogues that the changed model leads.

    KL is exact, over the full vocabulary, at every token of the base model's answers (teacher forcing). Surprise is
    -log p(answer) under the base model with everything before it in the same dialogue, the base model's own or the
    changed model's.

    Args:
        model: the base model.
        tokenizer: with a chat template.
        dialogues: what the user says.
        before: the same dialogues as the base model led them; no answer is empty.
        changed: context in which the model is patched.
        max_new_tokens: most tokens of an answer.
        advance: called with the number of answers written.
        thinking: how the model thinks, for dialogues that are led with thinking on.
    """
    if not dialogues:
        return []
    base = answer_states(model, before)
    with changed():
        patched = answer_states(model, before)
        after = lead(model, tokenizer, dialogues, max_new_tokens, advance, thinking)
    kl, flips, own = _compared(model, base, patched, before)
    foreign = _surprise(model, answer_states(model, after), after)
    measured = []
    for row, dialogue in enumerate(dialogues):
        parts = (kl[row], flips[row], own[row], foreign[row])
        measured.append(MeasuredDialogue(dialogue, before[row], after[row], *parts))
    return measured


@dataclass(frozen=True)
class Forced:
    """A token sequence that holds one answer of a dialogue or several."""

    ids: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]
    """First place of each answer, and the place after its last."""


def forced_sequences(transcript: Transcript) -> list[Forced]:
    """Return the fewest sequences in which every answer follows exactly what was read before it.

    One for the whole dialogue where the chat template and the tokenizer write earlier turns into the later contexts
    token by token as they were; where they do not (thoughts are taken out, the text splits into other tokens), the turn
    begins a sequence of its own.
    """
    sequences: list[Forced] = []
    for context, answer in zip(transcript.contexts, transcript.answers, strict=True):
        whole, span = (*context, *answer), (len(context), len(context) + len(answer))
        last = sequences[-1] if sequences else None
        if last and context[: len(last.ids)] == last.ids:
            sequences[-1] = Forced(whole, (*last.spans, span))
        else:
            sequences.append(Forced(whole, (span,)))
    return sequences


def answer_states(model: PreTrainedModel, transcripts: Sequence[Transcript]) -> Float[Tensor, "tokens width"]:
    """Return the final hidden states that predict the answers, token by token, answer by answer, in order."""
    sequences = [sequence for transcript in transcripts for sequence in forced_sequences(transcript)]
    lengths = [max(1, len(s.ids) - s.spans[0][0]) for s in sequences]
    scored = max(lengths)
    # The last token predicts nothing; of a sequence that ends with an empty answer, nothing is used at all.
    hidden = scored_hidden(model, [s.ids[:-1] for s in sequences], scored, lengths=lengths)
    pieces = []
    for row, sequence in zip(hidden, sequences, strict=True):
        shift = scored - len(sequence.ids)  # the state at place p - 1, which predicts place p, is in column p + shift
        pieces += [row[start + shift : end + shift] for start, end in sequence.spans]
    return torch.cat(pieces)


def _tokens(transcripts: Sequence[Transcript], device: torch.device) -> Int[Tensor, " tokens"]:
    """Return the tokens of all answers, in order."""
    tokens = [token for transcript in transcripts for answer in transcript.answers for token in answer]
    return torch.tensor(tokens, dtype=torch.long, device=device)


Turns = tuple[Tensor, ...]


def _by_dialogue(values: Tensor, transcripts: Sequence[Transcript]) -> list[Turns]:
    """Return one value a token as one tensor a turn, dialogue by dialogue."""
    turns = iter(values.split([len(answer) for transcript in transcripts for answer in transcript.answers]))
    return [tuple(next(turns) for _ in transcript.answers) for transcript in transcripts]


def _chunks(count: int) -> Iterator[slice]:
    return (slice(start, start + _ROWS) for start in range(0, count, _ROWS))


def _compared(
    model: PreTrainedModel,
    base: Float[Tensor, "tokens width"],
    patched: Float[Tensor, "tokens width"],
    transcripts: Sequence[Transcript],
) -> tuple[list[Turns], list[Turns], list[Turns]]:
    """Return KL, changed top tokens and the base model's surprise along the same answers."""
    own = _tokens(transcripts, base.device)
    kl, flips, surprise = [], [], []
    for rows in _chunks(len(base)):
        before, after = logits_from_hidden(model, base[rows]), logits_from_hidden(model, patched[rows])
        kl.append(kl_divergence(before, after).cpu())
        flips.append((before.argmax(-1) != after.argmax(-1)).cpu())
        surprise.append(_negative_log_likelihood(before, own[rows]))
    found = [_by_dialogue(torch.cat(values), transcripts) for values in (kl, flips, surprise)]
    return found[0], found[1], found[2]


def _surprise(
    model: PreTrainedModel, states: Float[Tensor, "tokens width"], transcripts: Sequence[Transcript]
) -> list[Turns]:
    """Return the base model's surprise along the answers."""
    own = _tokens(transcripts, states.device)
    found = [_negative_log_likelihood(logits_from_hidden(model, states[r]), own[r]) for r in _chunks(len(states))]
    return _by_dialogue(torch.cat(found) if found else torch.zeros(0), transcripts)


def _negative_log_likelihood(logits: Float[Tensor, "tokens vocab"], own: Tensor) -> Float[Tensor, " tokens"]:
    return torch.nn.functional.cross_entropy(logits, own.to(logits.device), reduction="none").cpu()
