"""A loaded model as lm-eval asks it, patched or not: contexts read once, batches sorted, answers kept as they come.

Imports lm-eval, which comes with the extra `bench`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from lm_eval.api.model import TemplateLM
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from unflinch.errors import ModelError
from unflinch.models.batches import Ids, shared_prefix_length
from unflinch.models.chat import TEMPLATE_ERRORS
from unflinch.models.continuations import Choices, grouped, likelihoods
from unflinch.models.forward import Prefixes
from unflinch.models.generate import generate
from unflinch.validate.answer_log import AnswerLog

_WRITTEN_TOGETHER = 32
"""Answers that are written, and kept, as one batch."""
_READ_TOGETHER = 4096
"""Most tokens of prompts, without their common beginning, that are read at once before answers are written."""


class BenchmarkModel(TemplateLM):  # type: ignore[misc] # lm-eval has no types
    """What lm-eval needs of a model: log-likelihoods of continuations, and greedy answers up to a stop."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        log: AnswerLog | None = None,
        advance: Callable[[int], None] | None = None,
    ) -> None:
        """Ask the model as it is when the questions come.

        Args:
            model: the model, patched or not.
            tokenizer: its tokenizer.
            log: answers of before, and where new ones are kept.
            advance: called with the number of requests that were answered.
        """
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        self._log = log or AnswerLog()
        self._advance = advance or (lambda _count: None)
        self._most = int(getattr(model.config.get_text_config(), "max_position_embeddings", 0) or 0)

    @property
    def eot_token_id(self) -> int:
        """Id of the end of a text."""
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        """Id that stands for an empty context."""
        first = self.tokenizer.bos_token_id
        return self.eot_token_id if first is None else int(first)

    @property
    def tokenizer_name(self) -> str:
        """Name by which lm-eval tells prompts of different chat templates apart."""
        return str(self.tokenizer.name_or_path)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Return the ids of a text; a chat template has written the special tokens already."""
        first = self.tokenizer.bos_token
        written = bool(first) and string.startswith(str(first))
        special = not written if add_special_tokens is None else add_special_tokens
        return list(self.tokenizer.encode(string, add_special_tokens=special))

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Return a conversation as the text that the model was trained on.

        Raises:
            ModelError: if the template refuses it.
        """
        try:
            return str(
                self.tokenizer.apply_chat_template(
                    chat_history, tokenize=False, add_generation_prompt=add_generation_prompt
                )
            )
        except TEMPLATE_ERRORS as error:
            raise ModelError(
                f"the model's chat template does not take a benchmark question ({error}); leave out --chat"
            ) from error

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """Return log-likelihoods of continuations, without lm-eval's progress bar."""
        return list(super().loglikelihood(requests, disable_tqdm=True))

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **_: Any
    ) -> list[tuple[float, bool]]:
        """Return log-probability and greediness of every continuation, in order."""
        wanted: dict[tuple[int, ...], dict[tuple[int, ...], None]] = {}
        pairs = [self._cut(context, continuation) for _, context, continuation in requests]
        for context, continuation in pairs:
            wanted.setdefault(context, {})[continuation] = None
        items = [Choices(context, tuple(continuations)) for context, continuations in wanted.items()]
        found: dict[tuple[tuple[int, ...], tuple[int, ...]], tuple[float, bool]] = {}
        prefixes: Prefixes = {}
        prefix: tuple[int, ...] = ()
        for group in grouped(items):
            batch = [items[row] for row in group.rows]
            if batch[0].context[: group.prefix] != prefix:
                prefixes, prefix = {}, batch[0].context[: group.prefix]
            asked = [[item.context, item.continuations] for item in batch]
            answers = self._log.get(asked)
            if answers is None:
                scored = likelihoods(self.model, batch, group.prefix, prefixes)
                answers = [[[one.log_probability, one.greedy] for one in row] for row in scored]
                self._log.add(asked, answers)
            for item, row in zip(batch, answers, strict=True):
                for continuation, (score, greedy) in zip(item.continuations, row, strict=True):
                    found[item.context, continuation] = (float(score), bool(greedy))
            self._advance(sum(len(item.continuations) for item in batch))
        return [found[pair] for pair in pairs]

    def _cut(self, context: Sequence[int], continuation: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the pair with the beginning of the context left out where the model cannot read as much."""
        room = self._most - len(continuation) if self._most else len(context)
        return tuple(context[-max(1, room) :]), tuple(continuation)

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = True) -> list[str]:
        """Return the greedy answer to every request, up to the first of its stop strings."""
        answers: list[str] = [""] * len(requests)
        asked = [(self.tok_encode(text), options) for text, options in (request.args for request in requests)]
        order = sorted(range(len(asked)), key=lambda place: (-len(asked[place][0]), place))
        for start in range(0, len(order), _WRITTEN_TOGETHER):
            places = order[start : start + _WRITTEN_TOGETHER]
            options = asked[places[0]][1]
            batch = [asked[place][0] for place in places]
            key = [batch, options]
            written = self._log.get(key)
            if written is None:
                written = self._written(batch, options["until"], int(options["max_gen_toks"]))
                self._log.add(key, written)
            for place, text in zip(places, written, strict=True):
                answers[place] = text
            self._advance(len(places))
        return answers

    def _written(self, batch: Sequence[Ids], stops: Sequence[str], most: int) -> list[str]:
        room = max(1, self._most - most) if self._most else max(map(len, batch))
        prompts = [ids[-room:] for ids in batch]
        longest = max(map(len, prompts))
        own = longest - shared_prefix_length(prompts, 1)
        answers = generate(
            self.model,
            self.tokenizer,
            prompts,
            most,
            stop_when=lambda text: any(stop in text for stop in stops),
            batch_tokens=max(1, _READ_TOGETHER // own) * longest,
        )
        return [_before(stops, str(self.tokenizer.decode(list(ids), skip_special_tokens=True))) for ids in answers]

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = True) -> list[float]:
        """Raise: none of the benchmarks asks for the likelihood of a whole text."""
        raise NotImplementedError("perplexity of whole texts is measured by `validate`, not through lm-eval")


def _before(stops: Sequence[str], text: str) -> str:
    return text[: min([len(text), *(place for stop in stops if (place := text.find(stop)) >= 0)])]
