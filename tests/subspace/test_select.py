"""Methods and layers are chosen by what they separate on prompts that they were not fitted on."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from unflinch.subspace.select import EDITED_SHARE, TwoGroups, find_subspaces, pair_up, select_subspace, separation

LAYERS, WIDTH = 8, 16


def groups(count: int, seed: int, gap: Sequence[float] = (0, 0, 0, 3, 3, 0, 0, 0)) -> TwoGroups:
    """Return two groups that lie apart along one direction, in the layers where `gap` is not 0."""
    generator = torch.Generator().manual_seed(seed)
    direction = torch.nn.functional.normalize(torch.ones(WIDTH), dim=0)
    shift = torch.tensor(gap, dtype=torch.float32)[:, None] * direction
    targets = torch.randn(count, LAYERS, WIDTH, generator=generator) + shift
    return TwoGroups(targets, torch.randn(count, LAYERS, WIDTH, generator=generator))


def auroc(targets: Tensor, keeps: Tensor) -> float:
    """The share of pairs that are ordered rightly, ties counting half."""
    difference = targets[:, None] - keeps[None]
    return float(((difference > 0).double() + 0.5 * (difference == 0).double()).mean())


def test_a_target_is_paired_with_its_twin_or_with_the_mean_of_the_keeps() -> None:
    both = groups(3, seed=0)
    differences = pair_up(both, [2, None, 0])
    assert torch.equal(differences[0], both.targets[0] - both.keeps[2])
    assert torch.equal(differences[1], both.targets[1] - both.keeps.mean(0))
    assert torch.equal(differences[2], both.targets[2] - both.keeps[0])


def test_every_method_gives_orthonormal_rows_also_with_few_prompts() -> None:
    for count, rank in ((30, 3), (2, 3)):
        bases = find_subspaces(groups(count, seed=1), [None] * count, rank, 0.1)
        assert len(bases) == 5
        for basis in bases.values():
            size = basis.shape[1]
            assert size <= min(rank, count)
            gram = basis @ basis.transpose(1, 2)
            torch.testing.assert_close(gram, torch.eye(size).expand(LAYERS, -1, -1), rtol=0, atol=1e-4)


def test_the_separation_of_one_direction_is_the_share_of_pairs_in_order() -> None:
    fit, held_out = groups(20, seed=2), groups(25, seed=3, gap=[0.5] * LAYERS)
    basis = torch.nn.functional.normalize(torch.ones(LAYERS, 1, WIDTH), dim=-1)
    for layer, found in enumerate(separation(basis, fit, held_out)):
        values = [group[:, layer] @ basis[layer, 0] for group in (held_out.targets, held_out.keeps)]
        assert found == pytest.approx(auroc(*values), abs=1e-6)


def test_what_separates_only_where_it_was_fitted_does_not_count() -> None:
    fit, held_out = groups(6, seed=4, gap=[0] * LAYERS), groups(200, seed=5, gap=[0] * LAYERS)
    bases = find_subspaces(fit, [None] * 6, 3, 0.1)
    for basis in bases.values():
        assert max(separation(basis, fit, fit)) > 0.8
        assert max(separation(basis, fit, held_out)) < 0.65


def test_the_layer_that_separates_is_chosen_with_those_that_read_it() -> None:
    subspace, table = select_subspace(groups(60, seed=6), groups(60, seed=7), [None] * 60, 3, 0.1)
    assert subspace.best_layer in (3, 4)
    assert subspace.separation > 0.95
    assert subspace.separation == max(row.auroc for row in table)
    assert len(table) == 5 * LAYERS
    assert subspace.basis.shape[0] == LAYERS
    assert subspace.layers[0] == 4  # the first layer that reads what layer 3 wrote
    assert list(subspace.layers) == list(range(4, 4 + len(subspace.layers)))
    assert 1 <= len(subspace.layers) <= max(1, round(EDITED_SHARE * LAYERS))


def test_layers_to_edit_stay_inside_the_model_where_only_the_last_separates() -> None:
    gap = [0.0] * (LAYERS - 1) + [3.0]
    subspace, _ = select_subspace(groups(60, seed=8, gap=gap), groups(60, seed=9, gap=gap), [None] * 60, 2, 0.1)
    assert subspace.best_layer == LAYERS - 1
    assert subspace.layers == (LAYERS - 1,)


def test_the_choice_is_deterministic() -> None:
    arguments = (groups(30, seed=10), groups(30, seed=11), [None] * 30, 3, 0.1)
    first, again = select_subspace(*arguments), select_subspace(*arguments)
    assert torch.equal(first[0].basis, again[0].basis)
    assert first[1] == again[1]
