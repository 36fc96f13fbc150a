#!/usr/bin/env bash
# The first minutes on a card, at most nine, in order of value; each part has a limit of its own, and
# none needs another. What they print goes to the folder given (default: first_gpu_run) as well.
#   [DATA=./data] [PARTS="gpu-tests step"] [EPOCHS=100] benchmarks/first_gpu_run.sh [FOLDER]
set -u
cd "$(dirname "${BASH_SOURCE[0]}")/.."
OUT=${1:-first_gpu_run}
DATA=${DATA:-./data}
PYTHON=${PYTHON:-.venv/bin/python}
PARTS=${PARTS:-gpu-tests epoch step evaluation rotation launches together epoch-resnet18 recipe}
WHOLE_S=${WHOLE_S:-530}
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} # the project need not be installed
mkdir -p "$OUT"

part() { # NAME LIMIT_S COMMAND...
    local name=$1 limit_s=$2 began=$SECONDS
    shift 2
    [[ " $PARTS " == *" $name "* ]] || return
    [ "$limit_s" -gt $((WHOLE_S - SECONDS)) ] && limit_s=$((WHOLE_S - SECONDS))
    if [ "$limit_s" -lt 5 ]; then
        echo "== $name: no time left"
        return
    fi
    timeout -k 5 "$limit_s" "$@" 2>&1 | tee "$OUT/$name.txt" | tail -15
    echo "== $name: status ${PIPESTATUS[0]}, $((SECONDS - began)) s"
}

rows() { # NAME LIMIT_S BENCHMARK
    part "$1" "$2" "$PYTHON" -m benchmarks --device cuda --only "$3" --json "$OUT/$1.json"
}

nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv | tee "$OUT/card.txt"
# Several at once, as they mostly compile; what an older torch warns of while it compiles is no error.
part gpu-tests 150 "$PYTHON" -m pytest -q -m gpu -n 4 -W default \
    tests/rbnn/test_gpu.py tests/rbnn/test_convolution.py
# The first to compile the step: more than a minute on an H100's host, 19 s once that is kept.
rows epoch 150 "epoch resnet20"
rows step 60 "training step resnet20"
rows evaluation 25 "evaluation resnet20"
rows rotation 25 "rotation update resnet20"
# The profiler's counts, to be laid beside those of tests/rbnn/test_nullgpu.py.
part launches 45 "$PYTHON" tests/rbnn/nullgpu/work.py compile resnet20_1w1a float32 256 cifar10
rows together 90 "resnet20 trials together"
rows epoch-resnet18 60 "epoch resnet18"

# As many epochs as the rest of the time allows, 45 s of it for starting and what was not foreseen.
epochs=$("$PYTHON" - "$OUT/epoch.json" $((WHOLE_S - SECONDS - 45)) <<'PYTHON'
import json, sys
from pathlib import Path

file, left_s = Path(sys.argv[1]), float(sys.argv[2])
rows = json.loads(file.read_text())["rows"] if file.is_file() else []
epoch_s = next((row["ours"] for row in rows if row["ratios"]), 1.0)
print(max(10, min(1000, int(left_s / epoch_s))))
PYTHON
)
part recipe "$WHOLE_S" "$PYTHON" -m rbnn train cifar10_resnet20_1w1a --epochs "${EPOCHS:-$epochs}" \
    --data_path "$DATA" --results_dir "$OUT/runs"
