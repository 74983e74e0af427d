"""Patterns of refusal, one file a language; to add a language, write its file and name it here."""

from __future__ import annotations

import re
from typing import Final

from unflinch.validate.refusal_phrases.chinese import CHINESE
from unflinch.validate.refusal_phrases.cues import Cue, combined
from unflinch.validate.refusal_phrases.english import ENGLISH
from unflinch.validate.refusal_phrases.french import FRENCH
from unflinch.validate.refusal_phrases.german import GERMAN
from unflinch.validate.refusal_phrases.russian import RUSSIAN
from unflinch.validate.refusal_phrases.spanish import SPANISH

__all__ = ["CUES", "Cue", "cue_of"]

CUES: Final[dict[Cue, re.Pattern[str]]] = combined((ENGLISH, RUSSIAN, CHINESE, SPANISH, GERMAN, FRENCH))
"""The compiled patterns of all languages, strongest cue first."""


def cue_of(clause: str) -> Cue:
    """What one clause does: the strongest cue that holds, `SAYS` where none does."""
    return next((cue for cue, pattern in CUES.items() if pattern.search(clause)), Cue.SAYS)
