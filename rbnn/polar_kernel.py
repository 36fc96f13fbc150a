"""The kernel of `rbnn.polar.newton_schulz_in_one`, in Triton: imported on a GPU only."""

from __future__ import annotations

import triton
import triton.language as tl

SIZES = ["n", "d_num", "d_row", "d_column", "near_num", "near_row", "near_column"]


@triton.jit(do_not_specialize=SIZES)
def newton_schulz(  # type: ignore[no-untyped-def]
    D, near, found, n, d_num, d_row, d_column, near_num, near_row, near_column,
    BLOCK: tl.constexpr, QUINTIC_STEPS: tl.constexpr, CUBIC_STEPS: tl.constexpr,
    A: tl.constexpr, B: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """One matrix: rows and columns beyond n are zeros, and stay zeros."""
    matrix = tl.program_id(0)
    row, column = tl.arange(0, BLOCK)[:, None], tl.arange(0, BLOCK)[None, :]
    inside = (row < n) & (column < n)
    places = matrix * d_num + row * d_row + column * d_column
    Y = tl.load(D + places, mask=inside, other=0.0).to(tl.float64)
    places = matrix * near_num + row * near_row + column * near_column
    N = tl.load(near + places, mask=inside, other=0.0).to(tl.float64)
    Y += tl.maximum(1e-5 * tl.sqrt(tl.sum(Y * Y)), 1e-30) * N
    Y /= tl.sqrt(tl.sum(Y * Y))
    for _ in range(QUINTIC_STEPS):
        S = tl.dot(Y, tl.trans(Y))
        T = B * S + C * tl.dot(S, S)
        Y = A * Y + tl.dot(T, Y)
    for _ in range(CUBIC_STEPS):
        Y = 1.5 * Y - 0.5 * tl.dot(tl.dot(Y, tl.trans(Y)), Y)
    places = matrix * n * n + row * n + column
    tl.store(found + places, Y.to(found.dtype.element_ty), mask=inside)
