"""New harmless prompts, written by a language model behind an endpoint and screened here."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from unflinch.chat_endpoint import ChatEndpoint
from unflinch.data.generate_prompts import (
    FEWEST_CHARACTERS,
    MOST_CHARACTERS,
    Cell,
    GeneratedPrompts,
    GenerationCounts,
    default_categories,
    example_pool,
    examples,
    read_prompts,
    request_text,
)
from unflinch.data.mine import write_prompts
from unflinch.data.near_duplicates import NearDuplicates
from unflinch.data.prompts import Prompt, load_prompts
from unflinch.data.screening import Screen
from unflinch.data.splits import PromptSets
from unflinch.errors import EndpointError, PromptSetError
from unflinch.options import GenerateOptions
from unflinch.steps.progress import Progress, counter
from unflinch.validate.babble import is_other_language
from unflinch.validate.judge_text import is_degenerate, visible

SAME_WORDS = 0.7
"""Jaccard similarity of the sets of words from which two prompts are near duplicates."""
FRUITLESS_REPLIES = 3
"""After so many replies in a row of which nothing was kept, a category and language is given up."""
UNREADABLE_REPLIES = 3
"""If so many first replies list no prompts, the model is not asked any more."""
MAX_REPLY_TOKENS = 2048
TEMPERATURE = 1.0
"""Of the model's sampling: at lower ones it repeats itself."""


@dataclass
class _State:
    """What changes while prompts come in."""

    out: Path
    screen: Screen
    known: NearDuplicates
    prompts: list[Prompt]
    ends: Counter[str] = field(default_factory=Counter)
    """How many prompts came to which end, by the names of `GenerationCounts`."""
    fruitless: Counter[Cell] = field(default_factory=Counter)
    """Replies in a row of which nothing was kept."""

    def have(self, cell: Cell) -> list[str]:
        return [prompt.text for prompt in self.prompts if (prompt.category, prompt.language) == cell]


def generate_prompts(
    endpoint: ChatEndpoint, options: GenerateOptions, out: Path, sets: PromptSets, progress: Progress
) -> GeneratedPrompts:
    """Ask for new prompts until every category and language has as many as wanted, or its model has no new ones.

    The file is replaced as a whole after every reply of which something was kept. Prompts that it holds count,
    as they are.

    Args:
        endpoint: the model that writes them.
        options: what is wanted.
        out: `.jsonl` file, made if missing.
        sets: the bundled prompts: none of them is to come again, and none that is too close to keep or guard.
        progress: told how many are there.

    Raises:
        EndpointError: if the endpoint fails, or its model lists no prompts; what was kept is in the file.
        PromptFileError: if `out` is there and cannot be read.
    """
    before = load_prompts(out) if out.exists() else ()
    progress("generate: learning from the bundled prompts what is too close to a keep or guard prompt", 0, 0)
    known = NearDuplicates(SAME_WORDS, (prompt.text for prompt in (*sets.targets, *sets.ordinary, *before)))
    state = _State(out, Screen(sets), known, list(before))
    source = sets.targets if options.kind == "targets" else sets.ordinary
    pool = example_pool(source)
    categories = dict.fromkeys(options.categories or default_categories(source))
    cells = [(category, language) for category in categories for language in dict.fromkeys(options.languages)]
    advance = counter(progress, "generate: prompts", options.per_category * len(cells))
    advance(sum(min(len(state.have(cell)), options.per_category) for cell in cells))
    for turn in count():
        wanting = [
            cell
            for cell in cells
            if len(state.have(cell)) < options.per_category and state.fruitless[cell] < FRUITLESS_REPLIES
        ]
        if not wanting:
            break
        for cell in wanting:
            shown = examples(pool, *cell, turn)
            advance(_ask(endpoint, options, cell, shown, state))
    missing = {cell: options.per_category - len(state.have(cell)) for cell in cells}
    return GeneratedPrompts(
        tuple(state.prompts), len(before), _counts(state.ends), {c: n for c, n in missing.items() if n > 0}
    )


def _ask(endpoint: ChatEndpoint, options: GenerateOptions, cell: Cell, shown: tuple[str, ...], state: _State) -> int:
    """Make one request; return how many prompts of the reply were kept."""
    there = state.have(cell)
    text = request_text(options.kind, *cell, options.batch, shown, there)
    message = {"role": "user", "content": text}
    reply = endpoint.ask([message], visible, temperature=TEMPERATURE, max_tokens=MAX_REPLY_TOKENS)
    listed = read_prompts(reply)[: options.batch]
    state.ends.update(asked=options.batch, replies=1, received=len(listed), unreadable_replies=not listed)
    _check_readable(reply, state.ends)
    kept = 0
    for one in listed:
        end = "surplus" if len(there) + kept >= options.per_category else _end(one, cell, state)
        state.ends[end] += 1
        if end == "kept":
            kept += 1
            state.known.add(one)
            state.prompts.append(Prompt(one, *cell))
    state.fruitless[cell] = 0 if kept else state.fruitless[cell] + 1
    if kept:
        write_prompts(state.out, state.prompts)
    return kept


def _check_readable(reply: str, ends: Counter[str]) -> None:
    """Raise `EndpointError` if the model has listed no prompts at all in its first replies."""
    if ends["replies"] == ends["unreadable_replies"] == UNREADABLE_REPLIES:
        raise EndpointError(
            f"{UNREADABLE_REPLIES} replies list no prompts, the last one begins {reply[:60]!r}; expected a JSON array "
            "of strings: ask a larger model, or one that was trained to follow instructions"
        )


def _end(text: str, cell: Cell, state: _State) -> str:
    """Return what becomes of a prompt, as the field of `GenerationCounts` that counts it."""
    if not FEWEST_CHARACTERS <= len(text) <= MOST_CHARACTERS or is_degenerate(text) or not _is_prompt(text):
        return "malformed"
    if is_other_language(text, cell[1]):
        return "wrong_language"
    if state.screen.too_close(text):
        return "too_close"
    return "kept" if state.known.find(text) is None else "duplicates"


def _is_prompt(text: str) -> bool:
    """Whether a text can be a prompt at all: half of a surrogate pair cannot."""
    try:
        Prompt(text)
    except PromptSetError:
        return False
    return True


def _counts(found: Counter[str]) -> GenerationCounts:
    names = GenerationCounts.__dataclass_fields__
    return GenerationCounts(**{name: found[name] for name in names})
