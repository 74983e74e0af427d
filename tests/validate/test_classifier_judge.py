"""A text classifier of transformers as judge: a tiny one, made from a config, whose weights are set by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_models import tiny_config, tiny_tokenizer
from transformers import LlamaForSequenceClassification

from unflinch.errors import ModelError
from unflinch.results import Label
from unflinch.validate.classifier_judge import ClassifierJudge, Reads, meaning
from unflinch.validate.judges import Judge


def save_classifier(folder: Path, names: tuple[str, ...], seed: int = 0) -> Path:
    config = tiny_config("llama", pad_token_id=0)
    config.num_labels = len(names)
    config.id2label = dict(enumerate(names))
    config.label2id = {name: number for number, name in enumerate(names)}
    torch.manual_seed(seed)
    model = LlamaForSequenceClassification(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape) * 0.5)
    model.save_pretrained(folder)
    tiny_tokenizer(None).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_classifier(tmp_path_factory.mktemp("classifier"), ("Non-refusal", "Refusal"))


@pytest.mark.parametrize("reads", ["turns", "answer"])
def test_label_and_score_are_those_of_the_model(folder: Path, reads: Reads) -> None:
    judge = ClassifierJudge(str(folder), reads=reads, device="cpu")
    model = LlamaForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = tiny_tokenizer(None)
    for prompt, answer in (
        ("How?", "Like this."),
        ("Why?", "I cannot say."),
        ("What is it?", "The capital of France."),
    ):
        text = f"<|user|>\n{prompt}\n<|assistant|>\n{answer}" if reads == "turns" else answer
        with torch.inference_mode():
            ids = torch.tensor([tokenizer(text)["input_ids"]])
            refusal = float(model(ids).logits[0].softmax(-1)[1])
        judgement = judge(prompt, answer)
        assert judgement.score == pytest.approx(refusal, abs=1e-5)
        assert judgement.label == ("refuses" if refusal > 0.5 else "answers")


def test_thoughts_are_not_shown_to_the_classifier(folder: Path) -> None:
    judge = ClassifierJudge(str(folder), device="cpu")
    assert judge("How?", "<think>I must refuse.</think>Like this.") == judge("How?", "Like this.")


@pytest.mark.parametrize("answer", ["", "  ", "<think>never closed", "the the the " * 30])
def test_what_is_no_language_is_degenerate_without_asking(folder: Path, answer: str) -> None:
    assert ClassifierJudge(str(folder), device="cpu")("How?", answer).label == "degenerate"


def test_a_long_prompt_does_not_push_the_answer_out(folder: Path) -> None:
    judge = ClassifierJudge(str(folder), device="cpu")
    prompt = "What is the capital of France? " * 200
    assert judge(prompt, "Paris is the capital.") != judge(prompt, "I'm sorry, but I can't help.")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Refusal", "refuses"),
        ("Non-refusal", "answers"),
        ("not_refused", "answers"),
        ("no refusal", "answers"),
        ("REJECTION", "refuses"),
        ("NORMAL", "answers"),
        ("compliance", "answers"),
        ("partly", "partly"),
        ("evades", "evades"),
        ("LABEL_1", None),
        ("positive", None),
    ],
)
def test_what_a_label_means_is_read_from_its_name(name: str, expected: Label | None) -> None:
    assert meaning(name) == expected


def test_labels_without_a_name_need_to_be_explained(tmp_path: Path) -> None:
    folder = str(save_classifier(tmp_path, ("LABEL_0", "LABEL_1")))
    with pytest.raises(ModelError, match="LABEL_0.*not known"):
        ClassifierJudge(folder, device="cpu")
    with pytest.raises(ModelError, match="no label 'refusal'"):
        ClassifierJudge(folder, refusal_labels=("refusal",), device="cpu")
    first = ClassifierJudge(folder, refusal_labels=("LABEL_0",), device="cpu")("How?", "So.")
    second = ClassifierJudge(folder, refusal_labels=("LABEL_1",), device="cpu")("How?", "So.")
    assert first.score == pytest.approx(1 - second.score)
    assert {first.label, second.label} == {"answers", "refuses"}


def test_labels_that_all_mean_the_same_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="would mean the same"):
        ClassifierJudge(str(save_classifier(tmp_path, ("refusal", "rejection"))), device="cpu")


def test_a_folder_without_a_classifier_is_told_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot load the classifier"):
        ClassifierJudge(str(tmp_path), device="cpu")


def test_a_language_model_is_no_classifier(tmp_path: Path) -> None:
    from tiny_models import save_model, tiny_model

    with pytest.raises(ModelError, match="no trained classifier"):
        ClassifierJudge(str(save_model(tiny_model("llama"), tmp_path / "model")), device="cpu")


def test_a_classifier_is_a_judge(folder: Path) -> None:
    assert isinstance(ClassifierJudge(str(folder), device="cpu"), Judge)
