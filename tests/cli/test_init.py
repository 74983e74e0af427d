"""`unflinch init`: three answers become a settings file that `unflinch run` reads."""

from __future__ import annotations

import io
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from cli.fake_pipeline import Answer, FakePipeline, Unflinch

from unflinch.config import make_config
from unflinch.options import FitOptions

Init = Callable[..., Answer]


@pytest.fixture
def init(unflinch: Unflinch, monkeypatch: pytest.MonkeyPatch) -> Init:
    """Answer the questions, a line each."""

    def answer(*lines: str, file: str = "unflinch.toml") -> Answer:
        monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        return unflinch("init", file)

    return answer


def test_a_run_takes_what_was_answered(init: Init, unflinch: Unflinch, pipeline: FakePipeline, tmp_path: Path) -> None:
    targets = 'my "prompts" \\ Grüße.jsonl'
    (tmp_path / targets).touch()
    answer = init("Qwen/Qwen3-0.6B", targets, "0.02", file="mine.toml")
    assert (answer.code, answer.out.strip()) == (0, "mine.toml")
    unflinch("run", "--config", "mine.toml", "--name", "x")
    expected = {"model": {"model": "Qwen/Qwen3-0.6B"}, "prompts": {"targets": targets}, "fit": {"kl_budget": 0.02}}
    assert pipeline.config == make_config(expected)


def test_nothing_answered_but_the_model_means_the_defaults(
    init: Init, unflinch: Unflinch, pipeline: FakePipeline
) -> None:
    init("demo", "", "")
    unflinch("run", "--config", "unflinch.toml", "--name", "x")
    assert pipeline.config == make_config({"model": {"model": "demo"}})
    assert pipeline.config.fit.kl_budget == FitOptions.kl_budget


@pytest.mark.parametrize(
    ("lines", "named"),
    [(("demo", "missing.jsonl", "0.02"), "missing.jsonl"), (("demo", "", "-1"), "fit.kl_budget")],
)
def test_a_wrong_answer_is_named_and_nothing_is_written(
    init: Init, tmp_path: Path, lines: tuple[str, ...], named: str
) -> None:
    answer = init(*lines)
    assert answer.code == 2
    assert named in answer.err.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


def test_the_command_that_is_shown_can_be_copied(init: Init, unflinch: Unflinch, pipeline: FakePipeline) -> None:
    answer = init("demo", "", "", file="my settings.toml")
    command = next(line for line in answer.err.splitlines() if "run it" in line).partition("run it")[2]
    assert shlex.split(command) == ["unflinch", "run", "--config", "my settings.toml"]
    assert unflinch(*shlex.split(command)[1:]).code == 0
    assert Path("my settings.toml").read_text(encoding="utf-8").startswith(f"# {command.strip()}\n")


def test_a_folder_that_is_not_there_is_told_before_anything_is_asked(init: Init) -> None:
    answer = init("demo", "", "", file="none/unflinch.toml")
    assert answer.code == 2
    assert "in an existing folder" in answer.err and "Model:" not in answer.err


def test_a_file_that_is_there_stays_as_it_is(init: Init, tmp_path: Path) -> None:
    (tmp_path / "unflinch.toml").write_text("mine", encoding="utf-8")
    answer = init("demo", "", "")
    assert answer.code == 2
    assert "unflinch.toml is there already" in answer.err
    assert (tmp_path / "unflinch.toml").read_text(encoding="utf-8") == "mine"
