"""`unflinch demo`."""

from __future__ import annotations

from pathlib import Path

from cli.fake_pipeline import FakePipeline, Unflinch

from unflinch.options import PromptOptions


def test_the_demo_patches_the_demo_model_in_its_own_folder(unflinch: Unflinch, pipeline: FakePipeline) -> None:
    answer = unflinch("demo")
    assert (answer.code, "PASSED" in answer.out) == (0, True)
    assert (pipeline.config.model.model, pipeline.folder) == ("demo", Path("runs/demo"))


def test_an_interrupted_demo_goes_on_with_its_settings(unflinch: Unflinch, pipeline: FakePipeline) -> None:
    pipeline.error = KeyboardInterrupt()
    stopped = unflinch("demo", "--max-targets", "12")
    assert stopped.code == 130
    assert "continue with: unflinch demo --name demo\n" in stopped.err
    pipeline.error = None
    assert unflinch("demo").code == 0
    assert (len(pipeline.calls), pipeline.config.prompts.max_targets_fit) == (2, 12)


def test_a_finished_demo_shows_its_results_again_and_runs_nothing(unflinch: Unflinch, pipeline: FakePipeline) -> None:
    first = unflinch("demo")
    second = unflinch("demo")
    assert len(pipeline.calls) == 1
    assert (second.code, second.out) == (0, first.out)
    assert "unflinch demo --again" in second.err


def test_a_finished_demo_that_failed_fails_again(unflinch: Unflinch, pipeline: FakePipeline) -> None:
    pipeline.fail_guard()
    assert [unflinch("demo").code, unflinch("demo").code] == [1, 1]


def test_again_runs_in_a_new_folder_and_leaves_the_old_one(unflinch: Unflinch, pipeline: FakePipeline) -> None:
    unflinch("demo")
    before = Path("runs/demo/results.json").read_bytes()
    for expected in ("demo-2", "demo-3"):
        assert unflinch("demo", "--again").code == 0
        assert pipeline.folder == Path("runs", expected)
    assert Path("runs/demo/results.json").read_bytes() == before


def test_a_demo_without_report_or_with_a_waiting_patch_is_not_finished(
    unflinch: Unflinch, pipeline: FakePipeline
) -> None:
    unflinch("demo")
    Path("runs/demo/report.html").unlink()
    unflinch("demo")
    assert len(pipeline.calls) == 2
    Path("runs/demo/steps/unverified_patch").mkdir(parents=True)
    unflinch("demo")
    assert len(pipeline.calls) == 3


def test_the_large_demo_has_its_own_model_folder_and_command(unflinch: Unflinch, pipeline: FakePipeline) -> None:
    assert unflinch("demo", "--large").code == 0
    assert pipeline.folder == Path("runs/demo-large")
    assert pipeline.config.model.model == "demo-large"
    assert pipeline.config.prompts == PromptOptions()
    assert "unflinch demo --large --again" in unflinch("demo", "--large").err
