"""What the measuring scripts compute from their measurements, against values worked out by hand."""

from __future__ import annotations

import importlib
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tiny_benchmarks import write_items
from tiny_models import own_logits, save_model, tiny_model
from tiny_patches import random_patch

from unflinch.data.prompts import bundled
from unflinch.models.chat import encode_all
from unflinch.models.load import load_model
from unflinch.options import BenchOptions
from unflinch.patch.attach import attached
from unflinch.patch.save import save_patch

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that imports a measuring script."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))

    def load(name: str) -> ModuleType:
        return importlib.import_module(name)

    return load


def point(module: Any, strength: float, left: float, **figures: float) -> dict[str, float]:
    return {"strength": strength, "targets_refused": left, **dict.fromkeys(module.FIGURES[1:], 0.0), **figures}


def test_a_curve_is_interpolated_where_it_first_leaves_the_share(module: Any) -> None:
    side = module("side_by_side")
    curve = [
        point(side, 1.0, 0.06, keep_lost=0.4, kl_first_token_mean=0.5),
        point(side, 0.5, 0.20, keep_lost=0.2, kl_first_token_mean=0.1),
        point(side, 2.0, 0.30),
        point(side, 3.0, 0.00),
    ]
    at, reason = side.at_equal_share(curve, 0.10)
    assert reason is None
    way = (0.20 - 0.10) / (0.20 - 0.06)
    assert at["targets_refused"] == 0.1
    assert at["strength"] == pytest.approx(0.5 + way * 0.5)
    assert at["keep_lost"] == pytest.approx(0.2 + way * 0.2)
    assert at["kl_first_token_mean"] == pytest.approx(0.1 + way * 0.4)


def test_a_curve_that_begins_below_the_share_is_interpolated_from_the_unchanged_model(module: Any) -> None:
    side = module("side_by_side")
    at, _ = side.at_equal_share([point(side, 1.0, 0.0, guard_lost=0.5)], 0.10)
    assert at["guard_lost"] == pytest.approx(0.45)


def test_a_method_that_never_gets_there_says_so(module: Any) -> None:
    side = module("side_by_side")
    at, reason = side.at_equal_share([point(side, 1.0, 0.26), point(side, 2.0, 0.4)], 0.10)
    assert at is None
    assert "at least 26%" in reason


def test_growth_is_the_line_through_seconds_over_prompts(module: Any) -> None:
    speed = module("speed")
    rows = [{"prompts": n, "parts": {"reading": {"seconds": 3.0 + 0.25 * n}}} for n in (10, 20, 40)]
    assert speed.growth(rows) == {
        "reading": {"seconds_a_prompt": 0.25, "seconds_at_none": pytest.approx(3.0), "r_squared": 1.0}
    }


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # peft's
def test_a_foreign_adapter_is_read_with_its_own_scaling(module: Any, tmp_path: Path) -> None:
    yardsticks = module("yardsticks")
    name, model = "model.layers.1.mlp.down_proj", tiny_model("qwen2")
    weight = model.get_submodule(name).weight
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(2, weight.shape[1], generator=generator) * 0.2
    b = torch.randn(weight.shape[0], 2, generator=generator) * 0.2
    prefix = f"base_model.model.{name}"
    save_file({f"{prefix}.lora_A.weight": a, f"{prefix}.lora_B.weight": b}, tmp_path / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 6, "target_modules": ["down_proj"]}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    patch = yardsticks.read_adapter(tmp_path, "")
    ids = (3, 5, 7, 9)
    with attached(model, patch):
        found = own_logits(model, ids)
    with torch.no_grad():
        weight += 3 * b @ a
    torch.testing.assert_close(found, own_logits(model, ids), rtol=1e-4, atol=1e-4)


