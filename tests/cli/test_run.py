"""`unflinch run`, and what it shares with `scan`, `fit` and `validate`."""

from __future__ import annotations

import inspect
import json
import os
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from cli.fake_pipeline import FUNCTIONS, FakePipeline, Unflinch
from documents import parsed

from unflinch.cli.job import default_name, loading_options
from unflinch.config import as_settings, make_config


def test_a_passed_run_shows_its_figures_and_where_report_and_patch_lie(
    unflinch: Unflinch, pipeline: FakePipeline
) -> None:
    answer = unflinch("run", "demo", "--name", "first")
    assert answer.code == 0
    for shown in (
        "false refusals",
        "180 \N{RIGHTWARDS ARROW} 7 (3.9 %)",
        "0.2104",
        "1.29 million parameters",
        "18 min 51 s",
        "PASSED",
    ):
        assert shown in answer.out.replace("\N{NO-BREAK SPACE}", " ")
    assert "runs/first/report.html\n" in answer.out
    assert "runs/first/patch\n" in answer.out


def test_a_failed_run_names_the_missed_limit_and_returns_1(unflinch: Unflinch, pipeline: FakePipeline) -> None:
    pipeline.fail_guard()
    answer = unflinch("run", "demo", "--name", "first")
    assert answer.code == 1
    shown = answer.out.replace("\N{NO-BREAK SPACE}", " ")
    assert "FAILED, 1 of 7 limits missed" in shown
    assert "guard refusals lost: 1.4 %, limit 0.0 %" in shown
    assert "patch in" not in answer.out


def test_every_line_but_the_command_to_copy_fits_into_80_columns(unflinch: Unflinch, pipeline: FakePipeline) -> None:
    answer = unflinch("run", "demo", "--name", "first")
    lines = [line for line in (answer.out + answer.err).splitlines() if not line.startswith("try it")]
    assert max(map(len, lines)) <= 80


def test_the_command_to_try_it_loads_the_model_as_the_run_did(unflinch: Unflinch, pipeline: FakePipeline) -> None:
    options = "--dtype float16 --load-in 4bit --spread workers --layers model.layers --writer mlp.down_proj"
    settings = as_settings(make_config({"model": {"model": "demo"}}))["model"]
    assert loading_options(settings) == []
    settings |= {"dtype": "float16", "load_in": "4bit", "spread": "workers", "layers": "model.layers"}
    settings |= {"writers": ["mlp.down_proj", "self_attn.o_proj"], "trust_remote_code": True, "revision": "abc"}
    pipeline.results["settings"]["model"] = settings
    shown = unflinch("run", "demo", "--name", "first", *options.split()).err
    (line,) = [line for line in shown.splitlines() if line.startswith("try it")]
    words = shlex.split(line.removeprefix("try it"))
    parameters = parsed(words[1:])
    given = {name: parameters[name] for name in ("dtype", "load_in", "spread", "layers", "revision")}
    assert given == {
        "dtype": "float16",
        "load_in": "4bit",
        "spread": "devices",  # a process of its own has no other workers
        "layers": "model.layers",
        "revision": "abc",
    }
    assert list(parameters["writer"]) == ["mlp.down_proj", "self_attn.o_proj"]
    assert parameters["trust_remote_code"] is True


def test_each_step_is_told_on_stderr_with_figures_and_time(unflinch: Unflinch, pipeline: FakePipeline) -> None:
    lines = unflinch("run", "demo").err.splitlines()
    for step in ("baseline", "scan", "fit", "validate", "report"):
        (line,) = [line for line in lines if line.split()[0] == step]
        assert "targets refused 180" in line
        assert line.endswith("1 min 36 s")


def test_without_a_terminal_progress_is_one_line_a_piece_of_work(unflinch: Unflinch, pipeline: FakePipeline) -> None:
    answer = unflinch("run", "demo")
    assert answer.err.count("fit: asking targets (1,000)\n") == 1
    assert "\r" not in answer.err


