"""The polar factor U V^T of square matrices D = U S V^T: the orthogonal R that maximises tr(R^T D).

By SVD on a CPU. A GPU's SVD waits for the host, so there it is a Newton-Schulz iteration of matrix
products in float64: of a small matrix (up to LARGEST) within one kernel, all of a shape in one
launch, where kernels can be compiled; else product by product, all sizes together.

D (L, n, n): L matrices; near (L, n, n): the rotations that the factors will replace.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rbnn.hardware import obstacle

QUINTIC_STEPS, CUBIC_STEPS = 18, 7
# Jordan et al. 2024: steepest at 0, brings all of (0, 1] to within 0.32 of 1.
QUINTIC = (3.4445, -4.7750, 2.0315)
LARGEST = 64  # two float64 operands of 128 x 128 do not fit the memory that a kernel shares
Asked = tuple[Tensor, Tensor]  # D and near


def polar_factors(asked: Sequence[Asked]) -> list[Tensor]:
    """The polar factors of each D."""
    if not any(D.is_cuda for D, _ in asked):
        return [U @ Vh for U, _, Vh in (torch.linalg.svd(D) for D, _ in asked)]
    found: dict[int, Tensor] = {}
    if not obstacle("cuda"):
        small = [index for index, (D, _) in enumerate(asked) if D.shape[-1] <= LARGEST]
        found = {index: newton_schulz_in_one(*asked[index]) for index in small}
    rest = [index for index in range(len(asked)) if index not in found]
    if rest:
        together = newton_schulz_together([asked[index] for index in rest])
        found.update(zip(rest, together, strict=True))
    return [found[index] for index in range(len(asked))]


def newton_schulz_together(asked: Sequence[Asked]) -> list[Tensor]:
    """`newton_schulz` of matrices of several sizes, as one batch of the largest.

    The smaller ones stand in a corner, zeros beside them, so that no product mixes the two; what
    `near` fills the rest with is cut off again.
    """
    largest, num = max(D.shape[-1] for D, _ in asked), sum(len(D) for D, _ in asked)
    Ds = asked[0][0].new_zeros(num, largest, largest)
    nears = torch.eye(largest, dtype=Ds.dtype, device=Ds.device).repeat(num, 1, 1)
    places, start = [], 0
    for D, near in asked:
        places.append((slice(start, start + len(D)), slice(D.shape[-1]), slice(D.shape[-1])))
        Ds[places[-1]], nears[places[-1]] = D, near
        start += len(D)
    found = newton_schulz(Ds, nears)
    return [found[place] for place in places]


def newton_schulz(D: Tensor, near: Tensor) -> Tensor:
    """The polar factor of every matrix of D, by matrix products alone, in float64, as TF32 may be
    on; orthogonal to D's dtype's rounding.

    QUINTIC_STEPS of a quintic that brings every singular value above 1e-9 of the norm near 1, then
    CUBIC_STEPS that square the distance. A singular D is made regular by 1e-5 of `near`, whose
    directions fill those that D leaves open.
    """
    a, b, c = QUINTIC
    Y = D.double()
    norm = torch.linalg.matrix_norm(Y, keepdim=True)
    Y = Y + (1e-5 * norm).clamp_min(1e-30) * near.double()
    Y = Y / torch.linalg.matrix_norm(Y, keepdim=True)
    for _ in range(QUINTIC_STEPS):
        S = Y @ Y.mT
        Y = torch.baddbmm(Y, torch.baddbmm(S, S, S, beta=b, alpha=c), Y, beta=a)
    for _ in range(CUBIC_STEPS):
        Y = torch.baddbmm(Y, Y @ Y.mT, Y, beta=1.5, alpha=-0.5)
    return Y.to(D.dtype)


def newton_schulz_in_one(D: Tensor, near: Tensor) -> Tensor:
    """`newton_schulz` of matrices of up to LARGEST, in one launch, each by one program; equal to it
    but for the order of sums.
    """
    from rbnn.polar_kernel import newton_schulz as kernel

    num, n, _ = D.shape
    block = max(16, 1 << (n - 1).bit_length())
    found = torch.empty(num, n, n, dtype=D.dtype, device=D.device)
    steps = (QUINTIC_STEPS, CUBIC_STEPS, *QUINTIC)
    strides = (*D.stride(), *near.stride())
    how = {"num_warps": 8 if block > 32 else 4, "enable_fp_fusion": True}
    kernel[(num,)](D, near, found, n, *strides, block, *steps, **how)
    return found
