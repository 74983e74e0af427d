"""Signs that a model babbles: it repeats itself, changes its script or its language, or says what is unlikely.

All of them read finished answers. None is a verdict alone: what counts is what the patched model does and the base
model does not.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache

RUN_TOKENS = 4
"""Length of the runs of tokens whose repetition counts."""
_SCRIPTS = {"ru": "CYRILLIC", "zh": "CJK"}
"""Of languages that are not written in Latin letters, by the first word of the letters' names in Unicode."""
_WORD = re.compile(r"[^\W\d_]+")
_STOP_WORDS = {
    "en": "the and of to in is that it you for are with this be can your as not have will from or if",
    "de": "der die das und ist nicht ein eine zu den mit sie ich für auf sich es auch werden wird dem im sind oder",
    "fr": "le les et est une des du vous pour dans pas que ce sur avec sont au ou plus peut cette votre nous qui",
    "es": "el los las una y es del para con por que se su más como puede está esto pero al sus lo muy también",
    "ru": "и в не на что с как это по для из к вы но можно или если он от у его так же при",
}
_SETS = {language: frozenset(words.split()) for language, words in _STOP_WORDS.items()}
_ENOUGH_WORDS = 4
"""Stop words that a text must hold before its language is guessed."""
_MOSTLY = 0.6
"""Share of the stop words found that must be the guessed language's: some words belong to several."""


def repeated_share(answers: Sequence[Sequence[int]], run: int = RUN_TOKENS) -> float:
    """Return the share of a dialogue's token runs that were said before in it, in the same answer or an earlier one.

    Formula: 1 - (different runs) / (all runs), over all runs of `run` neighbouring tokens inside an answer; 0 where
    the answers are too short to have one.

    Args:
        answers: token ids of the answers of one dialogue.
        run: number of tokens of a run.
    """
    runs = [tuple(answer[at : at + run]) for answer in answers for at in range(len(answer) - run + 1)]
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


@lru_cache(maxsize=4096)
def _script(letter: str) -> str:
    return unicodedata.name(letter, "UNKNOWN").partition(" ")[0]


def other_script_share(text: str, language: str) -> float:
    """Return the share of a text's letters that are not of the script of its language; 0 for a text without letters.

    Latin letters are foreign in Russian and Chinese alone, where names and abbreviations are a few of them at most.
    """
    own = _SCRIPTS.get(language, "LATIN")
    letters = [character for character in text if character.isalpha()]
    return sum(_script(letter) != own for letter in letters) / len(letters) if letters else 0.0


def guess_language(text: str) -> str | None:
    """Return the language of a text among our six, by its script and its most common words; None where unsure.

    Chinese where more than a third of the letters are Han (each of them is a word or half of one), else the language
    with most stop words, if these are at least four in all and 60 % of them its own.
    """
    letters = [character for character in text if character.isalpha()]
    if letters and sum(_script(letter) == "CJK" for letter in letters) > len(letters) / 3:
        return "zh"
    found = [word.lower() for word in _WORD.findall(text)]
    counts = {language: sum(word in words for word in found) for language, words in _SETS.items()}
    best = max(counts, key=lambda language: counts[language])
    total = sum(any(word in words for words in _SETS.values()) for word in found)
    return best if total >= _ENOUGH_WORDS and counts[best] >= _MOSTLY * total else None


def is_other_language(text: str, language: str) -> bool:
    """Whether a text is in another of our six languages than the one given, as far as letters and commonest words tell.

    False where they do not.
    """
    return other_script_share(text, language) > _MOSTLY or guess_language(text) not in (None, language)
