"""How a model thinks before it answers: read off its chat template by rendering it, and its thoughts written out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Protocol, TypeVar, runtime_checkable

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from unflinch.errors import ModelError
from unflinch.models.batches import Ids
from unflinch.models.chat import TEMPLATE_ERRORS, HasConversation, switches
from unflinch.models.generate import Choose, at_places, generate, greedy
from unflinch.models.thought_markers import THOUGHT_MARKERS, ThoughtMarkers

Modes = tuple[bool | None, ...]
"""Whether prompts are asked with thinking on; None where the model's template knows no thinking."""

_OF_THOUGHTS = 2**32
"""Thoughts have places of their own: a sampled answer does not depend on how long the thought before it was."""
_ASKED = {"role": "user", "content": "Why?"}
_THOUGHT, _REPLY = "because I wonder", "Therefore."


@dataclass(frozen=True)
class Thinking:
    """How a model thinks, as its chat template shows."""

    markers: ThoughtMarkers
    has_switch: bool
    """Whether a variable of the template turns it on and off; without one the model thinks whenever it wants to."""
    opened: bool
    """Whether the prompt ends inside a thought, as the template writes its opening itself."""
    most_tokens: int = 1024
    """Tokens within which a thought must close."""

    def closes(self, written: str) -> bool:
        """Return whether the text that a model has written so far holds a whole thought."""
        return self.markers.closing in written

    def answers_at_once(self, written: str) -> bool:
        """Return whether the text so far is no thought and cannot become one: the model answers without thinking."""
        start = written.lstrip()
        markers = (self.markers.opening, self.markers.closing)
        return not self.opened and not any(m.startswith(start) or start.startswith(m) for m in markers)

    def answer_begins(self, written: str) -> bool:
        """Return whether the text so far holds the first visible character of the answer."""
        if self.closes(written):
            return bool(written.partition(self.markers.closing)[2].strip())
        return self.answers_at_once(written)


def read_thinking(tokenizer: PreTrainedTokenizerBase) -> Thinking | None:
    """Return how a model thinks by its chat template; None where it shows no thought that can be told from an answer.

    A template shows it by writing the end of a thought or, at the end of the prompt, its beginning, or by leaving
    thoughts out of earlier turns. Nothing is concluded from the names of models or from the template's source.
    """
    prompts = [_rendered(tokenizer, [_ASKED], on) for on in (True, False)]
    reply = {"role": "assistant", "content": _REPLY, "reasoning_content": _THOUGHT, "thinking": _THOUGHT}
    shown = "".join([*prompts, _rendered(tokenizer, [_ASKED, reply], True, answered=True)])
    for markers in THOUGHT_MARKERS:
        opened = prompts[0].rstrip().endswith(markers.opening)
        if opened or markers.closing in shown or _forgets_thoughts(tokenizer, markers):
            return Thinking(markers, prompts[0] != prompts[1], opened)
    return None


def _rendered(
    tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]], on: bool, answered: bool = False
) -> str:
    """Return the messages as the template lays them out, ready for an answer; nothing where it does not take them."""
    try:
        text: Any = tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=not answered, **switches(on)
        )
    except TEMPLATE_ERRORS:
        return ""
    return str(text)


def _forgets_thoughts(tokenizer: PreTrainedTokenizerBase, markers: ThoughtMarkers) -> bool:
    """Return whether the template leaves a thought between these markers out of an earlier answer."""
    reply = {"role": "assistant", "content": f"{markers.opening}{_THOUGHT}{markers.closing}{_REPLY}"}
    text = _rendered(tokenizer, [_ASKED, reply, _ASKED], True)
    return _REPLY in text and _THOUGHT not in text


