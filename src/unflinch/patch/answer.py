"""An answer of the model with its patch or without, read as it grows."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Literal

from unflinch.models.chat import HasConversation, encode
from unflinch.models.generate import StopWhen, generate
from unflinch.models.load import LoadedModel
from unflinch.patch.attach import AttachedPatch

Side = Literal["patched", "original"]


def answer(
    loaded: LoadedModel,
    live: AttachedPatch,
    conversation: HasConversation,
    side: Side,
    max_tokens: int,
    stop_when: StopWhen,
) -> str:
    """Return the likeliest answer of one side to a conversation, without special tokens.

    Args:
        loaded: the model that the patch is attached to.
        live: the patch, at the strength that it has.
        conversation: what was said so far; the user speaks last.
        side: with the patch, or without it.
        max_tokens: most tokens of the answer.
        stop_when: called with the answer so far after each token; True ends it.

    Raises:
        ModelError: if the chat template refuses the conversation.
    """
    model, tokenizer = loaded.model, loaded.tokenizer
    with live.disabled() if side == "original" else nullcontext():
        ids = encode(tokenizer, conversation)
        answers = generate(model, tokenizer, [ids], max_tokens, stop_when=stop_when)
    return str(tokenizer.decode(list(answers[0]), skip_special_tokens=True))
