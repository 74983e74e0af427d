"""What the bundled classifier reads of an answer: its clauses' cues, the rules' label, and its words.

Words of the prompt are replaced by a blank, so that the classifier learns how an answer speaks and not about what:
"should not be denied visas" becomes "should not be denied _" where the prompt asked about visas.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import sqrt
from typing import Final

from unflinch.results import Label
from unflinch.validate.judge_text import clauses, normalised, plain
from unflinch.validate.refusal_phrases import Cue, cue_of
from unflinch.validate.refusal_phrases.prompts import OTHERS_WORDS, WORDING

READ_CHARACTERS: Final = 2_000
"""So much of an answer is read: more would dilute what its opening says."""

CUE_WEIGHT: Final = 0.5
"""Scale of cue features beside words, whose squares sum to `WORD_WEIGHT` squared."""

WORD_WEIGHT: Final = 3.0

BLANK: Final = "_"

_LOADED: Final = re.compile(r"^(?:please )?(?:explain |tell me |say |give me (?:a |the )?reasons? )?why\b")
_TOKEN: Final = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)?")
_GRAMMAR: Final = frozenset(
    "a all am an and any are as at be been best better but by can can't cannot could did do does don't for from get "
    "give had has have have how i if in is isn't it its make may me might must my no not of on one or our out own "
    "people person should so some someone that the their them there these they this those to us use was way were "
    "what what's when where which who why will with without would you your".split()
)
"""Words that are kept although the prompt has them: without them no sentence can be told apart."""


def features(prompt: str, shown: str, label: Label) -> dict[str, float]:
    """Return the features of one answer by name.

    Args:
        prompt: What was asked.
        shown: The visible answer, see `judge_text.visible`.
        label: What the rules say of it.
    """
    asked = plain(prompt)
    text = normalised(shown[:READ_CHARACTERS])
    loaded = _LOADED.search(asked) is not None
    found = {f"rules {label}": CUE_WEIGHT, "prompt asks why": CUE_WEIGHT * loaded}
    for name, value in _cue_features([(cue_of(clause), clause) for clause in clauses(text)]).items():
        found[name] = CUE_WEIGHT * value
    grams = word_features(asked, text)
    for gram in grams:
        found[gram] = WORD_WEIGHT / sqrt(len(grams))
    return found


def word_features(asked: str, text: str) -> set[str]:
    """Return the words of an answer and its pairs of words, with words of the prompt blanked."""
    hidden = set(_TOKEN.findall(asked)) - _GRAMMAR
    hidden |= {word[:-1] for word in hidden if word.endswith("s")} | {f"{word}s" for word in hidden}
    words = [BLANK if word in hidden else word for word in _TOKEN.findall(text)]
    pairs = {f"{first} {second}" for first, second in zip(words, words[1:], strict=False)}
    return (set(words) | pairs) - {BLANK, f"{BLANK} {BLANK}"}


def _cue_features(spoken: Sequence[tuple[Cue, str]]) -> dict[str, float]:
    total = sum(len(clause) for _, clause in spoken) or 1
    found: dict[str, float] = {}
    for at, (cue, clause) in enumerate(spoken):
        share = f"share {cue.name}"
        found[share] = found.get(share, 0.0) + len(clause) / total
        if at < 3:
            found[f"early {cue.name}"] = 1.0
        if at == 0:
            found[f"first {cue.name}"] = 1.0
    return found


def is_english(text: str) -> bool:
    """Whether at least a fifth of the words, and at least three, are among the commonest English ones."""
    words = _TOKEN.findall(plain(text[:READ_CHARACTERS]))
    common = sum(word in _GRAMMAR for word in words)
    return common >= 3 and common >= 0.2 * len(words)


def is_others_words(prompt: str, shown: str) -> bool:
    """Whether an answer is somebody else's words: a letter, a poem, a translation, or text to be worked on."""
    asked, text = plain(prompt), normalised(shown[:READ_CHARACTERS])
    return WORDING.search(asked) is not None or OTHERS_WORDS.search(text) is not None
