"""A sweep in an environment as users have them: few open files, folders that are not there,
settings meant for other programs, a locale without UTF-8.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.tune.test_chaos import FILE, NAME, mlflow_runs, studies
from tests.tune.workplace import ROOT

pytestmark = pytest.mark.slow

ODD = {
    "CUDA_VISIBLE_DEVICES": "",
    "HOME": "/proc/none",
    "LC_ALL": "C",
    "MLFLOW_EXPERIMENT_NAME": "of another program",
    "MLFLOW_RUN_ID": "0123456789abcdef0123456789abcdef",
    "OMP_NUM_THREADS": "0",
    "PYTHONCOERCECLOCALE": "0",
    "PYTHONUTF8": "0",
    "TMPDIR": "/proc/none",
    "http_proxy": "http://127.0.0.1:9",
    "https_proxy": "http://127.0.0.1:9",
}
FEW_FILES = "ulimit -n 256; exec "


def test_it_runs_and_says_nothing_of_it(tmp_path: Path) -> None:
    file: dict[str, Any] = {**FILE, "description": "größer", "trials": 3}
    text = yaml.safe_dump(file, allow_unicode=True)
    (tmp_path / "sweep.yaml").write_text(text, encoding="utf-8")
    outside = ("MLFLOW_", "RAY_", "PYTHONWARNINGS")
    environment = {key: text for key, text in os.environ.items() if not key.startswith(outside)}
    program = f"{sys.executable} {ROOT}/tests/tune/tiny_sweep.py {tmp_path} {NAME}"
    ended = subprocess.run(
        ["bash", "-c", FEW_FILES + program],
        env={**environment, **ODD, "PYTHONPATH": str(ROOT)},
        text=True,
        capture_output=True,
        stdin=subprocess.DEVNULL,
        timeout=600,
    )
    assert ended.returncode == 0, ended.stderr
    # But for what OpenMP says of its own variable, and a busy machine's slow reading.
    usual = re.compile("$|.*libgomp|reading digits in ")
    assert [line for line in ended.stderr.splitlines() if not usual.match(line)] == []
    assert len(studies(tmp_path)[NAME]) == 3
    assert len(mlflow_runs(tmp_path)) == 3 + 1
