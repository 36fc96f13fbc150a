"""python open_fresh_store.py FOLDER: records a run in a new store; asserts what is loaded when."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

import tune.serve.ui
from rbnn.recipe import Recipe
from tune.run.folder import RunFolder, RunInfo
from tune.tracking.mirror import Mirror

assert tune.serve.ui and "mlflow" not in sys.modules

folder = Path(sys.argv[1])
run = RunFolder.begin(folder / "run", RunInfo(name="run"), Recipe())
mirror = Mirror.open(f"sqlite:///{folder}/mlflow.db")
mirror.reader.recipe_of(mirror.sync(run.directory))