def test_the_cost_in_abilities_is_written_without_the_place_of_the_data(
    module: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model("qwen2")
    source, patch = save_model(model, tmp_path / "model"), save_patch(random_patch(model), tmp_path / "patch", "tiny")
    write_items(tmp_path / "items")
    capabilities, out = module("capabilities"), tmp_path / "out.json"
    options = {"--data": "items", "--patch": patch, "--model": source, "--answers": "answers", "--fewer": 500}
    line = [str(word) for pair in {**options, "--out": out}.items() for word in pair]
    few = replace(BenchOptions(), mmlu_shots=1, gsm8k_shots=1, gsm8k_tokens=2)
    monkeypatch.setattr(capabilities, "BenchOptions", lambda data: replace(few, data=data))
    monkeypatch.setattr("sys.argv", ["capabilities.py", *line])
    monkeypatch.chdir(tmp_path)
    capabilities.main()
    written = json.loads(out.read_text(encoding="utf-8"))
    assert [(one["benchmark"], one["n"]) for one in written["scores"]] == [
        ("mmlu", 2),
        ("hellaswag", 1),
        ("hellaswag", 1),
        ("gsm8k", 1),
        ("gsm8k", 1),
    ]
    assert set(written["seconds_an_item_and_side"]) == {"mmlu", "hellaswag", "gsm8k"}
    assert str(tmp_path) not in out.read_text(encoding="utf-8")
    assert "items" not in str(written["settings"])


def test_planned_and_measured_memory_are_set_side_by_side_for_every_step_of_a_fit(
    module: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory, out = module("memory"), tmp_path / "out.json"
    folder = save_model(tiny_model("qwen2", max_position_embeddings=2048), tmp_path / "model")
    monkeypatch.setattr(memory, "_GUARD", 3)
    config = memory.few_prompts(str(folder), 4, {"dtype": "float32", "device": "cpu"})
    quick = replace(config.fit, rounds=1, fine_tune_steps=1, judged_tokens=8, batch_size=4)
    found = memory.measured(replace(config, fit=quick))
    monkeypatch.setattr(memory.subprocess, "run", lambda *_, **__: SimpleNamespace(stdout=json.dumps(found)))
    monkeypatch.setattr("sys.argv", ["memory.py", "--models", str(folder), "--out", str(out)])
    memory.main()
    (row,) = json.loads(out.read_text(encoding="utf-8"))
    fit = ["fit: what a change costs", "fit: closed form", "fit: fine-tuning", "fit: strength"]
    assert list(row["steps"]) == ["loading", "baseline", "scan", *fit]
    assert (row["model"], row["device"], row["prompts"]) == ("model", "cpu", 4 + 4 + 4 + 3)
    for figures in (*row["steps"].values(), row["peak"]):
        assert figures["ratio"] == pytest.approx(figures["planned"] / figures["measured"], abs=1e-3)
    assert all(step["seconds"] > 0 for step in row["steps"].values())
    assert row["peak"]["measured"] == max(step["measured"] for step in row["steps"].values())
    assert row["peak"]["planned"] == max(step["planned"] for step in row["steps"].values())


def test_a_random_model_loads_like_a_real_one_and_reads_prompts_of_real_lengths(module: Any, tmp_path: Path) -> None:
    random_models = module("random_models")
    loaded = load_model(str(random_models.write_random_model("random:tiny", tmp_path)), device="cpu")
    _, sizes = random_models.SHAPES["random:tiny"]
    assert (loaded.depth, loaded.model.config.hidden_size) == (sizes["num_hidden_layers"], sizes["hidden_size"])
    lengths = sorted(map(len, encode_all(loaded.tokenizer, bundled("targets")[:200])))
    assert 20 < lengths[100] < 60, "system prompt, turn markers and one sentence"


def test_the_confusion_of_a_judge_counts_each_pair_once(module: Any) -> None:
    found = module("judge_demo").figures(
        [
            ("answers", "answers"),
            ("answers", "evades"),
            ("refuses", "refuses"),
            ("partly", "answers"),
            ("evades", "partly"),
        ]
    )
    assert (found["n"], found["same"], found["accuracy"]) == (5, 2, 0.4)
    assert found["confusion"]["evades"]["partly"] == 1
    assert sum(count for row in found["confusion"].values() for count in row.values()) == 5
    # of three refusals by hand two are called so, and so is one answer
    assert found["refusal_f1"] == pytest.approx(4 / 6, abs=1e-4)
    assert (found["refused_but_called_answers"], found["answered_but_called_refusal"]) == (1, 1)


def test_the_committed_answers_are_labelled_and_their_figures_are_current(module: Any) -> None:
    script = module("judge_demo")
    lines = (BENCHMARKS / "results" / "judge_demo_answers.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    stored = json.loads((BENCHMARKS / "results" / "judge_demo.json").read_text(encoding="utf-8"))
    assert stored["answers"] == len(rows) >= 200
    assert {row["label"] for row in rows} == set(script.LABELS)
    assert len({row["language"] for row in rows}) >= 4
    judge = script.BundledJudge()
    pairs = [(row["label"], judge(row["prompt"], row["answer"]).label) for row in rows]
    assert stored["bundled"]["all"] == script.figures(pairs)


def test_a_trained_classifier_tells_apart_what_it_was_shown(module: Any) -> None:
    script = module("train_judge")
    answers = [(f"Use the red tool number {n} and turn the wheel to the left.", "full_compliance") for n in range(8)]
    answers += [(f"We should all treat people with respect and kindness on day {n}.", "full_refusal") for n in range(8)]
    rows = [{"prompt": "How?", "completion": text, "human": human} for text, human in answers]
    classifier = script.train(rows)
    found = [classifier.probability(script.found("How?", row["completion"])) > 0.5 for row in rows]
    assert found == [script.is_refusal(row) for row in rows]


def test_results_on_the_same_prompts_are_kept_beside_a_new_one_and_others_are_not(module: Any) -> None:
    side = module("side_by_side")
    head = {"base_hash": "a", "prompts": {"targets": 2}}
    first = side.merged(None, head, {"name": "unflinch", "note": "", "curve": [point(side, 1.0, 0.0)]})
    assert [row["name"] for row in first["methods"]] == ["base", "unflinch"]
    second = side.merged(first, head, {"name": "Heretic", "note": "", "curve": [point(side, 1.0, 0.5)]})
    assert [row["name"] for row in second["methods"]] == ["base", "Heretic", "unflinch"]
    assert second["methods"][0]["at_10_percent"] is None
    assert second["methods"][1]["at_10_percent"] is None
    assert "at least 50%" in second["methods"][1]["reason"]
    assert second["methods"][2]["at_10_percent"]["strength"] == pytest.approx(0.9)
    anew = side.merged(second, {**head, "base_hash": "b"}, {"name": "Heretic", "note": "", "curve": []})
    assert [row["name"] for row in anew["methods"]] == ["base", "Heretic"]


def test_the_trials_that_heretic_offers_are_read_from_its_menu(module: Any) -> None:
    rows = ("[Trial  12] Refusals:  1/48, KL divergence: 0.3100", "[Trial   3] Refusals: 20/48, KL divergence: 0.0200")
    menu = "".join(f"\x1b[7m {row}\x1b[0m\x1b[K\r\n" for row in (*rows, rows[0]))  # drawn again as the cursor moves
    assert module("heretic_yardstick").offered(menu) == [("12", "1", "48", "0.3100"), ("3", "20", "48", "0.0200")]


def test_an_adapter_that_has_learnt_from_test_prompts_is_not_measured(module: Any, tmp_path: Path) -> None:
    yardsticks = module("yardsticks")
    folder = tmp_path / yardsticks.TRAINED["Heretic"]
    folder.mkdir()
    about = {"base_hash": "", "note": "", "prompts": ["a", "b"]}
    (folder / "yardstick.json").write_text(json.dumps(about), encoding="utf-8")
    with pytest.raises(ValueError, match="1 of the test prompts"):
        yardsticks.trained("Heretic", None, tmp_path, {"b", "c"})


def test_the_tables_of_scale_are_those_that_the_script_prints(module: Any) -> None:
    scale = module("scale")
    page = (BENCHMARKS.parent / "docs" / "SCALE.md").read_text(encoding="utf-8")
    assert scale.measured() in page and scale.computed() in page


def test_a_model_of_twice_the_parameters_takes_twice_the_time_beside_the_solving(module: Any) -> None:
    scale = module("scale")
    work = scale.Work(reads=1000, answers=1000, gradients=3000)
    one = replace(scale.LLAMA_8B, parameters=1e9, active=1e9)
    twice = replace(one, parameters=2e9, active=2e9)
    solving = scale.solving_flops(one, work.gradients) / scale.CPU_FLOPS
    found = [scale.seconds(model, "bfloat16", scale.H100, work) - solving for model in (one, twice)]
    assert found[1] == pytest.approx(2 * found[0])


def test_weights_that_a_gpu_does_not_hold_cost_time_and_no_more_memory_than_it_has(module: Any) -> None:
    scale = module("scale")
    work = scale.Work(reads=1000, answers=1000, gradients=3000)
    fetches = replace(scale.RTX_4060_FETCHES, gib=24)
    assert scale.missing_bytes(scale.LLAMA_8B, "bfloat16", fetches) == 0
    slower = [scale.seconds(scale.LLAMA_8B, "bfloat16", replace(fetches, gib=gib), work) for gib in (24, 16, 8)]
    assert slower == sorted(slower) and slower[0] < slower[2]
    assert scale.gpu_gib(scale.LLAMA_8B, "bfloat16", replace(fetches, gib=8)) == pytest.approx(8)
    shared = [replace(scale.H100_8_SHARE, workers=n, gpus=n) for n in (8, 16)]
    held = [scale.gpu_gib(scale.LLAMA_70B, "bfloat16", machine) for machine in shared]
    assert held[0] - held[1] == pytest.approx(scale.LLAMA_70B.parameters * 2 / 16 / 2**30)


def test_two_engines_are_compared_kind_by_kind(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llama_cpp", SimpleNamespace(Llama=None))
    kinds = ("target", "target", "target", "target", "guard", "guard")
    peft = ("answers", "answers", "refuses", "refuses", "refuses", "refuses")
    plain = ("refuses", "refuses", "refuses", "answers", "refuses", "evades")
    patched = ("answers", "evades", "refuses", "refuses", "refuses", "refuses")
    outcomes = [{"kind": kind, "after": label} for kind, label in zip(kinds, peft, strict=True)]
    found = module("llama_cpp_refusals").compared(outcomes, plain, patched)
    target, guard = found["target"], found["guard"]
    # An evasion counts as a refusal of a target, and not as one of a guard prompt.
    assert [target[name]["count"] for name in ("refused_without", "refused_with", "refused_with_under_peft")] == [
        3,
        3,
        2,
    ]
    assert (target["agree_with_peft"]["count"], target["agree_with_peft"]["n"]) == (3, 4)
    assert target["cohens_kappa"] == pytest.approx((0.75 - 0.5) / (1 - 0.5))
    assert [guard[name]["count"] for name in ("refused_without", "refused_with", "refused_with_under_peft")] == [
        1,
        2,
        2,
    ]
    assert guard["cohens_kappa"] is None, "both engines say the same of all: nothing is left to agree on by chance"
