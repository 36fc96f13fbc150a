"""Given a FOLDER: records a run in a new store there; asserts what is loaded when."""

from __future__ import annotations

import sys
from pathlib import Path

import tune.serve.ui
from rbnn.recipe import Recipe
from tune.run.folder import RunFolder, RunInfo
from tune.tracking.mirror import Mirror

assert tune.serve.ui and "mlflow" not in sys.modules

folder = Path(sys.argv[1])
run = RunFolder.begin(folder / "run", RunInfo(name="run"), Recipe())
mirror = Mirror.open(f"sqlite:///{folder}/mlflow.db")
mirror.reader.recipe_of(mirror.sync(run.directory))
