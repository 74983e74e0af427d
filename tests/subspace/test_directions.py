"""Each method finds a planted direction; each beats the plain one where it is meant to."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from unflinch.subspace.difference_of_means import difference_of_means
from unflinch.subspace.principal_components import paired_principal_components
from unflinch.subspace.tensor_decomposition import parafac_directions, tucker_directions
from unflinch.subspace.whitened import whitened_direction

LAYERS, WIDTH = 6, 24
PAIRED: dict[str, Callable[[Tensor, int], Tensor]] = {
    "principal components": paired_principal_components,
    "parafac": parafac_directions,
    "tucker": tucker_directions,
}


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def planted(seed: int, count: int, noise: float, layers: int = LAYERS, width: int = WIDTH) -> tuple[Tensor, Tensor]:
    """Return a unit direction shared by all layers, and paired differences that lie along it but for noise."""
    direction = torch.nn.functional.normalize(normal(width, seed=seed), dim=0)
    profile = torch.linspace(0.5, 1.5, layers)
    strength = 1 + 0.3 * normal(count, seed=seed + 1)
    signal = strength[:, None, None] * profile[:, None] * direction
    return direction, signal + noise * normal(count, layers, width, seed=seed + 2)


def cosines(basis: Tensor, direction: Tensor) -> Tensor:
    """Signed cosine of every layer's leading direction with the planted one."""
    return basis[:, 0] @ direction


@pytest.mark.parametrize("method", PAIRED)
@pytest.mark.parametrize("rank", [1, 3])
def test_a_paired_method_leads_with_the_planted_direction_in_its_sign(method: str, rank: int) -> None:
    direction, differences = planted(0, count=60, noise=0.1)
    assert (cosines(PAIRED[method](differences, rank), direction) > 0.97).all()
    assert (cosines(PAIRED[method](-differences, rank), direction) < -0.97).all()


@pytest.mark.parametrize("method", PAIRED)
@pytest.mark.parametrize("rank", [1, 3, 5])
def test_a_paired_method_gives_orthonormal_rows(method: str, rank: int) -> None:
    basis = PAIRED[method](planted(1, count=30, noise=0.8)[1], rank)
    assert basis.shape == (LAYERS, rank, WIDTH)
    assert basis.dtype == torch.float32
    gram = basis @ basis.transpose(1, 2)
    torch.testing.assert_close(gram, torch.eye(rank).expand(LAYERS, -1, -1), rtol=0, atol=1e-5)


@pytest.mark.parametrize("method", PAIRED)
def test_a_paired_method_is_deterministic_and_leaves_global_randomness_alone(method: str) -> None:
    differences = planted(2, count=20, noise=1.0)[1]
    state = torch.random.get_rng_state()
    first = PAIRED[method](differences.clone(), 3)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.rand(3)
    assert torch.equal(first, PAIRED[method](differences.clone(), 3))


def test_principal_components_span_what_an_eigendecomposition_in_float64_does() -> None:
    differences = planted(3, count=40, noise=0.7)[1]
    basis = paired_principal_components(differences, 4)
    for layer in range(LAYERS):
        rows = differences[:, layer].double()
        _, vectors = torch.linalg.eigh(rows.T @ rows)
        reference = vectors[:, -4:]
        inside = (basis[layer].double() @ reference).norm(dim=-1)
        torch.testing.assert_close(inside, torch.ones(4, dtype=torch.float64), rtol=0, atol=1e-5)
        assert (basis[layer] @ differences[:, layer].mean(0) >= 0).all()


def test_difference_of_means_is_the_unit_vector_between_the_means() -> None:
    positive, negative = normal(30, LAYERS, WIDTH, seed=4) + 0.5, normal(20, LAYERS, WIDTH, seed=5)
    basis = difference_of_means(positive, negative)
    for layer in range(LAYERS):
        gap = positive[:, layer].double().mean(0) - negative[:, layer].double().mean(0)
        torch.testing.assert_close(basis[layer, 0].double(), gap / gap.norm(), rtol=0, atol=1e-6)