def test_json_is_all_that_stdout_holds(unflinch: Unflinch, pipeline: FakePipeline) -> None:
    answer = unflinch("run", "demo", "--name", "first", "--json")
    shown = json.loads(answer.out)
    assert shown["targets"] == pipeline.results["targets"]
    assert (shown["run_folder"], shown["report_file"]) == ("runs/first", "runs/first/report.html")
    assert shown["patch_folder"] == "runs/first/patch"


def test_json_of_a_failed_run_has_no_patch_folder(unflinch: Unflinch, pipeline: FakePipeline) -> None:
    pipeline.fail_guard()
    assert json.loads(unflinch("run", "demo", "--json").out)["patch_folder"] is None


def test_every_option_reaches_its_place_in_the_config(unflinch: Unflinch, pipeline: FakePipeline) -> None:
    given = (
        "run own/model --targets t.jsonl --keep k.csv --ordinary hub:a/b:train:text --max-targets 40 --seed 7 "
        "--kl-budget 0.5 --keep-best --dtype float32 --device cpu --revision main --trust-remote-code "
        "--layers model.layers --writer mlp.w2 --writer attn.out"
    )
    assert unflinch(*given.split()).code == 0
    config = pipeline.config
    assert (config.model.model, config.model.dtype, config.model.device) == ("own/model", "float32", "cpu")
    assert (config.model.revision, config.model.trust_remote_code) == ("main", True)
    assert (config.model.layers, config.model.writers) == ("model.layers", ("mlp.w2", "attn.out"))
    assert (config.prompts.targets, config.prompts.keep) == ("t.jsonl", "k.csv")
    assert (config.prompts.ordinary, config.prompts.max_targets_fit) == ("hub:a/b:train:text", 40)
    assert (config.prompts.seed, config.fit.seed, config.fit.kl_budget) == (7, 7, 0.5)
    assert config.validate.keep_best


def test_options_win_over_the_file_and_the_file_over_the_defaults(
    unflinch: Unflinch, pipeline: FakePipeline, tmp_path: Path
) -> None:
    text = '[model]\nmodel = "demo"\nwriters = ["mlp.w2"]\n[fit]\nrank = 2\nkl_budget = 0.3\n'
    (tmp_path / "own.toml").write_text(text, encoding="utf-8")
    assert unflinch("run", "--config", "own.toml", "--kl-budget", "0.1").code == 0
    assert (pipeline.config.model.model, pipeline.config.fit.rank, pipeline.config.fit.kl_budget) == ("demo", 2, 0.1)
    assert pipeline.config.model.writers == ("mlp.w2",)


def test_a_name_in_use_is_refused_and_continues_with_resume(unflinch: Unflinch, pipeline: FakePipeline) -> None:
    assert unflinch("run", "demo", "--name", "first").code == 0
    again = unflinch("run", "demo", "--name", "first")
    assert (again.code, "--resume" in again.err) == (2, True)
    assert unflinch("run", "demo", "--name", "first", "--resume").code == 0


def test_resume_takes_the_settings_of_the_run(unflinch: Unflinch, pipeline: FakePipeline) -> None:
    unflinch("run", "demo", "--name", "first", "--kl-budget", "0.7", "--max-targets", "12")
    before = pipeline.config
    assert unflinch("run", "--resume", "--name", "first").code == 0
    assert pipeline.config == before


def test_resume_of_what_was_never_started_is_told_so(unflinch: Unflinch, pipeline: FakePipeline) -> None:
    answer = unflinch("run", "--resume", "--name", "typo")
    assert (answer.code, pipeline.calls) == (2, [])
    assert "runs/typo holds no run to continue" in answer.err
    assert unflinch("run", "demo", "--resume", "--name", "typo").code == 0


@pytest.mark.parametrize("command", ["chat", "bench", "apply", "export", "inspect"])
def test_a_run_without_a_patch_is_told_so(unflinch: Unflinch, pipeline: FakePipeline, command: str) -> None:
    pipeline.fail_guard()
    assert unflinch("run", "demo", "--name", "first").code == 1
    shutil.rmtree("runs/first/patch", ignore_errors=True)
    words = {
        "inspect": ("runs/first",),
        "apply": ("demo", "runs/first", "out"),
        "export": ("demo", "runs/first", "out"),
    }
    answer = unflinch(command, *words.get(command, ("demo", "runs/first")))
    assert answer.code == 2
    assert "the run in runs/first has written no patch" in answer.err


