"""Texts that say the same in equal or nearly equal words."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from functools import cache, lru_cache
from math import ceil

# Han, kana, Thai, Lao, Burmese and Khmer are written without spaces between words.
_NO_GAPS = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\U00020000-\U0003ffff"
_TOKEN_RUN = re.compile(rf"([{_NO_GAPS}]+)|[^\s{_NO_GAPS}]+")


class NearDuplicates:
    """Finds the texts that share most of their words with a given one.

    Two texts are near duplicates if they are equal when normalised, or if |A ∩ B| / |A ∪ B| of their token sets
    (Jaccard similarity) is at least `similarity`.

    Args:
        similarity: in (0, 1].
        texts: those to compare with; their places count from 0.
    """

    def __init__(self, similarity: float, texts: Iterable[str] = ()) -> None:
        self._similarity = similarity
        self._tokens: list[frozenset[str]] = []
        self._equal: dict[str, int] = {}
        self._holding: defaultdict[str, list[int]] = defaultdict(list)
        for text in texts:
            self.add(text)

    def add(self, text: str) -> None:
        """Compare with this text too."""
        place, tokens = len(self._tokens), token_set(text)
        self._tokens.append(tokens)
        self._equal.setdefault(normalise_text(text), place)
        for token in tokens:
            self._holding[token].append(place)

    def find(self, text: str) -> int | None:
        """Return the place of an equal text, else of the first near duplicate, else None.

        Two texts that share a proportion t of their tokens share one of any n - ceil(t n) + 1 of the n tokens of the
        first: only texts with one of the rarest of these are compared.
        """
        equal = self._equal.get(normalise_text(text))
        if equal is not None:
            return equal
        tokens = token_set(text)
        rarest = sorted(tokens, key=lambda token: len(self._holding.get(token, ())))
        needed = rarest[: len(tokens) - ceil(self._similarity * len(tokens) - 1e-9) + 1]
        near = {place for token in needed for place in self._holding.get(token, ())}
        return next((p for p in sorted(near) if _jaccard(tokens, self._tokens[p]) >= self._similarity), None)


@lru_cache(maxsize=1 << 16)
def normalise_text(text: str) -> str:
    """Return `text` in NFKC and folded case, with every run of spaces and punctuation as one space.

    Letters, digits and combining marks stay, invisible format characters (zero-width space) go. A text of
    punctuation alone is returned as it is, without outer spaces.
    """
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return " ".join("".join(map(_word_character, folded)).split()) or folded.strip()


def token_set(text: str) -> frozenset[str]:
    """Return the words of the normalised text; of writing without spaces, the pairs of neighbours."""
    tokens: set[str] = set()
    for match in _TOKEN_RUN.finditer(normalise_text(text)):
        run = match[0]
        unspaced = match[1] is not None and len(run) > 1
        tokens.update((run[i : i + 2] for i in range(len(run) - 1)) if unspaced else (run,))
    return frozenset(tokens)


def _jaccard(left: frozenset[str], right: frozenset[str]) -> float:
    """Return the shared tokens as a proportion of all tokens of either; 0 where there are none."""
    shared = len(left & right)
    return shared / (len(left) + len(right) - shared) if shared else 0.0


@cache
def _word_character(character: str) -> str:
    """Return the character if words are made of it, nothing for a format character, else a space."""
    category = unicodedata.category(character)
    if category[0] in "LNM":
        return character
    return "" if category == "Cf" else " "
