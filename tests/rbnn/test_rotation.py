"""The bi-rotation update over seeded shapes, and its formulas against a loop over the filters."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from rbnn.binarize import sign, standardize
from rbnn.polar import newton_schulz_together
from rbnn.rotation import (
    bi_rotation_update,
    bi_rotation_updates,
    factor_pair,
    objective,
    orthogonality_error,
    random_orthogonal,
    rotate,
)

# num_filters, a, b
SHAPES = [(16, 12, 12), (5, 16, 18), (3, 1, 7), (40, 2, 2), (1, 3, 4), (64, 24, 24)]
# Fewer filter rows than columns leave directions that no filter uses, where any orthogonal
# completion is right.
DETERMINED = [(num_filters, a, b) for num_filters, a, b in SHAPES if num_filters * a >= b]


def problem(
    seed: int, shape: tuple[int, int, int], dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    X = standardize(torch.randn(shape, generator=generator, dtype=torch.float64))
    R1, R2 = (random_orthogonal(n, generator) for n in shape[1:])
    return X.to(dtype), R1.to(dtype), R2.to(dtype)


def looped_update(X: Tensor, R1: Tensor, R2: Tensor) -> tuple[Tensor, Tensor]:
    """One round, written as the method states it."""
    B = [sign(R1.T @ x @ R2) for x in X]
    U, _, Vh = torch.linalg.svd(sum(b @ R2.T @ x.T for b, x in zip(B, X, strict=True)))
    R1 = Vh.T @ U.T
    U, _, Vh = torch.linalg.svd(sum(x.T @ R1 @ b for b, x in zip(B, X, strict=True)))
    return R1, U @ Vh


def test_factor_pair_is_the_most_nearly_square() -> None:
    for n in range(1, 400):
        a, b = factor_pair(n)
        assert a * b == n and a <= b
        assert not [d for d in range(a + 1, b) if n % d == 0 and d * d <= n]
    documented = {1152: (32, 36), 2304: (48, 48), 4608: (64, 72)}
    assert {n: factor_pair(n) for n in documented} == documented
    with pytest.raises(ValueError, match="n is 0"):
        factor_pair(0)


@pytest.mark.parametrize("n", [1, 2, 12, 64])
def test_random_orthogonal_is_orthogonal_seeded_and_of_either_determinant(n: int) -> None:
    drawn = [random_orthogonal(n, torch.Generator().manual_seed(seed)) for seed in range(12)]
    assert max(orthogonality_error(R) for R in drawn) < 1e-6
    assert torch.equal(drawn[3], random_orthogonal(n, torch.Generator().manual_seed(3)))
    assert {round(float(torch.linalg.det(R))) for R in drawn} == {-1, 1}


@pytest.mark.parametrize("shape", DETERMINED)
@pytest.mark.parametrize("seed", range(2))
def test_rounds_equal_the_sum_over_filters(shape: tuple[int, int, int], seed: int) -> None:
    X, R1, R2 = problem(seed, shape)
    copies = [tensor.clone() for tensor in (X, R1, R2)]
    expected = R1, R2
    for _ in range(3):
        expected = looped_update(X, *expected)
    actual = rotate(X, *bi_rotation_update(X, R1, R2, rounds=3))
    torch.testing.assert_close(actual, rotate(X, *expected), rtol=1e-8, atol=1e-8)
    assert all(map(torch.equal, copies, (X, R1, R2)))  # which are left alone


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("seed", range(2))
def test_the_objective_never_falls_from_round_to_round(
    shape: tuple[int, int, int], seed: int, dtype: torch.dtype
) -> None:
    X, R1, R2 = problem(seed, shape, dtype)
    values = [float(objective(X, R1, R2))]
    for _ in range(8):
        R1, R2 = bi_rotation_update(X, R1, R2, rounds=1)
        values.append(float(objective(X, R1, R2)))
    slack = (1e-12 if dtype == torch.float64 else 1e-5) * values[-1]
    assert all(after >= before - slack for before, after in pairwise(values)), values
    assert values[-1] > values[0]


@pytest.mark.parametrize(
    ("shape", "num_updates"), [((16, 12, 12), 300), ((8, 16, 18), 100), ((32, 24, 24), 50)]
)
def test_rotations_stay_orthogonal_in_float32(
    shape: tuple[int, int, int], num_updates: int
) -> None:
    X, R1, R2 = problem(0, shape, torch.float32)
    for _ in range(num_updates):
        X = standardize(X + 0.1 * torch.randn_like(X))
        R1, R2 = bi_rotation_update(X, R1, R2)
    assert max(orthogonality_error(R1), orthogonality_error(R2)) < 1e-5


def test_layers_updated_together_are_updated_as_each_alone() -> None:
    problems = [problem(seed, (16, 12, 12)) for seed in range(3)]
    together = bi_rotation_update(*(torch.stack(parts) for parts in zip(*problems, strict=True)))
    for index, alone in enumerate(problems):
        for one, all_of_them in zip(bi_rotation_update(*alone), together, strict=True):
            torch.testing.assert_close(all_of_them[index], one, rtol=1e-9, atol=1e-9)


def test_products_alone_reach_the_objective_of_the_svd(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = [(16, 12, 12), (32, 16, 18), (64, 24, 24)]
    problems = [problem(seed, shape, torch.float32) for seed, shape in enumerate(shapes)]
    with monkeypatch.context() as patch:
        patch.setattr("rbnn.rotation.polar_factors", newton_schulz_together)  # as on a GPU
        found = bi_rotation_updates([(X[None], R1[None], R2[None]) for X, R1, R2 in problems])
    for (X, R1, R2), (ours_1, ours_2) in zip(problems, found, strict=True):
        before, best = objective(X, R1, R2), objective(X, *bi_rotation_update(X, R1, R2))
        assert objective(X, ours_1[0], ours_2[0]) > before + 0.99 * (best - before)
        assert max(orthogonality_error(ours_1[0]), orthogonality_error(ours_2[0])) < 1e-6
