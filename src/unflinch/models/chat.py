"""From a prompt to the token ids that end where the answer begins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from unflinch.errors import ModelError

Conversation = Sequence[dict[str, str]]


@runtime_checkable
class HasConversation(Protocol):
    """Anything that can be laid out as chat messages: `data.prompts.Prompt` is one."""

    def conversation(self) -> list[dict[str, str]]:
        """Return the messages, each with `role` and `content`."""
        ...


def check_chat_template(tokenizer: PreTrainedTokenizerBase, model_id: str) -> None:
    """Raise `ModelError` if the tokenizer has no chat template: base models cannot be asked and do not refuse."""
    if not tokenizer.chat_template:
        raise ModelError(
            f"{model_id} has no chat template, so it is a base model; expected an instruct or chat model: "
            "give the -Instruct or -chat variant"
        )


def encode(tokenizer: PreTrainedTokenizerBase, prompt: HasConversation) -> tuple[int, ...]:
    """Return the ids of the conversation up to the position where the assistant's answer starts.

    Raises:
        ModelError: if the chat template refuses the conversation, for example for its system message.
    """
    try:
        encoded: Any = tokenizer.apply_chat_template(
            prompt.conversation(), add_generation_prompt=True, tokenize=True, return_dict=True
        )
    except TemplateError as error:
        raise ModelError(
            f"the model's chat template does not take a conversation of these prompts ({error}); "
            "give prompts with the roles that it knows, or another model"
        ) from error
    return tuple(encoded["input_ids"])


def encode_all(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[HasConversation]) -> list[tuple[int, ...]]:
    """Return `encode` of every prompt, in order."""
    return [encode(tokenizer, prompt) for prompt in prompts]
