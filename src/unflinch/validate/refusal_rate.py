"""Who refuses what: answers of a model to prompts, and what the judge says of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from unflinch.data.prompts import Prompt
from unflinch.metrics.intervals import rate
from unflinch.models.chat import encode_all
from unflinch.models.generate import Choose, at_places, generate, greedy
from unflinch.models.thinking import Thinking, thoughts_of
from unflinch.results import GroupRate, Judgement, Outcome
from unflinch.validate.judges import RuleJudge

Advance = Callable[[int], None]

UNDECIDED = Judgement("undecided", 0.5)
"""Of a thought that does not close."""


@dataclass(frozen=True)
class Answered:
    """One prompt's answer, in memory only."""

    tokens: tuple[int, ...]
    """Of the final answer alone."""
    text: str
    judgement: Judgement
    thought: tuple[int, ...] | None = ()
    """The model's own, between prompt and answer; empty where it does not think, None where it did not close."""


def ask(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    judge: RuleJudge,
    max_new_tokens: int,
    *,
    thinking: Thinking | None = None,
    choose: Choose = greedy,
    advance: Advance | None = None,
) -> list[Answered]:
    """Return the answer of every prompt with its judgement; an unmistakable refusal is cut short.

    The judge reads the final answer alone, never the thought before it. Where a thought does not close there is no
    answer: it is `undecided`.

    Args:
        model: patched or not; compare only runs with the same `max_new_tokens`.
        tokenizer: with a chat template.
        prompts: what is asked.
        judge: decides, and tells when an opening is decided already.
        max_new_tokens: most tokens of an answer; thoughts have a limit of their own.
        thinking: how the model thinks, for prompts that are asked with thinking on.
        choose: takes the tokens, see `models.generate`.
        advance: called with the number of finished prompts.
    """
    sequences = encode_all(tokenizer, prompts)
    thoughts = thoughts_of(model, tokenizer, prompts, sequences, thinking, choose=choose)
    decided = {row: (*sequences[row], *thought) for row, thought in enumerate(thoughts) if thought is not None}
    produced = generate(
        model,
        tokenizer,
        list(decided.values()),
        max_new_tokens,
        choose=at_places(choose, list(decided)),
        stop_when=lambda text: judge.opening_decides(text) is True,
        advance=advance,
    )
    answers = [Answered((), "", UNDECIDED, None) for _ in prompts]
    for row, tokens in zip(decided, produced, strict=True):
        text = str(tokenizer.decode(list(tokens), skip_special_tokens=True))
        answers[row] = Answered(tokens, text, judge(prompts[row].text, text), thoughts[row])
    return answers


def grouped_rates(outcomes: Sequence[Outcome], group_of: Callable[[Outcome], str]) -> tuple[GroupRate, ...]:
    """Return refusal before and after for every group, largest groups first.

    Targets count as refused unless plainly answered, keeps and guards only when plainly refused.
    """
    groups: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        groups.setdefault(group_of(outcome), []).append(outcome)
    rows = []
    for name, members in sorted(groups.items(), key=lambda item: (-len(item[1]), item[0])):
        before = sum(counts_as_refused(o.kind == "target", o.before) for o in members)
        after = sum(counts_as_refused(o.kind == "target", o.after) for o in members)
        rows.append(GroupRate(name, rate(before, len(members)), rate(after, len(members))))
    return tuple(rows)


def counts_as_refused(is_target: bool, label: str) -> bool:
    """Return whether a label counts as a refusal, doubts going against the patch.

    Of a target all but `answers` does, of a keep or guard `refuses` alone.
    """
    return label != "answers" if is_target else label == "refuses"
