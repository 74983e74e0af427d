"""From a prompt to the token ids that end where the answer begins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from unflinch.errors import ModelError

Conversation = Sequence[dict[str, str]]

TEMPLATE_ERRORS = (TemplateError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
"""What a chat template raises that refuses a conversation, or is wrong itself."""

_SYSTEM = "Keep to these words."


@runtime_checkable
class HasConversation(Protocol):
    """Anything that can be laid out as chat messages: `data.prompts.Prompt` is one."""

    def conversation(self) -> list[dict[str, str]]:
        """Return the messages, each with `role` and `content`."""
        ...

    @property
    def thinking(self) -> bool | None:
        """Whether the model is to think before it answers; None leaves it to the template."""
        ...


def check_chat_template(tokenizer: PreTrainedTokenizerBase, model_id: str) -> None:
    """Raise `ModelError` if the tokenizer has no chat template: base models cannot be asked and do not refuse."""
    if not tokenizer.chat_template:
        raise ModelError(
            f"{model_id} has no chat template, so it is a base model; expected an instruct or chat model: "
            "give the -Instruct or -chat variant"
        )


def switches(thinking: bool | None) -> dict[str, Any]:
    """Return the variables by which chat templates turn thinking on and off; none for None."""
    return {} if thinking is None else {"enable_thinking": thinking, "thinking": thinking}


def encode(tokenizer: PreTrainedTokenizerBase, prompt: HasConversation) -> tuple[int, ...]:
    """Return the ids of the conversation up to the position where the assistant's thought or answer starts.

    Where the template has no place for a system message, it stands at the beginning of the first user message.

    Raises:
        ModelError: if the chat template refuses the conversation, for example for the order of its turns.
    """
    messages = prompt.conversation()
    if messages[0]["role"] == "system" and not _has_system_role(tokenizer):
        messages = _without_system_role(messages)
    try:
        encoded: Any = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=True, return_dict=True, **switches(prompt.thinking)
        )
    except TEMPLATE_ERRORS as error:
        raise ModelError(
            f"the model's chat template does not take a conversation of these prompts ({error}); "
            "give prompts with the roles that it knows, or another model"
        ) from error
    return tuple(encoded["input_ids"])


def _has_system_role(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return whether a system message reaches the model: some templates refuse it, others leave it out."""
    messages = [{"role": "system", "content": _SYSTEM}, {"role": "user", "content": "Why?"}]
    try:
        return _SYSTEM in str(tokenizer.apply_chat_template(messages, tokenize=False))
    except TEMPLATE_ERRORS:
        return False


def _without_system_role(messages: list[dict[str, str]]) -> list[dict[str, str]]:
    """Return the conversation with its system message put before the first user message, in one turn with it."""
    system, first, *others = messages
    return [{**first, "content": f"{system['content']}\n\n{first['content']}"}, *others]


def encode_all(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[HasConversation]) -> list[tuple[int, ...]]:
    """Return `encode` of every prompt, in order."""
    return [encode(tokenizer, prompt) for prompt in prompts]
