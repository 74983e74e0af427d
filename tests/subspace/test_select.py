"""Method, layers and discriminant: chosen where the planted difference is, without a look at what is held out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from unflinch.subspace import select
from unflinch.subspace.select import TwoGroups, find_subspaces, pair_up, select_subspace, separation

LAYERS, WIDTH, COUNT = 8, 16, 40


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def groups(seed: int, first: int = 3, apart: float = 6.0) -> TwoGroups:
    """Targets and keeps that differ along one direction from layer `first` on."""
    direction = torch.nn.functional.normalize(normal(WIDTH, seed=999), dim=0)
    targets, keeps = normal(COUNT, LAYERS, WIDTH, seed=seed), normal(COUNT, LAYERS, WIDTH, seed=seed + 1)
    targets[:, first:] += apart * direction
    return TwoGroups(targets, keeps)


@pytest.mark.parametrize("first", [1, 3, 5])
def test_the_earliest_block_of_layers_that_all_separate_is_edited(first: int) -> None:
    subspace, table = select_subspace(groups(0, first), groups(10, first), [None] * COUNT, rank=2, shrinkage=0.1)
    assert subspace.best_layer >= first
    assert subspace.separation > 0.95
    assert subspace.layers == tuple(range(max(0, first - 1), first + 2))  # as many as the block, to its middle
    assert {row.layer for row in table if row.auroc > 0.9 and row.method == "difference_of_means"} == set(
        range(first, LAYERS)
    )
    assert len(table) == 5 * LAYERS


def test_where_only_the_last_layer_separates_the_layers_that_lead_to_it_are_edited() -> None:
    subspace, _ = select_subspace(groups(0, 7), groups(10, 7), [None] * COUNT, rank=2, shrinkage=0.1)
    assert subspace.layers == (LAYERS - 4, LAYERS - 3, LAYERS - 2)


def test_the_method_is_the_one_that_separates_held_out_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    direction = torch.nn.functional.normalize(normal(WIDTH, seed=999), dim=0).expand(LAYERS, 1, WIDTH)
    useless = torch.linalg.qr(torch.cat([direction[0].T, normal(WIDTH, 1, seed=5)], 1))[0][:, 1]
    planted = {"useless": useless.expand(LAYERS, 1, WIDTH), "right": direction}
    monkeypatch.setattr(select, "find_subspaces", lambda *_: planted)
    subspace, _ = select_subspace(groups(0), groups(10), [None] * COUNT, rank=1, shrinkage=0.1)
    assert subspace.method == "right"
    assert torch.equal(subspace.basis, direction)


def test_states_of_the_test_prompts_type_do_not_move_directions_or_the_discriminant() -> None:
    fit, held_out = groups(0), groups(10)
    flipped = TwoGroups(held_out.keeps, held_out.targets)
    bases = find_subspaces(fit, [None] * COUNT, 3, 0.1)
    for basis in bases.values():
        straight, reverse = separation(basis, fit, held_out), separation(basis, fit, flipped)
        # A discriminant that had seen what is held out would separate it whichever way round.
        assert reverse == pytest.approx([1 - auroc for auroc in straight], abs=1e-9)


def test_one_prompt_is_judged_alike_whatever_else_is_held_out() -> None:
    fit, held_out = groups(0), groups(10)
    basis = find_subspaces(fit, [None] * COUNT, 3, 0.1)["principal_components"]
    shifted = TwoGroups(torch.cat([held_out.targets] * 3), held_out.keeps)
    assert separation(basis, fit, shifted) == pytest.approx(separation(basis, fit, held_out), abs=1e-9)


def test_a_target_is_compared_with_its_twin_or_with_the_keeps_mean() -> None:
    pair = TwoGroups(normal(3, 2, 4, seed=0), normal(5, 2, 4, seed=1))
    found = pair_up(pair, [4, None, 0])
    torch.testing.assert_close(found[0], pair.targets[0] - pair.keeps[4])
    torch.testing.assert_close(found[1], pair.targets[1] - pair.keeps.mean(0))
    torch.testing.assert_close(found[2], pair.targets[2] - pair.keeps[0])