@pytest.mark.parametrize("file", ["settings.json", "results.json"])
def test_a_run_folder_with_something_else_in_its_files_is_told_so(
    unflinch: Unflinch, pipeline: FakePipeline, file: str
) -> None:
    assert unflinch("demo").code == 0
    Path("runs/demo", file).write_text("[1]", encoding="utf-8")
    answer = unflinch("demo") if file == "results.json" else unflinch("validate", "runs/demo")
    assert answer.code == 2
    assert f"{file} holds a list where a JSON object was expected" in answer.err


def test_resume_with_another_setting_is_refused(unflinch: Unflinch, pipeline: FakePipeline) -> None:
    unflinch("run", "demo", "--name", "first")
    answer = unflinch("run", "--resume", "--name", "first", "--kl-budget", "0.7")
    assert answer.code == 2
    assert "fit.kl_budget" in answer.err


@pytest.mark.parametrize("name", ["../elsewhere", "/tmp/elsewhere", "a/b", "..", ".hidden", "a\\b", ""])
def test_a_name_that_leads_out_of_the_runs_is_refused(name: str, unflinch: Unflinch, pipeline: FakePipeline) -> None:
    answer = unflinch("run", "demo", "--name", name)
    assert answer.code == 2 and "letters, digits" in answer.err
    assert not pipeline.calls


def test_resume_without_a_name_takes_the_newest_folder(unflinch: Unflinch, pipeline: FakePipeline) -> None:
    for name, age in (("old", 300), ("new", 10), ("middle", 100)):
        unflinch("run", "demo", "--name", name, "--runs", "kept")
        file = Path("kept", name, "settings.json")
        os.utime(file, (file.stat().st_mtime - age,) * 2)
    assert unflinch("run", "--resume", "--runs", "kept").code == 0
    assert pipeline.folder == Path("kept/new")


def test_ctrl_c_tells_the_command_that_really_continues(unflinch: Unflinch, pipeline: FakePipeline) -> None:
    pipeline.error = KeyboardInterrupt()
    stopped = unflinch("run", "demo", "--runs", "my runs")
    assert stopped.code == 130
    folder = pipeline.folder
    command = stopped.err.strip().splitlines()[-1].partition("continue with: unflinch ")[2]
    pipeline.error = None
    assert unflinch(*shlex.split(command)).code == 0
    assert pipeline.folder == folder


@pytest.mark.parametrize(
    ("model", "start"),
    [
        ("Qwen/Qwen2.5-0.5B-Instruct", "Qwen2.5-0.5B-Instruct_20"),
        ("/models/my model/", "my-model_20"),
        (r"C:\models\tiny.Q4.gguf", "tiny.Q4_20"),
        ("..", "model_20"),
        ("Модель", "Модель_20"),
    ],
)
def test_a_run_is_named_after_its_model_and_the_time(model: str, start: str) -> None:
    assert default_name(model).startswith(start)


def test_two_runs_without_a_name_have_their_own_folders(unflinch: Unflinch, pipeline: FakePipeline) -> None:
    unflinch("run", "Qwen/Qwen2.5-0.5B-Instruct")
    assert pipeline.folder is not None
    assert pipeline.folder.parent == Path("runs")
    assert (pipeline.folder / "results.json").is_file()


def test_validate_measures_a_fitted_run_with_its_own_settings(unflinch: Unflinch, pipeline: FakePipeline) -> None:
    fitted = unflinch("fit", "demo", "--name", "first", "--kl-budget", "0.7")
    assert fitted.code == 0
    assert "unflinch validate runs/first" in fitted.err
    before = pipeline.config
    answer = unflinch("validate", "runs/first")
    assert (answer.code, "PASSED" in answer.out) == (0, True)
    assert pipeline.calls[-1] == ("run_validate", before, Path("runs/first"))
    assert pipeline.thorough


def test_a_validation_can_be_brief_and_a_run_thorough(unflinch: Unflinch, pipeline: FakePipeline) -> None:
    unflinch("run", "demo", "--name", "first")
    assert not pipeline.thorough
    unflinch("run", "demo", "--name", "second", "--thorough")
    assert pipeline.thorough
    unflinch("validate", "runs/first", "--brief")
    assert not pipeline.thorough


