"""Polar factors by products alone: the SVD's, whatever D is, in one kernel as in many."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from rbnn.polar import newton_schulz, newton_schulz_together, polar_factors
from rbnn.rotation import orthogonality_error, random_orthogonal


def problem(n: int, kind: str) -> tuple[Tensor, Tensor]:
    """Two matrices D of a kind, and a rotation near to each."""
    generator = torch.Generator().manual_seed(n)
    D = torch.randn(2, n, n, generator=generator)
    near = torch.stack([random_orthogonal(n, generator) for _ in range(2)])
    if kind == "ill-conditioned":
        U, _, Vh = torch.linalg.svd(D)
        D = U @ torch.diag_embed(torch.logspace(0, -4, n).expand(2, n)) @ Vh
    elif kind != "random":
        D[:, :, : 1 if kind == "singular" else n] = 0
    return D, near


@pytest.mark.parametrize("n", [1, 12, 24, 72])
@pytest.mark.parametrize("kind", ["random", "ill-conditioned", "singular", "zero"])
def test_newton_schulz_finds_the_polar_factor_by_products_alone(n: int, kind: str) -> None:
    D, near = problem(n, kind)
    R = newton_schulz(D, near)
    assert R.dtype == D.dtype
    assert max(orthogonality_error(one) for one in R) < 1e-6
    reached, best = ((D * factor).sum((1, 2)) for factor in (R, *polar_factors([(D, near)])))
    assert bool((reached >= best - 2e-5 * best.abs()).all())


@pytest.mark.skipif(not importlib.util.find_spec("triton"), reason="the kernel needs Triton")
def test_one_kernel_finds_it_too_wherever_a_matrix_lies(tmp_path: Path) -> None:
    given = [problem(1, "zero"), problem(12, "singular"), problem(18, "ill-conditioned")]
    laid_otherwise = [(D.mT.contiguous().mT, near.mT.contiguous().mT) for D, near in given]
    torch.save(given + laid_otherwise, tmp_path / "problems")
    script = Path(__file__).with_name("one_kernel.py")
    command = [sys.executable, str(script), str(tmp_path / "problems")]
    subprocess.run(command, env=os.environ | {"TRITON_INTERPRET": "1"}, check=True, timeout=300)
    found = torch.load(tmp_path / "problems")
    for (D, near), R, again in zip(given, found[:3], found[3:], strict=True):
        assert torch.equal(R, again)
        torch.testing.assert_close(R, newton_schulz(D, near), rtol=1e-5, atol=1e-5)
        assert max(orthogonality_error(one) for one in R) < 1e-6


def test_polar_factors_of_several_sizes_are_found_together_as_each_alone() -> None:
    generator = torch.Generator().manual_seed(7)
    asked = []
    for num, n in ((2, 12), (1, 18), (3, 1)):
        near = torch.stack([random_orthogonal(n, generator) for _ in range(num)])
        asked.append((torch.randn(num, n, n, generator=generator), near))
    asked[0][0][0, :, :3] = 0
    for (D, near), together in zip(asked, newton_schulz_together(asked), strict=True):
        assert together.shape == D.shape
        torch.testing.assert_close(together, newton_schulz(D, near), rtol=1e-5, atol=1e-5)
        assert max(orthogonality_error(R) for R in together) < 1e-6
