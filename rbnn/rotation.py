"""The bi-rotation of RBNN (paper section 3.2, eqs. 5 to 11): R1, R2 that bring the filters closest to their signs.

X (O, a, b): the O standardised filters of a layer, each as an a x b matrix. R1 (a, a), R2 (b, b): orthogonal.
B (O, a, b): sign(R1^T X R2). Objective: sum |R1^T X R2|, which every round of the update raises or keeps.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rbnn.binarize import sign


def factor_pair(n: int) -> tuple[int, int]:
    """The most nearly square (a, b) with a * b = n and a <= b; n >= 1, else ValueError.

    >>> [factor_pair(n) for n in (144, 288, 1152, 7)]
    [(12, 12), (16, 18), (32, 36), (1, 7)]
    """
    if n < 1:
        raise ValueError(f"n is {n}; a filter has at least one weight")
    a = next(a for a in range(math.isqrt(n), 0, -1) if n % a == 0)
    return a, n // a


def random_orthogonal(n: int, generator: torch.Generator | None = None) -> Tensor:
    """A Haar-distributed orthogonal (n, n) matrix in the default dtype, orthogonal to that dtype's rounding."""
    gaussian = torch.randn(n, n, dtype=torch.float64, generator=generator)
    q, r = torch.linalg.qr(gaussian)
    return (q * torch.sign(r.diagonal())).to(torch.get_default_dtype())


def rotate(X: Tensor, R1: Tensor, R2: Tensor) -> Tensor:
    """R1^T X R2 for every filter: X (O, a, b) -> (O, a, b). Differentiable."""
    return R1.T @ (X @ R2)


@torch.no_grad()
def bi_rotation_update(X: Tensor, R1: Tensor, R2: Tensor, rounds: int = 3) -> tuple[Tensor, Tensor]:
    """`rounds` alternations of the closed-form updates of B, R1 and R2; returns new (R1, R2), the arguments are untouched.

    B = sign(R1^T X R2); D1 = sum_i B_i R2^T X_i^T = U S V^T, R1 = V U^T; D2 = sum_i X_i^T R1 B_i = U S V^T, R2 = U V^T.
    Each sum over filters is one matrix product of operands reshaped to (a, O b) or (O a, b); X R2 and R1^T X serve
    both the signs and the sums. X (O, a, b), R1 (a, a), R2 (b, b), one floating dtype and device.
    """
    num_filters, a, b = X.shape
    tall = X.reshape(num_filters * a, b)
    wide = X.transpose(0, 1).reshape(a, num_filters * b)

    def to_wide(matrix: Tensor) -> Tensor:
        return matrix.view(num_filters, a, b).transpose(0, 1).reshape(a, num_filters * b)

    def to_tall(matrix: Tensor) -> Tensor:
        return matrix.view(a, num_filters, b).transpose(0, 1).reshape(num_filters * a, b)

    left = to_tall(R1.T @ wide)
    for _ in range(rounds):
        B = sign(left @ R2)
        U, _, Vh = torch.linalg.svd(to_wide(B) @ to_wide(tall @ R2).T)
        R1 = (U @ Vh).T
        left = to_tall(R1.T @ wide)
        U, _, Vh = torch.linalg.svd(left.T @ B)
        R2 = U @ Vh
    return R1.contiguous(), R2.contiguous()


def objective(X: Tensor, R1: Tensor, R2: Tensor) -> Tensor:
    """sum |R1^T X R2| (eq. 7 up to constants), a 0-dim tensor; X (O, a, b)."""
    return rotate(X, R1, R2).abs().sum()


def orthogonality_error(R: Tensor) -> float:
    """The largest entry of |R^T R - I| for R (n, n)."""
    return float((R.T @ R - torch.eye(len(R), dtype=R.dtype, device=R.device)).abs().max())
