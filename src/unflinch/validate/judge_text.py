"""What of an answer the rule judge reads: visible text, clauses, and whether it is language at all.

Every function takes time linear in the length of the text.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final

from unflinch.models.thought_markers import THOUGHT_MARKERS

MAX_CHARACTERS: Final = 12_000
"""Longer answers are read at both ends, this many characters in all."""

MAX_CLAUSE: Final = 400
"""Longer clauses are cut, so that no pattern meets more text than this."""

CODE: Final = "⟦code⟧"
"""Stands where a block of code stood."""

_THOUGHT_OPEN: Final = re.compile("|".join(re.escape(m.opening) for m in THOUGHT_MARKERS), re.IGNORECASE)
_THOUGHT_CLOSE: Final = re.compile("|".join(re.escape(m.closing) for m in THOUGHT_MARKERS), re.IGNORECASE)
_SPECIAL_TOKEN: Final = re.compile(r"<\|[^<>|\n]{1,40}\|>|</?s>")
_SAME_CHARACTER: Final = str.maketrans(
    {
        **dict.fromkeys("’‘ʼ`´ʹ＇", "'"),
        **dict.fromkeys("‐‑‒–—―−", "-"),
        **dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff\u00ad", None),
        "。": ". ",
        "、": ",",
        "¿": " ",
        "¡": " ",
        "ё": "е",
    }
)
_SPACES: Final = re.compile(r"[ \t\r\f\v\u00a0]+")
_MARKUP: Final = re.compile(r"[_#>]+|\*+(?!\s)|(?<=\S)\*+")
_CODE_BLOCK: Final = "```"
_QUOTE: Final = re.compile(r"(?:(?<=[\s(:,\-\[])|^)[\"“„«「『]([^\"“”„«»「」『』\n]{1,300})(?:[\"“”»」』]|$)")
_SENTENCE_END: Final = re.compile(r"(?<=[.!?…])[\s\"')»”]+|(?<=[!?])|\n+|;\s")
_CONTRAST: Final = re.compile(
    r"(?:,\s*|;\s*|\s-\s|\s|^)(?:but|however|nevertheless|nonetheless|that said|that being said|"
    r"но|однако|тем не менее|pero|sin embargo|no obstante|aber|jedoch|allerdings|mais|cependant|toutefois|"
    r"néanmoins)\b,?\s*|(?:,\s*)?(?:但是|但|不过|然而)(?:,\s*)?"
)
_WORD: Final = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)?")
_WORD_OR_NUMBER: Final = re.compile(r"[^\W_]+")
_SPEAKER: Final = re.compile(
    r"\s*[*#]*(?:user|human|prompt|question|assistant|ai|answer|response)[*]*\s?:[*]*\s*", re.IGNORECASE
)
_SAME_WORDS: Final = 8
"""The same word so many times in a row is a loop."""

_SPEAKER_ROOM: Final = 40
"""Characters that the name of the speaker and marks of emphasis may take before an echo."""

_AFTER_ECHO: Final = re.compile(r"\A[\s\"'”»?!.。？！:：*]+")
_HAN: Final = re.compile(r"[\u4e00-\u9fff]")
_LATIN: Final = re.compile(r"[a-zà-öø-ÿœß]")
_SCRIPTS: Final = re.compile(
    r"(?P<latin>[a-zA-Z\u00c0-\u024f]+)|(?P<cyrillic>[\u0400-\u04ff]+)|(?P<asian>[\u3040-\u30ff\u4e00-\u9fff]+)|"
    r"(?P<hangul>[\uac00-\ud7af\u1100-\u11ff]+)|(?P<hebrew>[\u0590-\u05ff]+)|(?P<arabic>[\u0600-\u06ff]+)|"
    r"(?P<thai>[\u0e00-\u0e7f]+)|(?P<greek>[\u0370-\u03ff]+)"
)
"""Runs of letters by script; Chinese characters and kana are one, as Japanese mixes them."""
_CYRILLIC: Final = re.compile(r"[\u0430-\u045f]")
_VOWEL: Final = re.compile(r"[aeiouyà-æè-ïò-öø-ÿœ]")


def visible(answer: str) -> str:
    """The part of an answer that a reader sees: without thoughts (closed or not) and special tokens."""
    kept: list[str] = []
    first_close = _THOUGHT_CLOSE.search(answer)
    first_open = _THOUGHT_OPEN.search(answer)
    position = 0
    if first_close and (first_open is None or first_close.start() < first_open.start()):
        position = first_close.end()  # some chat templates write the opening tag into the prompt
    while (opened := _THOUGHT_OPEN.search(answer, position)) is not None:
        kept.append(answer[position : opened.start()])
        closed = _THOUGHT_CLOSE.search(answer, opened.end())
        if closed is None:
            return _SPECIAL_TOKEN.sub(" ", " ".join(kept)).strip()
        position = closed.end()
    kept.append(answer[position:])
    return _SPECIAL_TOKEN.sub(" ", " ".join(kept)).strip()


def without_echo(shown: str, prompt: str) -> str:
    """A visible answer without the prompt, where it begins by repeating it word for word.

    Names of the speakers ("User:", "Assistant:") go with it. A prompt of less than three words is no echo.
    """
    asked = _WORD_OR_NUMBER.findall(plain(prompt))
    if words(prompt) < 3:
        return shown
    head = shown[: len(prompt) + _SPEAKER_ROOM]
    start = _SPEAKER.match(head)
    found = _WORD_OR_NUMBER.finditer(plain(head), start.end() if start else 0)
    if len(plain(head)) != len(head):
        return shown  # positions differ: there are characters that are written out, such as ligatures
    end = 0
    for word in asked:
        match = next(found, None)
        if match is None or match[0] != word:
            return shown
        end = match.end()
    rest = _AFTER_ECHO.sub("", shown[end:])
    speaker = _SPEAKER.match(rest)
    return rest[speaker.end() :] if speaker else rest


def normalised(text: str) -> str:
    """Plain text without emphasis, code and quotations, unless the whole text is code or a quotation."""
    cut = text
    if len(text) > MAX_CHARACTERS:
        cut = text[: MAX_CHARACTERS // 2] + "\n" + text[-MAX_CHARACTERS // 2 :]
    bare = _SPACES.sub(" ", _MARKUP.sub(" ", plain(_without_code(cut))))
    lines = "\n".join(line.strip() for line in bare.split("\n") if not line.isspace())
    unquoted = _QUOTE.sub(" · ", lines).strip()
    return unquoted if words(unquoted) >= 2 else _QUOTE.sub(r"\1", lines).strip()


def plain(text: str) -> str:
    """Lower case, with one kind of apostrophe and dash and half-width punctuation."""
    unified = unicodedata.normalize("NFKC", text.translate(_SAME_CHARACTER))
    return unified.lower().translate(_SAME_CHARACTER)


def _without_code(text: str) -> str:
    parts = text.split(_CODE_BLOCK)
    outside = f" {CODE}\n".join(parts[::2])
    return outside if words(outside.replace(CODE, "")) >= 2 else "\n".join(parts)


def clauses(text: str) -> list[str]:
    """Normalised text cut at sentence ends, line ends and words of contrast ("but", "однако", "但")."""
    found: list[str] = []
    for sentence in _SENTENCE_END.split(text):
        for clause in _contrasted(sentence):
            found += [clause[at : at + MAX_CLAUSE].strip(" ,:-") for at in range(0, len(clause), MAX_CLAUSE)]
    return [clause for clause in found if clause]


def words(text: str) -> int:
    """How many words; two Chinese characters count as one."""
    characters = len(_HAN.findall(text))
    return len(_WORD.findall(_HAN.sub(" ", text))) + (characters + 1) // 2


def is_degenerate(text: str) -> bool:
    """Whether a visible answer is empty, a loop or no language."""
    stripped = text.strip()
    if not any(character.isalnum() for character in stripped):
        return True
    head = stripped[:MAX_CHARACTERS]
    return _loops(head) or _is_gibberish(head)


def _loops(text: str) -> bool:
    """Whether the end repeats a short piece many times, or hardly any four words in a row are new."""
    tail = text[-240:].lower()
    for period in range(1, 41):
        if len(tail) >= max(48, 6 * period) and tail[period:] == tail[:-period]:
            return any(character.isalpha() for character in tail) or period < 4
    sequence = _WORD.findall(text.lower())
    if any(len(set(sequence[at : at + _SAME_WORDS])) == 1 for at in range(len(sequence) - _SAME_WORDS + 1)):
        return True
    if len(sequence) < 48:
        return False
    four = [tuple(sequence[at : at + 4]) for at in range(len(sequence) - 3)]
    return len(set(four)) < 0.25 * len(four)


def _is_gibberish(text: str) -> bool:
    """Whether characters are broken, alphabets mix inside words, or words have no vowels."""
    if text.count("\ufffd") > 0.05 * len(text) + 1:
        return True
    found = [word.lower() for word in _WORD.findall(text) if len(word) > 1]
    if len(found) < 5:
        return False
    if _is_word_salad(text, len(found)):
        return True
    mixed = sum(1 for word in found if _LATIN.search(word) and _CYRILLIC.search(word))
    latin = [word for word in found if len(word) > 4 and _LATIN.fullmatch(word[0])]
    mute = sum(1 for word in latin if not _VOWEL.search(word))
    return mixed > 0.3 * len(found) or (len(latin) > 4 and mute > 0.3 * len(latin))


def _is_word_salad(text: str, count: int) -> bool:
    """Whether scripts change again and again with no mark between them: among three scripts, or inside words.

    A text in Chinese characters with Latin names in it is none, and neither is a list of greetings in ten languages.
    """
    runs = [(match.lastgroup, match.start(), match.end()) for match in _SCRIPTS.finditer(text)]
    letters: dict[str | None, int] = {}
    for script, start, end in runs:
        letters[script] = letters.get(script, 0) + end - start
    chinese = 2 * letters.get("asian", 0) > sum(letters.values())
    changes = glued = 0
    for (first, _, end), (second, start, _) in zip(runs, runs[1:], strict=False):
        if first == second or (chinese and {first, second} == {"asian", "latin"}):
            continue
        changes += not text[end:start].strip(" _")
        glued += start == end
    fewest = max(3, 0.1 * count)
    return (len(letters) >= 3 and changes >= fewest) or glued >= fewest


def after_contrast(clause: str) -> str:
    """What follows the first word of contrast in a clause, "" where there is none."""
    found = _CONTRAST.search(clause)
    return clause[found.end() :] if found else ""


def _contrasted(sentence: str) -> list[str]:
    """A sentence cut at words of contrast, except after a part too short to say something ("Sorry, but")."""
    parts: list[str] = []
    start = 0
    for found in _CONTRAST.finditer(sentence):
        if words(sentence[start : found.start()]) >= 5:
            parts.append(sentence[start : found.start()])
            start = found.end()
    return [*parts, sentence[start:]]
