"""Statistics on disk are the ones in memory, passes over some modules give what one pass gives, nothing is left."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import random_ids, tiny_model

from unflinch.activations.gradients import fisher_metrics, refusal_gradients
from unflinch.activations.scratch_space import groups_within, scratch_space, workspace
from unflinch.errors import RunFolderError
from unflinch.metrics.refusal_score import Decision, RefusalOpenings
from unflinch.models.architecture import architecture_of

MODULES = [f"model.layers.{layer}.mlp.down_proj" for layer in range(3)]
SEQUENCES = random_ids((9, 5, 12, 7))


def test_tensors_beyond_the_allowance_are_zeros_in_files_that_end_with_the_block(tmp_path: Path) -> None:
    folder = tmp_path / "scratch"
    with scratch_space(folder, 4 * 20) as zeros:
        inside = zeros((4, 5))
        assert not folder.exists()
        outside = zeros((3, 2))
        assert [file.stat().st_size for file in folder.iterdir()] == [4 * 6]
        assert not inside.any() and not outside.any()
        outside += torch.arange(6.0).reshape(3, 2)
        (file,) = folder.iterdir()
        assert torch.equal(torch.from_file(str(file), size=6), torch.arange(6.0))
    assert not folder.exists()
    assert float(inside.sum() + outside.sum()) == 15  # tensors may outlive their file's name


def test_a_disk_that_is_too_small_is_told_before_anything_is_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with (
        scratch_space(tmp_path / "scratch", 0) as zeros,
        pytest.raises(RunFolderError, match="No space left on device.*free some disk space"),
    ):
        zeros((3,))
    assert not (tmp_path / "scratch").exists()


@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=12), allowance=st.integers(0, 20))
def test_groups_hold_all_names_in_order_and_as_many_as_fit(sizes: list[int], allowance: int) -> None:
    named = {str(place): size for place, size in enumerate(sizes)}
    groups = groups_within(named, allowance)
    assert [name for group in groups for name in group] == list(named)
    for group in groups:
        assert len(group) == 1 or sum(named[name] for name in group) <= allowance
    for group, after in zip(groups, groups[1:], strict=False):
        assert sum(named[name] for name in group) + named[after[0]] > allowance


def test_metrics_of_some_modules_at_a_time_and_on_disk_equal_those_of_all_at_once(tmp_path: Path) -> None:
    model = tiny_model("qwen2")
    options = {"input_shrinkage": 0.1, "output_shrinkage": 0.1, "seed": 3}
    row = architecture_of(model)
    whole = fisher_metrics(model, row, MODULES, SEQUENCES, 2, **options)
    with workspace(tmp_path, 0, 0, 0) as space:
        for name in MODULES:
            alone = fisher_metrics(model, row, [name], SEQUENCES, 2, zeros=space.metrics, **options)
            torch.testing.assert_close(alone[name].input_factor, whole[name].input_factor)
            torch.testing.assert_close(alone[name].output_factor, whole[name].output_factor)
        assert len(list((tmp_path / "metrics").iterdir())) == 2 * len(MODULES)


def test_gradients_on_disk_equal_those_in_memory(tmp_path: Path) -> None:
    model = tiny_model("qwen2")
    weights = torch.zeros(model.config.vocab_size)
    weights[::2] = 0.9
    score = RefusalOpenings(weights).decision_scores
    decisions = [Decision(ids) for ids in SEQUENCES]
    row = architecture_of(model)
    whole = refusal_gradients(model, row, MODULES, decisions, score)
    with workspace(tmp_path, 0, 0, 0) as space, space.gradients() as zeros:
        mapped = refusal_gradients(model, row, MODULES, decisions, score, zeros=zeros)
        for name in MODULES:
            assert torch.equal(mapped.inputs[name], whole.inputs[name])
            assert torch.equal(mapped.outputs[name], whole.outputs[name])
