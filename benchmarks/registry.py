"""Every benchmark, in the order of the table."""

from __future__ import annotations

from benchmarks import (
    rows_data,
    rows_gpu,
    rows_packed,
    rows_records,
    rows_rotation,
    rows_sweep,
    rows_training,
)
from benchmarks.measure import Benchmark

BENCHMARKS: list[Benchmark] = [
    *rows_training.BENCHMARKS,
    *rows_rotation.BENCHMARKS,
    *rows_data.BENCHMARKS,
    *rows_records.BENCHMARKS,
    *rows_sweep.BENCHMARKS,
    *rows_packed.BENCHMARKS,
    *rows_gpu.BENCHMARKS,
]
