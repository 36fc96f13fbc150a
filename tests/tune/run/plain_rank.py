"""python plain_rank.py FOLDER RECIPE RANK: one of two ranks of a training, without Ray."""

import json
import sys
from datetime import timedelta
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

import torch
from torch import distributed

from rbnn.data import open_loaders
from rbnn.distributed import World
from rbnn.engine import fit
from rbnn.recipe import Recipe

folder, recipe = Path(sys.argv[1]), Recipe(**json.loads(sys.argv[2]))
place = {"store": distributed.FileStore(str(folder / "store"), 2), "rank": int(sys.argv[3])}
distributed.init_process_group("gloo", **place, world_size=2, timeout=timedelta(seconds=120))
loaders = open_loaders(recipe, torch.device("cpu"), World.current())
fit(recipe, loaders, lambda *heard: None, directory=folder)
distributed.destroy_process_group()