def thinking_modes(thinking: Thinking | None, wanted: Literal["auto", "on", "off", "both"], model_id: str) -> Modes:
    """Return the modes in which every prompt is asked.

    Args:
        thinking: how the model thinks.
        wanted: `auto` is both where the template has a switch, on where the model always thinks.
        model_id: for the error.

    Raises:
        ModelError: if the model's template does not allow it.
    """
    if thinking is None:
        if wanted in ("on", "both"):
            raise ModelError(
                f"thinking is to be '{wanted}', but the chat template of {model_id} shows no thought with an end that "
                "is known here; give --thinking off"
            )
        return (None,)
    if wanted in ("off", "both") and not thinking.has_switch:
        raise ModelError(
            f"thinking is to be '{wanted}', but the chat template of {model_id} has no switch that turns it off; "
            "give --thinking on"
        )
    if wanted == "auto":
        return (False, True) if thinking.has_switch else (True,)
    return {"off": (False,), "on": (True,), "both": (False, True)}[wanted]


@runtime_checkable
class HasMode(Protocol):
    """A frozen dataclass of something to ask: `data.prompts.Prompt` and `data.dialogues.Dialogue` are two."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def thinking(self) -> bool | None:
        """Whether the model is to think before it answers."""
        ...

    @property
    def system(self) -> str | None:
        """Its system prompt."""
        ...


Askable = TypeVar("Askable", bound=HasMode)


def in_modes(prompts: Sequence[Askable], modes: Modes, system_prompt: str | None) -> tuple[Askable, ...]:
    """Return every prompt once a mode, its modes one after the other, under the system prompt if it has none."""
    return tuple(
        replace(prompt, thinking=mode, system=prompt.system or system_prompt) for prompt in prompts for mode in modes
    )


def write_thoughts(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sequences: Sequence[Ids],
    thinking: Thinking,
    *,
    choose: Choose = greedy,
    advance: Callable[[int], None] | None = None,
) -> list[tuple[int, ...] | None]:
    """Return the thought behind every prompt, up to the token before the first visible one of the answer.

    It is empty where the model answers without thinking, and None where it does not close within its limit.

    Args:
        model: the model, patched or not.
        tokenizer: of the model.
        sequences: prompts as ids, encoded with thinking on.
        thinking: how the model thinks.
        choose: takes the tokens, see `models.generate`.
        advance: called with the number of finished thoughts.
    """
    written = generate(
        model,
        tokenizer,
        sequences,
        thinking.most_tokens,
        choose=choose,
        stop_when=thinking.answer_begins,
        advance=advance,
    )
    thoughts: list[tuple[int, ...] | None] = []
    for tokens in written:
        text = str(tokenizer.decode(list(tokens)))
        if thinking.closes(text):
            thoughts.append(tokens[:-1] if thinking.answer_begins(text) else tokens)
        else:
            thoughts.append(() if thinking.answers_at_once(text) else None)
    return thoughts


def thoughts_of(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[HasConversation],
    sequences: Sequence[tuple[int, ...]],
    thinking: Thinking | None,
    *,
    choose: Choose = greedy,
) -> list[tuple[int, ...] | None]:
    """Return the model's own thought behind every prompt: see `write_thoughts`; empty where thinking is not on.

    Args:
        model: the model, patched or not.
        tokenizer: of the model.
        prompts: what is asked.
        sequences: the same as ids.
        thinking: how the model thinks; needed where a prompt is asked with thinking on.
        choose: takes the tokens, see `models.generate`.

    Raises:
        ModelError: if a prompt is asked with thinking on, and how the model thinks is not known.
    """
    thoughts: list[tuple[int, ...] | None] = [() for _ in prompts]
    rows = [row for row, prompt in enumerate(prompts) if prompt.thinking]
    if rows:
        if thinking is None:
            raise ModelError("a prompt is asked with thinking on, but how the model thinks is not known; leave it off")
        own = at_places(choose, [_OF_THOUGHTS + row for row in rows])
        found = write_thoughts(model, tokenizer, [sequences[row] for row in rows], thinking, choose=own)
        for row, thought in zip(rows, found, strict=True):
            thoughts[row] = thought
    return thoughts
