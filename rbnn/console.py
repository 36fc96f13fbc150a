"""Who listens to a training run in a terminal: a line per epoch, and progress within an epoch, with
the finish time.
"""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from rbnn.options import find_checkpoint
from rbnn.recipe import Recipe


def show_any_character() -> None:
    """Let this process print what its terminal or locale has no character for, as \\xNN or \\uNNNN.

    Names of files and descriptions are the user's; printing them must not end a run.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


class EpochPrinter:
    """`report` and `progress` for `rbnn.engine.fit` that print; plain lines, safe in a log file."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.best = float("-inf")
        if recipe.resume:
            self._take_up(Path(find_checkpoint(recipe.resume)))
        self.begun = time.monotonic()
        self.first_epoch: int | None = None
        self.first_step: tuple[float, int] | None = (
            None  # when the first step of this process was heard, and which it was
        )

    def __call__(self, metrics: dict[str, Any], checkpoint: Path | None) -> None:
        if self.first_epoch is None:
            self.first_epoch = metrics["epoch"]
            self.begun = time.monotonic() - metrics["time/epoch_s"]
        self.best = max(self.best, metrics["val/top1"])
        done = metrics["epoch"] + 1
        print(
            f"epoch {done:{len(str(self.recipe.epochs))}}/{self.recipe.epochs}  "
            f"loss {metrics['train/loss']:.3f}  train {metrics['train/top1']:5.2f} %  "
            f"val {metrics['val/top1']:5.2f} % (best {self.best:5.2f})  "
            f"lr {metrics['lr']:.4f}  t {metrics['t']:.3g}  {metrics['time/epoch_s']:.1f} s  "
            f"{speed(metrics)}{self._finish(done)}",
            flush=True,
        )

    def _take_up(self, path: Path) -> None:
        """Say where a run that was stopped goes on, and know its best epoch so far."""
        from rbnn.checkpoint import load

        state = load(path)
        self.best = state.best.get("top1", self.best)
        if state.epoch >= self.recipe.epochs:
            print(f"{path}: all {self.recipe.epochs} epochs are done", flush=True)
        else:
            after = f" after step {state.step}" if state.step else ""
            print(
                f"{path}: going on in epoch {state.epoch + 1} of {self.recipe.epochs}{after}",
                flush=True,
            )

    def _finish(self, done: int) -> str:
        if not self.recipe.time_estimate or done >= self.recipe.epochs or self.first_epoch is None:
            return ""
        pace = (time.monotonic() - self.begun) / (done - self.first_epoch)
        return f"  finish {finish_time(pace * (self.recipe.epochs - done))}"

    def progress(self, epoch: int, step: int, num_steps: int) -> None:
        """Say where within an epoch the run is, and by the pace since the first step heard, when it
        ends.
        """
        now, done = time.monotonic(), epoch * num_steps + step
        if self.first_step is None:
            self.first_step = now, done
        began, first = self.first_step
        pace = ""
        if done > first and now > began:
            pace = f"  {(done - first) * self.recipe.batch_size / (now - began):,.0f} images/s"
        if self.recipe.time_estimate and done > first:
            left = self.recipe.epochs * num_steps - done
            pace += f"  finish {finish_time((now - began) / (done - first) * left)}"
        print(f"  epoch {epoch + 1}, step {step}/{num_steps}{pace}", file=sys.stderr, flush=True)


class TrainingBar(EpochPrinter):
    """The same as one bar, in a terminal or a notebook, that an epoch or print_freq steps move."""

    def __init__(self, recipe: Recipe) -> None:
        from rbnn.data.progress import printer

        super().__init__(recipe)
        self.note = ""
        self.show = printer(f"{recipe.model} on {recipe.dataset}", "epochs")

    def __call__(self, metrics: dict[str, Any], checkpoint: Path | None) -> None:
        self.best = max(self.best, metrics["val/top1"])
        self.note = f"val/top1 {metrics['val/top1']:.2f} % (best {self.best:.2f}), {speed(metrics)}"
        self._move(metrics["epoch"] + 1.0)

    def progress(self, epoch: int, step: int, num_steps: int) -> None:
        self._move(epoch + step / num_steps)

    def _move(self, done: float) -> None:
        self.show(done, self.recipe.epochs, self.note)


def speed(metrics: dict[str, Any]) -> str:
    """Images a second, and the most memory that was taken on a GPU."""
    text = f"{metrics['time/images_per_s']:,.0f} images/s"
    memory = metrics.get("gpu/memory_gib")
    return f"{text}, {memory:.1f} GiB" if memory else text


def finish_time(seconds_left: float) -> str:
    """The local time `seconds_left` from now, with the date when it is another day."""
    then = datetime.now() + timedelta(seconds=seconds_left)
    return then.strftime("%H:%M:%S" if then.date() == datetime.now().date() else "%Y-%m-%d %H:%M")


def run_directory(recipe: Recipe) -> Path:
    """The folder of a run: results_dir / save, or a new one named after the model, the data set and
    the time.
    """
    name = recipe.save or f"{recipe.dataset}_{recipe.model}_{datetime.now():%Y%m%d-%H%M%S-%f}"
    return Path(recipe.results_dir) / name


def evaluation_lines(path: str, metrics: dict[str, float], num_images: int) -> Iterable[str]:
    """What an evaluation found, for people."""
    yield f"{path}: {num_images} validation images"
    yield (
        f"top-1 {metrics['val/top1']:.3f} %  top-5 {metrics['val/top5']:.3f} %  loss "
        f"{metrics['val/loss']:.4f}"
    )
