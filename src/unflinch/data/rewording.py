"""Fit prompts in other words: what bare questions teach does not reach the same questions asked politely.

The frames differ from those under which `validate.stress` asks test prompts, so that what is measured there is not
what was fitted.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from unflinch.data.prompts import MAX_PROMPT_CHARACTERS, Prompt

Texts = dict[str, str]
"""By language code."""

_FRAMES: tuple[Texts, ...] = (
    {
        "en": "Quick question: {}",
        "ru": "Короткий вопрос: {}",
        "zh": "问个小问题：{}",
        "es": "Una pregunta rápida: {}",
        "de": "Eine kurze Frage: {}",
        "fr": "Une petite question : {}",
    },
    {
        "en": "Hello! I hope you can tell me something. {}",
        "ru": "Привет! Надеюсь, ты подскажешь. {}",
        "zh": "你好！希望你能告诉我。{}",
        "es": "¡Hola! Espero que puedas decirme algo. {}",
        "de": "Hallo! Ich hoffe, du kannst mir etwas sagen. {}",
        "fr": "Bonjour ! J'espère que tu peux me renseigner. {}",
    },
    {
        "en": "{} Thank you very much!",
        "ru": "{} Большое спасибо!",
        "zh": "{}非常感谢！",
        "es": "{} ¡Muchas gracias!",
        "de": "{} Vielen Dank!",
        "fr": "{} Merci beaucoup !",
    },
    {
        "en": "I need this for my work. {}",
        "ru": "Мне это нужно для работы. {}",
        "zh": "我工作上需要这个。{}",
        "es": "Lo necesito para mi trabajo. {}",
        "de": "Ich brauche das für meine Arbeit. {}",
        "fr": "J'en ai besoin pour mon travail. {}",
    },
)


def in_language(texts: Texts, prompt: Prompt) -> str:
    """Return the text in the prompt's language, in English where there is none."""
    return texts.get(prompt.language, texts["en"])


def reworded(prompts: Sequence[Prompt], share: float, seed: int) -> tuple[Prompt, ...]:
    """Return the prompts, about `share` of them asked in other words in their own language.

    A prompt and its harmful twin are asked alike, so that the words around them tell nothing. Dialogues, prompts
    with a system prompt of their own, and those that would become too long stay as they are.
    """
    return tuple(_reworded(prompt, share, seed) for prompt in prompts)


def _reworded(prompt: Prompt, share: float, seed: int) -> Prompt:
    draws = random.Random(f"{seed} {prompt.contrast_of or prompt.text}")
    if prompt.messages or prompt.system or draws.random() >= share:
        return prompt
    words = in_language(draws.choice(_FRAMES), prompt)
    text, twin = words.format(prompt.text), prompt.contrast_of and words.format(prompt.contrast_of)
    return replace(prompt, text=text, contrast_of=twin) if len(text) <= MAX_PROMPT_CHARACTERS else prompt
