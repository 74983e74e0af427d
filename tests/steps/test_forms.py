"""Forms of the patch that cannot be measured are told of, and keep no other one from being measured."""

from __future__ import annotations

from typing import Any

import pytest
from tiny_models import tiny_model, tiny_tokenizer
from tiny_patches import random_patch

from unflinch.data.splits import TestPrompts
from unflinch.errors import NotFiniteError
from unflinch.metrics.intervals import rate
from unflinch.metrics.kl import kl_distribution
from unflinch.models.architecture import architecture_of
from unflinch.models.load import LoadedModel
from unflinch.options import ValidateOptions
from unflinch.robustness_results import FormResult
from unflinch.steps import forms
from unflinch.steps.forms import DIAL, Form, validate_forms
from unflinch.steps.progress import silent


def test_a_form_that_overflows_is_named_and_the_others_are_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = tiny_model("qwen2")
    loaded = LoadedModel(model, tiny_tokenizer(), architecture_of(model), "tiny", "tiny", None, "hash")

    none, still = rate(0, 1), kl_distribution([0.0])

    def measure(_panel: Any, form: Form) -> FormResult:
        if form.name == "adapter at 1.5":
            raise NotFiniteError("torch.float16")
        return FormResult(form.name, none, none, none, 0, still, still, None)

    monkeypatch.setattr(forms, "HeldOutPanel", lambda *_: None)
    monkeypatch.setattr(forms, "NUMBER_FORMATS", ())
    monkeypatch.setattr(forms, "measure", measure)
    report = validate_forms(loaded, random_patch(model), TestPrompts((), (), (), ()), ValidateOptions(), silent)
    dial = [f"adapter at {strength:g}" for strength in DIAL]
    assert [one.form for one in report.forms] == [*dial[:-1], "merged, float32"]
    assert list(report.not_measured) == ["adapter at 1.5"]
    assert "torch.float16 overflows" in report.not_measured["adapter at 1.5"]
