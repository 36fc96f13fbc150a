"""The bi-rotation of RBNN (paper section 3.2, eqs. 5 to 11): R1, R2 that bring the filters closest
to their signs.

X (O, a, b): the O standardised filters of a layer, each as an a x b matrix. R1 (a, a), R2 (b, b):
orthogonal. B (O, a, b): sign(R1^T X R2). Objective: sum |R1^T X R2|, which every round of the
update raises or keeps.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from typing import Any

import torch
from torch import Tensor

from rbnn.polar import Asked, polar_factors

Group = tuple[
    Tensor, Tensor, Tensor
]  # X (L, O, a, b), R1 (L, a, a), R2 (L, b, b): layers of one shape together
Update = Generator[Asked, Any, tuple[Tensor, Tensor]]


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
    """A Haar-distributed orthogonal (n, n) matrix in the default dtype, orthogonal to that dtype's
    rounding.
    """
    gaussian = torch.randn(n, n, dtype=torch.float64, generator=generator)
    q, r = torch.linalg.qr(gaussian)
    return (q * torch.sign(r.diagonal())).to(torch.get_default_dtype())


def rotate(X: Tensor, R1: Tensor, R2: Tensor) -> Tensor:
    """R1^T X R2 for every filter: X (O, a, b) -> (O, a, b). Differentiable."""
    return R1.T @ (X @ R2)


def rotate_together(X: Tensor, R1: Tensor, R2: Tensor) -> Tensor:
    """`rotate` of L layers in two products: X (L, O, a, b), R1 (L, a, a), R2 (L, b, b); returns
    (L, O, a, b).
    """
    num_layers, num_filters, a, b = X.shape
    right = X.transpose(1, 2).reshape(num_layers, a * num_filters, b) @ R2
    return (R1.mT @ right.view(num_layers, a, -1)).view(num_layers, a, -1, b).transpose(1, 2)


@torch.no_grad()
def bi_rotation_update(X: Tensor, R1: Tensor, R2: Tensor, rounds: int = 3) -> tuple[Tensor, Tensor]:
    """`rounds` alternations of the closed-form updates of B, R1 and R2; returns new (R1, R2), the
    arguments are untouched.

    B = sign(R1^T X R2); D1 = sum_i B_i R2^T X_i^T = U S V^T, R1 = V U^T; D2 = sum_i X_i^T R1 B_i =
    U S V^T, R2 = U V^T. X (O, a, b), R1 (a, a), R2 (b, b), one floating dtype and device; or layers
    of one shape together, (L, O, a, b), (L, a, a), (L, b, b).

    With the filters laid out as (a, O, b) every product is one matrix product of a view: R1^T X of
    (a, O b), X R2 of (a O, b), D1 over (O b), D2 over (a O). X R2 serves both B and D1.
    """
    group = (X, R1, R2) if X.ndim == 4 else (X[None], R1[None], R2[None])
    ((R1, R2),) = bi_rotation_updates([group], rounds)
    return (R1, R2) if X.ndim == 4 else (R1[0], R2[0])


@torch.no_grad()
def bi_rotation_updates(groups: Sequence[Group], rounds: int = 3) -> list[tuple[Tensor, Tensor]]:
    """`bi_rotation_update` of several groups of layers, (R1, R2) each; all take each step together.

    A GPU then finds the polar factors of a whole network in the launches that one group's would
    take.
    """
    updates = [_update(*group, rounds) for group in groups]
    asked: list[Asked] = []
    answers: list[Tensor | None] = [None] * len(updates)
    while True:
        returned = []
        for update, answer in zip(updates, answers, strict=True):
            try:
                asked.append(update.send(answer))
            except StopIteration as end:
                returned.append(end.value)
        if len(returned) == len(updates):
            return returned
        answers, asked = [*polar_factors(asked)], []


def _update(X: Tensor, R1: Tensor, R2: Tensor, rounds: int) -> Update:
    """A group's update: yields (D, the rotation to be replaced) and is sent the polar factor of D;
    returns (R1, R2).
    """
    num_layers, num_filters, a, b = X.shape
    tall, wide = (num_layers, a * num_filters, b), (num_layers, a, num_filters * b)
    Xs = X.transpose(1, 2).contiguous()
    product, B = (
        torch.empty_like(Xs),
        torch.empty_like(Xs),
    )  # written again each round: fresh memory costs more than a product
    one = X.new_ones(())
    for _ in range(rounds):
        torch.bmm(Xs.view(tall), R2, out=product.view(tall))
        torch.bmm(R1.mT, product.view(wide), out=B.view(wide))
        torch.copysign(one, B.add_(0.0), out=B)  # + 0.0: the sign of -0.0 is +1
        R1 = yield torch.bmm(B.view(wide), product.view(wide).mT).mT, R1
        torch.bmm(R1.mT, Xs.view(wide), out=product.view(wide))
        R2 = yield torch.bmm(product.view(tall).mT, B.view(tall)), R2
    return R1, R2


def objective(X: Tensor, R1: Tensor, R2: Tensor) -> Tensor:
    """sum |R1^T X R2| (eq. 7 up to constants), a 0-dim tensor; X (O, a, b)."""
    return rotate(X, R1, R2).abs().sum()


def orthogonality_error(R: Tensor) -> float:
    """The largest entry of |R^T R - I| for R (n, n)."""
    return float((R.T @ R - torch.eye(len(R), dtype=R.dtype, device=R.device)).abs().max())
