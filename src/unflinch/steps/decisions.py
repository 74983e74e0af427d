"""Where each prompt's refusal is decided: at the first token of the answer, or later ("Ich kann" + "nicht")."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from transformers import PreTrainedTokenizerBase

from unflinch.data.prompts import Prompt
from unflinch.metrics.refusal_score import Decision, RefusalOpenings
from unflinch.models.chat import encode
from unflinch.steps.baseline import Asked
from unflinch.validate.judges import RuleJudge

RefusalPath = tuple[int, ...]

_UNKNOWN = "und"


def decisions(
    tokenizer: PreTrainedTokenizerBase,
    asked: Sequence[Asked],
    openings: RefusalOpenings,
    unasked: Sequence[Prompt] = (),
) -> list[Decision]:
    """Return where the refusal of every prompt is decided, in order: behind the thought, where the model thinks.

    A refusal whose first token also opens plain answers is decided later, and a score of first tokens is blind to it:
    such a prompt gets its own path, up to the token that makes a refusal of it. A prompt that the model does not
    refuse, or was not asked, gets the usual path of its language where refusals of that language are mostly decided
    late.

    Args:
        tokenizer: of the model.
        asked: prompts, with what the base model did with them; none of them undecided.
        openings: first tokens that open refusals.
        unasked: prompts that follow in the result, of which nothing is known; asked without thinking.
    """
    late = {row: _path(tokenizer, a) for row, a in enumerate(asked) if a.refused and not openings.deciding[a.tokens[0]]}
    usual = _usual_paths(asked, late)
    found = []
    for row, a in enumerate(asked):
        path = late.get(row, ()) if a.refused else usual.get(a.prompt.language, ())
        found.append(Decision((*a.before_answer(tokenizer), *path[:-1]), path))
    for prompt in unasked:
        path = usual.get(prompt.language, ())
        found.append(Decision((*encode(tokenizer, prompt), *path[:-1]), path))
    return found


def _path(tokenizer: PreTrainedTokenizerBase, asked: Asked) -> RefusalPath:
    """Return the shortest beginning of the answer that is judged a refusal."""
    judge = RuleJudge()
    for end in range(1, len(asked.tokens)):
        text = str(tokenizer.decode(list(asked.tokens[:end]), skip_special_tokens=True))
        if judge(asked.prompt.text, text).label == "refuses":
            return asked.tokens[:end]
    return asked.tokens


def _usual_paths(asked: Sequence[Asked], late: Mapping[int, RefusalPath]) -> dict[str, RefusalPath]:
    """Return, for languages in which most refusals are decided late, the commonest path; of equals the shortest."""
    refused = Counter(a.prompt.language for a in asked if a.refused)
    paths: dict[str, Counter[RefusalPath]] = {}
    for row, path in late.items():
        paths.setdefault(asked[row].prompt.language, Counter())[path] += 1
    return {
        language: min(found, key=lambda path: (-found[path], len(path), path))
        for language, found in paths.items()
        if language != _UNKNOWN and 2 * found.total() > refused[language]
    }
