#!/usr/bin/env bash
# The first minutes on a card, at most nine, in order of value; each part has a limit of its own, and
# none needs another. What they print goes to the folder given (default: first_gpu_run) as well.
#   benchmarks/first_gpu_run.sh [FOLDER]
set -u
cd "$(dirname "${BASH_SOURCE[0]}")/.."
OUT=${1:-first_gpu_run}
PYTHON=${PYTHON:-.venv/bin/python}
mkdir -p "$OUT"

part() { # NAME LIMIT_S COMMAND...
    local name=$1 limit_s=$2 began=$SECONDS
    shift 2
    timeout -k 5 "$limit_s" "$@" 2>&1 | tee "$OUT/$name.txt" | tail -15
    echo "== $name: status ${PIPESTATUS[0]}, $((SECONDS - began)) s"
}

nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv | tee "$OUT/card.txt"
part gpu-tests 120 "$PYTHON" -m pytest -q -m gpu tests/rbnn/test_gpu.py
part rows 180 "$PYTHON" -m benchmarks --only cuda
part recipe 225 "$PYTHON" -m rbnn train cifar10_resnet20_1w1a --epochs 150 --results_dir "$OUT/runs"
