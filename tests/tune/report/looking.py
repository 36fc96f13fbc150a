"""python -m tests.tune.report.looking FOLDER: looks at a sweep; asserts what is loaded when."""

from __future__ import annotations

import sys
from pathlib import Path

from tune.cli.__main__ import main
from tune.report.data import gather
from tune.sweep.folder import SweepFolder

folder = sys.argv[1]
assert main(["status", folder]) == 0 and "sklearn" not in sys.modules
assert gather(SweepFolder(Path(folder))).importance
assert not {"torch", "ray", "mlflow"} & sys.modules.keys()
