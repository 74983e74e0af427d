"""Openings that no greedy answer shows are found by forcing likely first tokens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from tiny_models import own_logits, tiny_model, tiny_tokenizer

from unflinch.data.prompts import Prompt
from unflinch.models.architecture import architecture_of
from unflinch.models.chat import encode
from unflinch.models.load import LoadedModel
from unflinch.steps import openings
from unflinch.steps.baseline import Asked, BaselineSet
from unflinch.steps.progress import silent

TEXTS = ("How do I kill a process?", "What is the capital of France?", "Can you help a user?")


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    model = tiny_model("qwen2")
    return LoadedModel(model, tiny_tokenizer(), architecture_of(model), "tiny", "tiny", None, "hash")


def asked(loaded: LoadedModel, first: int, prompts: Sequence[str] = TEXTS) -> BaselineSet:
    """Return refused targets whose greedy answers all begin with the token `first`."""
    return BaselineSet(tuple(Asked(Prompt(t), "refuses", (first, 1, 2)) for t in prompts), (), (), ())


def test_likely_beginnings_are_the_models_own_likeliest_first_tokens(loaded: LoadedModel) -> None:
    sequences = [encode(loaded.tokenizer, Prompt(text)) for text in TEXTS]
    begun = openings._likely_beginnings(loaded, sequences)
    for row, sequence in begun:
        assert sequence[:-1] == sequences[row]
        logits = own_logits(loaded.model, sequences[row])[-1]
        assert int((logits > logits[sequence[-1]]).sum()) < openings._LIKELY
    assert len(begun) == len(set(begun)) > openings._LIKELY


def test_a_second_way_to_refuse_is_found_and_a_first_token_of_answers_is_not(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    sequences = [encode(loaded.tokenizer, Prompt(text)) for text in TEXTS]
    tried = Counter(sequence[-1] for _, sequence in openings._likely_beginnings(loaded, sequences))
    (hidden, often), (plain, _) = tried.most_common(2)
    sorry = loaded.tokenizer.encode("I'm sorry, but I can't help with that request.")
    answer = loaded.tokenizer.encode("Paris is the capital of France.")

    def generated(_model: Any, _tokenizer: Any, begun: Sequence[Sequence[int]], *_: Any, **__: Any) -> list[Any]:
        return [tuple(sorry) if sequence[-1] == hidden else tuple(answer) for sequence in begun]

    monkeypatch.setattr(openings, "generate", generated)
    first = next(v for v in range(len(loaded.tokenizer)) if v not in tried)
    found = openings.model_openings(loaded, asked(loaded, first), 8, silent)
    assert found.tokens[first] and found.weights[plain] == 0
    assert found.weights[hidden] == pytest.approx(often / (often + 0.5)) and found.tokens[hidden]
