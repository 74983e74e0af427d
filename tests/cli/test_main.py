"""The command as a whole: help, and how failures are told."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from cli.fake_pipeline import FakePipeline, Unflinch
from typer.testing import CliRunner

from unflinch.cli.base_model import load_base
from unflinch.cli.main import app, explain
from unflinch.errors import ConfigError, VerdictError

COMMANDS = (
    *("demo", "init", "run", "generate", "mine", "scan", "fit", "validate", "report", "chat", "web", "apply", "judge"),
    *("export", "inspect", "sign", "verify", "push"),
)


def shell(*arguments: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "unflinch", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env={**os.environ, **environment},
    )


def test_help_names_every_command_with_a_whole_sentence() -> None:
    shown = CliRunner().invoke(app, ["--help"]).output
    assert all(any(line.split()[:1] == [name] for line in shown.splitlines()) for name in COMMANDS)
    assert "..." not in shown.partition("Commands:")[2]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command_fits_into_80_columns(command: str) -> None:
    answer = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "80"})
    assert answer.exit_code == 0
    assert max(map(len, answer.output.splitlines())) <= 80


def test_no_arguments_show_the_help() -> None:
    assert shell().stdout == shell("--help").stdout


@pytest.mark.parametrize(
    ("words", "place", "completed"),
    [("unflinch ch", 1, ["chat"]), ("unflinch run --kl", 2, ["--kl-budget"]), ("unflinch va", 1, ["validate"])],
)
def test_a_shell_completes_commands_and_options(words: str, place: int, completed: list[str]) -> None:
    asked = {"_UNFLINCH_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(place)}
    assert shell(**asked).stdout.split() == completed


def test_completion_is_installed_for_the_shell_that_is_named(tmp_path: Path) -> None:
    answer = shell("--install-completion", "bash", HOME=str(tmp_path), _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    assert answer.returncode == 0, answer.stderr
    assert "_UNFLINCH_COMPLETE=complete_bash" in "".join(
        file.read_text(encoding="utf-8") for file in tmp_path.rglob("*.sh")
    )


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom unflinch.cli.main import main\n"
        "try:\n    main(['run', '--help'])\nexcept SystemExit:\n    pass\n"
        "print(sorted({'torch', 'transformers', 'matplotlib', 'rich'} & set(sys.modules)))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.splitlines()[-1] == "[]"


def test_version_is_printed_alone(unflinch: Unflinch) -> None:
    from unflinch import __version__

    answer = unflinch("--version")
    assert (answer.code, answer.out) == (0, f"unflinch {__version__}\n")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["frobnicate"], "frobnicate"),
        (["run", "--frobnicate"], "--frobnicate"),
        (["run", "demo", "--dtype", "int3"], "int3"),
        (["run", "demo", "--kl-budget", "much"], "--kl-budget"),
        (["run", "demo", "--kl-budget", "-1"], "fit.kl_budget"),
        (["run", "demo", "--max-targets", "1"], "prompts.max_targets"),
        (["run", "demo", "--name", "../elsewhere"], "../elsewhere"),
        (["run", "demo", "--config", "missing.toml"], "missing.toml"),
        (["run"], "no model given"),
        (["run", "--resume"], "holds no run to continue"),
        (["validate", "nowhere"], "nowhere is no run folder"),
        (["report", "nowhere"], "nowhere holds no results.json"),
        (["mine", "demo"], "--out"),
        (["mine", "demo", "--out", "no/such/folder.jsonl"], "folder.jsonl"),
        (["mine", "demo", "--out", "x.jsonl", "--candidates", "missing.jsonl"], "missing.jsonl"),
        (["apply", "demo", "nowhere", "copy"], "nowhere is no patch folder"),
        (["chat", "demo", "nowhere"], "nowhere is no patch folder"),
    ],
)
def test_bad_input_gives_one_line_and_exit_code_2(
    unflinch: Unflinch, pipeline: FakePipeline, arguments: list[str], named: str
) -> None:
    answer = unflinch(*arguments)
    assert answer.code == 2
    assert answer.out == ""
    assert answer.err.count("\n") == 1
    assert answer.err.startswith("error: ")
    assert named in answer.err


def test_a_failure_in_another_process_is_one_line_too(tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text("[fit]\nrnak = 3\n", encoding="utf-8")
    answer = shell("run", "demo", "--config", "bad.toml", cwd=tmp_path)
    assert (answer.returncode, answer.stdout) == (2, "")
    assert answer.stderr.count("\n") == 1
    assert "fit.rnak" in answer.stderr


def test_debug_adds_the_traceback_wherever_it_stands(unflinch: Unflinch) -> None:
    for arguments in (["--debug", "report", "nowhere"], ["report", "nowhere", "--debug"]):
        answer = unflinch(*arguments)
        assert answer.code == 2
        assert "Traceback" in answer.err
        assert answer.err.splitlines()[-1].startswith("error: nowhere holds no results.json")


@pytest.mark.parametrize(
    ("error", "sentence", "code"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "runs/x"), "runs/x: No space left on device", 2),
        (MemoryError(), "out of memory", 2),
        (VerdictError("did not pass"), "did not pass", 1),
        (KeyboardInterrupt(), "continue with: unflinch run --resume --name x", 130),
    ],
)
def test_what_interrupts_a_run_is_told_in_one_sentence(
    unflinch: Unflinch, pipeline: FakePipeline, error: BaseException, sentence: str, code: int
) -> None:
    pipeline.error = error
    answer = unflinch("run", "demo", "--name", "x")
    assert (answer.code, answer.out) == (code, "")
    assert sentence in answer.err
    assert "Traceback" not in answer.err


def test_a_bug_keeps_its_traceback() -> None:
    assert explain(ValueError("a bug")) is None


def test_warnings_of_the_library_are_lines_on_stderr(unflinch: Unflinch, pipeline: FakePipeline) -> None:
    pipeline.warning = "dropped 3 duplicates"
    answer = unflinch("run", "demo", "--name", "x", "--json")
    assert "warning: dropped 3 duplicates\n" in answer.err
    assert json.loads(answer.out)["name"] == pipeline.results["name"]


def test_output_without_a_terminal_has_no_colour_codes(unflinch: Unflinch, pipeline: FakePipeline) -> None:
    answer = unflinch("run", "demo")
    assert "\x1b" not in answer.out + answer.err


def test_a_character_that_the_terminal_lacks_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text("[fit]\nr\u00e4nk = 3\n", encoding="utf-8")
    answer = shell("run", "demo", "--config", "bad.toml", cwd=tmp_path, PYTHONIOENCODING="ascii")
    assert answer.returncode == 2
    assert "Traceback" not in answer.stderr


def test_a_command_that_works_alone_says_so_to_several_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="started as 2 workers.*without torchrun"):
        load_base("demo", None, None, None, None, None, None)