def test_the_whitened_direction_solves_fishers_equation() -> None:
    positive, negative = normal(40, 2, 8, seed=6) + 0.7, normal(25, 2, 8, seed=7)
    shrinkage = 0.2
    basis = whitened_direction(positive, negative, shrinkage)
    for layer in range(2):
        groups = [group[:, layer].double() for group in (positive, negative)]
        spread = sum(((g - g.mean(0)).T @ (g - g.mean(0)) for g in groups), torch.zeros(8, 8, dtype=torch.float64))
        covariance = spread / 65
        shrunk = 0.8 * covariance + 0.2 * covariance.trace() / 8 * torch.eye(8)
        expected = torch.linalg.inv(shrunk) @ (groups[0].mean(0) - groups[1].mean(0))
        torch.testing.assert_close(basis[layer, 0].double(), expected / expected.norm(), rtol=0, atol=1e-5)


def test_full_shrinkage_leaves_the_difference_of_means() -> None:
    positive, negative = normal(30, LAYERS, WIDTH, seed=8) + 0.3, normal(30, LAYERS, WIDTH, seed=9)
    plain = difference_of_means(positive, negative)
    torch.testing.assert_close(whitened_direction(positive, negative, 1.0), plain, rtol=0, atol=1e-5)


def accuracy(direction: Tensor, positive: Tensor, negative: Tensor) -> float:
    """Share of pairs of new prompts that the direction orders rightly (the area under the ROC curve)."""
    return float((positive @ direction > (negative @ direction)[:, None]).float().mean())


@pytest.mark.parametrize("seed", range(3))
def test_the_whitened_direction_separates_better_than_the_means_where_noise_has_directions(seed: int) -> None:
    scales = torch.cat([torch.full((4,), 6.0), torch.full((WIDTH - 4,), 0.5)])

    def group(shift: float, count: int, seed: int) -> Tensor:
        return normal(count, 1, WIDTH, seed=seed) * scales + shift

    positive, negative = group(0.4, 200, seed), group(-0.4, 200, seed + 10)
    new_positive, new_negative = group(0.4, 300, seed + 20)[:, 0], group(-0.4, 300, seed + 30)[:, 0]
    whitened = whitened_direction(positive, negative, 0.01)[0, 0]
    plain = difference_of_means(positive, negative)[0, 0]
    assert accuracy(whitened, new_positive, new_negative) > 0.95
    assert accuracy(whitened, new_positive, new_negative) > accuracy(plain, new_positive, new_negative) + 0.1


def test_whitening_copes_with_fewer_prompts_than_dimensions() -> None:
    positive, negative = normal(5, LAYERS, 64, seed=10) + 1, normal(5, LAYERS, 64, seed=11)
    basis = whitened_direction(positive, negative, 0.1)
    torch.testing.assert_close(basis.norm(dim=-1), torch.ones(LAYERS, 1), rtol=0, atol=1e-5)


@pytest.mark.parametrize("method", ["parafac", "tucker"])
@pytest.mark.parametrize("seed", range(3))
def test_a_decomposition_of_all_layers_beats_single_layers_on_few_noisy_prompts(method: str, seed: int) -> None:
    direction, differences = planted(100 * seed, count=12, noise=0.8, layers=20, width=48)
    single = difference_of_means(differences, torch.zeros_like(differences))
    shared = PAIRED[method](differences, 1)
    assert cosines(shared, direction).mean() > cosines(single, direction).mean() + 0.1
    assert cosines(shared, direction).min() > 0.85


def test_a_layer_without_any_difference_still_has_an_orthonormal_basis() -> None:
    differences = planted(12, count=20, noise=0.2)[1]
    differences[:, 2] = 0
    for method in ("parafac", "tucker"):
        basis = PAIRED[method](differences, 3)
        gram = basis @ basis.transpose(1, 2)
        torch.testing.assert_close(gram, torch.eye(3).expand(LAYERS, -1, -1), rtol=0, atol=1e-5)
