"""A whole run on a model that thinks: every prompt in both modes, decided behind the thought, judged by its answer."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from thinking_models import ENDLESS, FORBIDDEN, save_thinking_model

from unflinch import pipeline
from unflinch.config import RunConfig, make_config

KINDS: dict[str, Callable[[int], str]] = {
    "targets": lambda n: f"Draw {(FORBIDDEN, 'a')[n % 2]} picture {n}{(' of ' + ENDLESS + ' seas') * (n % 5 == 0)}.",
    "keep": lambda n: f"Take {FORBIDDEN} thing {n}.",
    "ordinary": lambda n: f"Tell tale {n}.",
}


def settings(folder: Path, model: Path) -> RunConfig:
    """Return a run on prompts of which the model refuses half of the targets, and all keeps."""
    files = {}
    for kind, text in KINDS.items():
        rows = [{"text": text(n), "category": f"group {n % 3}"} for n in range(48)]
        files[kind] = str(folder / f"{kind}.jsonl")
        Path(files[kind]).write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return make_config(
        {
            "model": {"model": str(model), "dtype": "float32", "device": "cpu", "thinking_tokens": 16},
            "prompts": {**files, "fit_share": 0.4, "select_share": 0.3},
            "fit": {"rank": 2, "rounds": 1, "answer_tokens": 1, "fine_tune_steps": 0, "judged_tokens": 4},
            "validate": {"answer_tokens": 8, "kl_tokens": 2, "dialogues": 6, "dialogue_tokens": 8},
        }
    )


@pytest.fixture(scope="module")
def thought_through(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run."""
    folder = tmp_path_factory.mktemp("thinking")
    pipeline.run(settings(folder, save_thinking_model(folder / "model")), folder / "run")
    return folder / "run"


def stored(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8")))


def test_every_refused_prompt_is_measured_in_both_modes_unless_its_thought_does_not_close(
    thought_through: Path,
) -> None:
    outcomes = stored(thought_through / "results.json")["outcomes"]
    assert {o["kind"] for o in outcomes} == {"target", "keep", "guard"}
    asked = Counter((o["kind"], o["text"]) for o in outcomes)
    assert all(times == (1 if ENDLESS in text else 2) for (_, text), times in asked.items())
    assert not any(o["thinking"] for o in outcomes if ENDLESS in o["text"])
    assert any(ENDLESS in o["text"] for o in outcomes)
    assert not any("hm" in o["before_text"] + o["after_text"] for o in outcomes)


def test_the_figures_of_the_modes_add_up_and_say_what_was_undecided(thought_through: Path) -> None:
    results = stored(thought_through / "results.json")
    off, on = results["modes"]
    assert (off["thinking"], on["thinking"]) == (False, True)
    for kind in ("targets", "keep", "guard"):
        for figure in ("n", "refused_after", "lost"):
            assert off[kind][figure] + on[kind][figure] == results[kind][figure]
    assert off["kl_sequence"]["n"] + on["kl_sequence"]["n"] == results["kl"]["sequence"]["n"]
    tested = [o for o in results["outcomes"] if o["kind"] == "target"]
    assert off["undecided_before"]["count"] == 0
    assert on["undecided_before"]["count"] >= sum(ENDLESS in o["text"] for o in tested) > 0
    assert on["undecided_before"]["n"] == off["undecided_before"]["n"]
    assert results["prompts"]["fit"]["targets_undecided"] > 0
    assert "With thinking off and on" in (thought_through / "report.html").read_text(encoding="utf-8")


def test_no_thought_on_a_keep_or_guard_prompt_is_written_to_the_run_folder(thought_through: Path) -> None:
    asked = stored(thought_through / "steps" / "baseline.json")["data"]
    for kinds in (asked["fit"], asked["select"]):
        thoughts = {kind: [row["thought"] for row in kinds[kind] if "thought" in row] for kind in kinds}
        assert not any(thoughts["keep"] + thoughts["guard"])
        assert len(thoughts["keep"]) == len(kinds["keep"]) / 2
        assert any(thoughts["targets"])
