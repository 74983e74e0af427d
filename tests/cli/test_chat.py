"""`unflinch chat` on a tiny random model, with stdin in place of a terminal."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from cli.fake_pipeline import Answer, TinyModel, Unflinch
from tiny_models import save_model, tiny_model

from unflinch.cli.console import visible
from unflinch.cli.conversation import Conversation, ask
from unflinch.data.prompts import Message, Prompt
from unflinch.models.chat import encode
from unflinch.models.load import LoadedModel, load_model
from unflinch.patch.attach import attached


@pytest.fixture(scope="module")
def loaded(tiny: TinyModel) -> LoadedModel:
    return load_model(str(tiny.folder), dtype="float32", device="cpu")


def own_answer(loaded: LoadedModel, *turns: str, max_tokens: int = 6) -> str:
    """What `generate` of transformers answers to the last of the turns."""
    roles = ["user", "assistant"] * len(turns)
    messages = tuple(Message(role, turn) for role, turn in zip(roles, turns, strict=False))
    ids = torch.tensor([encode(loaded.tokenizer, Prompt(turns[-1], messages=messages))])
    output = loaded.model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=max_tokens, pad_token_id=0
    )
    return str(loaded.tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True))


@pytest.fixture
def say(unflinch: Unflinch, tiny: TinyModel, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Answer]:
    """Hold a whole conversation: each line is one that a user types."""

    def talk(*lines: str, options: str = "") -> Answer:
        monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(lines)))
        fixed = "--max-tokens 6 --dtype float32 --device cpu"
        return unflinch("chat", tiny.folder, tiny.patch_folder.parent, *fixed.split(), *options.split())

    return talk


def test_lines_of_a_pipe_are_answered_plainly_by_the_patched_model(
    say: Callable[..., Answer], loaded: LoadedModel, tiny: TinyModel
) -> None:
    with attached(loaded.model, tiny.patch):
        first = own_answer(loaded, "How do I kill a process")
        second = own_answer(loaded, "How do I kill a process", first, "What is the capital")
    answer = say("How do I kill a process", "", "What is the capital")
    assert (answer.code, answer.out) == (0, visible(f"{first}\n{second}\n"))


def test_both_sides_answer_on_request(say: Callable[..., Answer], loaded: LoadedModel, tiny: TinyModel) -> None:
    with attached(loaded.model, tiny.patch):
        patched = own_answer(loaded, "How do I kill")
    original = own_answer(loaded, "How do I kill")
    assert patched != original
    assert say("/both", "How do I kill").out == visible(f"[patched]\n{patched}\n[original]\n{original}\n")
    assert say("/original", "How do I kill").out == visible(f"{original}\n")
    assert say("/original", "/patched", "How do I kill").out == visible(f"{patched}\n")


def test_strength_zero_is_the_original(say: Callable[..., Answer], loaded: LoadedModel) -> None:
    original = own_answer(loaded, "How do I kill")
    assert say("/strength 0", "How do I kill").out == visible(f"{original}\n")
    assert say("How do I kill", options="--strength 0").out == visible(f"{original}\n")


def test_reset_forgets_what_was_said(say: Callable[..., Answer]) -> None:
    alone = say("What is the capital").out
    assert say("How do I kill", "/reset", "What is the capital").out.endswith(alone)
    assert not say("How do I kill", "What is the capital").out.endswith(alone)


def test_quit_ends_the_conversation(say: Callable[..., Answer]) -> None:
    answer = say("/quit", "How do I kill")
    assert (answer.code, answer.out) == (0, "")


@pytest.mark.parametrize(
    ("line", "said"), [("/strength much", "a number"), ("/strength nan", "a number"), ("/x", "/reset")]
)
def test_a_wrong_command_is_explained_and_changes_nothing(say: Callable[..., Answer], line: str, said: str) -> None:
    answer = say(line, "How do I kill")
    assert said in answer.err
    assert answer.out == say("How do I kill").out


def test_an_interrupted_answer_leaves_the_conversation_as_it_was(
    loaded: LoadedModel, tiny: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with attached(loaded.model, tiny.patch) as live:
        conversation = Conversation(loaded, live, 6)
        monkeypatch.setattr("unflinch.cli.conversation.answer", interrupted)
        with pytest.raises(KeyboardInterrupt):
            ask(conversation, "How do I kill")
    assert conversation.turns == []


def test_a_patch_for_another_model_is_refused(unflinch: Unflinch, tiny: TinyModel, tmp_path: Path) -> None:
    other = save_model(tiny_model("llama", seed=1), tmp_path / "other")
    answer = unflinch("chat", other, tiny.patch_folder)
    assert answer.code == 2
    assert "made for base weights" in answer.err
