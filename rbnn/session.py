"""One training or evaluation in the calling process: from a recipe to a finished run, for whoever
reports it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rbnn import checkpoint as ckpt
from rbnn.data import describe_data, open_loaders
from rbnn.data.loading import DataInfo, Loaders
from rbnn.engine import LAST, Progress, Report, Run, evaluate, fit
from rbnn.errors import RecipeError
from rbnn.hardware import device_of, prepare_process
from rbnn.models import build
from rbnn.network import Network
from rbnn.options import find_checkpoint
from rbnn.recipe import Recipe
from rbnn.state import make_directory


@dataclass
class Session:
    """A resolved recipe with its data open and its folder chosen; nothing has run or been written
    yet.
    """

    recipe: Recipe
    directory: Path
    loaders: Loaders

    @classmethod
    def open(cls, recipe: Recipe, directory: Path) -> Session:
        """Open the data of a resolved one-worker recipe; raises as `open_loaders` does, and
        DataError for too few images.
        """
        describe_data(recipe)
        return cls(recipe, directory, open_loaders(recipe, device_of(recipe)))

    def train(self, report: Report, progress: Progress | None = None) -> Run:
        """Run `fit`, from `recipe.resume` where it is given; RecipeError also where the folder
        cannot be made.
        """
        if self.recipe.train_workers > 1:
            raise RecipeError(
                f"train_workers is {self.recipe.train_workers}: several workers need Ray; use "
                "rbnn train"
            )
        resume = Path(find_checkpoint(self.recipe.resume)) if self.recipe.resume else None
        make_directory(self.directory)
        return fit(
            self.recipe,
            self.loaders,
            report,
            device=device_of(self.recipe),
            directory=self.directory,
            resume=resume,
            progress=progress,
        )

    @property
    def last(self) -> Path:
        return self.directory / LAST


def evaluate_file(recipe: Recipe, path: str) -> tuple[dict[str, float], DataInfo]:
    """Validation metrics of the checkpoint at `path` on the recipe's data; raises CheckpointError
    or DataError.
    """
    state = ckpt.load(find_checkpoint(path))
    device = device_of(recipe)
    prepare_process(recipe, device)
    model = build(recipe.model, recipe.dataset, recipe.a32, semantics=recipe.semantics)
    ckpt.load_weights(model, state, path)
    loaders = open_loaders(recipe, device)
    network = Network(model.to(device), recipe.replace(compile="off"), device)
    return evaluate(network, loaders.val), loaders.info