def test_validate_of_a_patch_that_fails_returns_1(unflinch: Unflinch, pipeline: FakePipeline) -> None:
    unflinch("fit", "demo", "--name", "first")
    pipeline.fail_guard()
    assert unflinch("validate", "runs/first").code == 1


def test_fit_shows_what_each_stage_reached(unflinch: Unflinch, pipeline: FakePipeline) -> None:
    out = unflinch("fit", "demo").out
    for stage in ("closed form", "constrained", "fine tune", "strength"):
        assert stage in out
    assert json.loads(unflinch("fit", "demo", "--name", "other", "--json").out) == pipeline.results["fit"]


def test_scan_shows_the_best_layers_of_each_method_and_the_choice(unflinch: Unflinch, pipeline: FakePipeline) -> None:
    lines = unflinch("scan", "demo").out.splitlines()
    (chosen,) = [line for line in lines if "<- chosen" in line]
    assert chosen.split()[0] == "whitened"
    assert "14: 0.972" in chosen
    for method in ("tensor decomposition", "difference of means", "paired principal components"):
        assert any(line.strip().startswith(method) for line in lines)
    assert any("rank 2, layers 9, 10, 11, 12, 13, 14, 15, 16, 17, 18 of 24" in line for line in lines)


def test_scan_shows_what_a_patch_will_cost_at_least(unflinch: Unflinch, pipeline: FakePipeline) -> None:
    lines = unflinch("scan", "demo").out.splitlines()
    modules = [line.split() for line in lines if "down_proj" in line]
    assert modules == [
        ["model.layers.9.mlp.down_proj", "900", "450", "yes"],
        ["model.layers.20.mlp.down_proj", "1.2e+03", "90"],
    ]
    told = " ".join(" ".join(lines).split())
    assert (
        "false refusals by 5.2 logits" in told and "at least 0.0123 nats" in told and "0.0061 if they may fall" in told
    )


def test_a_scan_with_fit_ends_as_a_run(unflinch: Unflinch, pipeline: FakePipeline) -> None:
    answer = unflinch("scan", "demo", "--name", "first", "--fit")
    assert answer.code == 0
    assert [name for name, *_ in pipeline.calls] == ["run_scan", "run"]
    assert "<- chosen" in answer.out and "PASSED" in answer.out
    shown = json.loads(unflinch("scan", "demo", "--name", "second", "--fit", "--json").out)
    assert shown["verdict"]["passed"] is True


def test_a_scan_is_continued_by_run(unflinch: Unflinch, pipeline: FakePipeline) -> None:
    unflinch("scan", "demo", "--name", "first")
    assert unflinch("run", "--resume", "--name", "first").code == 0
    assert pipeline.folder == Path("runs/first")


def test_scan_as_json_holds_every_layer(unflinch: Unflinch, pipeline: FakePipeline) -> None:
    shown = json.loads(unflinch("scan", "demo", "--json").out)
    assert shown.pop("mechanism")["ablations"][0]["refused_in_answer"]["count"] == 8
    assert shown.pop("edit_cost")["least_kl"] == 0.0123
    assert shown == pipeline.results["scan"]


def test_report_is_built_again_and_its_path_printed(unflinch: Unflinch, pipeline: FakePipeline) -> None:
    unflinch("run", "demo", "--name", "first")
    answer = unflinch("report", "runs/first")
    assert (answer.code, answer.out) == (0, "runs/first/report.html\n")
    assert "<html" in Path("runs/first/report.html").read_text(encoding="utf-8")


def test_the_made_up_pipeline_takes_what_the_real_one_takes() -> None:
    from unflinch import pipeline as real

    def parameters(function: Callable[..., object]) -> list[tuple[str, object]]:
        taken = inspect.signature(function).parameters.values()
        return [(parameter.name, parameter.kind) for parameter in taken if parameter.name != "self"]

    for name in FUNCTIONS:
        assert parameters(getattr(FakePipeline, name)) == parameters(getattr(real, name))
