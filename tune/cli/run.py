"""One training in a program or a notebook, and as the command line runs it.

    tune.train("cifar10_resnet20_1w1a", epochs=400)    recorded, where rbnn.train records nothing
    tune.replay(RUN_ID, verify=True).verdict

Wrong requests raise rbnn.errors.RequestError, whose text is the line that the command prints.
"""

from __future__ import annotations

import html
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rbnn.errors import RequestError
from rbnn.recipe import Recipe, load_recipe

if TYPE_CHECKING:
    from tune.run.record import RunRecord
    from tune.run.train import TrainResult
    from tune.run.verdict import SeedsVerdict, Verdict


def train(
    recipe: str | Path | Recipe, *, name: str = "", tensorboard: bool = False, **options: Any
) -> TrainResult:
    """Train a recipe, options on top, and record it in MLflow; on Ray where it has workers."""
    from rbnn.session import resolve
    from tune.cli.listeners import watched
    from tune.run.train import train_recorded

    if not isinstance(recipe, Recipe):
        name, recipe = name or str(recipe), load_recipe(recipe, **options)
    elif options:
        recipe = recipe.replace(**options)
    recipe = resolve(recipe)
    with watched("", tensorboard=tensorboard) as (listener, _):
        return train_recorded(recipe, listener, name=name or f"{recipe.dataset}_{recipe.model}")


@dataclass(frozen=True)
class Replay:
    """What was run again, and what it proved. verdict: None for a recipe without a documented
    figure; its `positive` says whether all is well, its `text` why.
    """

    runs: list[TrainResult]
    verdict: Verdict | SeedsVerdict | None

    @property
    def lines(self) -> list[str]:
        """For people."""
        from tune.run.replay import seeds_table

        lines = [result_line(run) for run in self.runs]
        if len(self.runs) > 1 and self.verdict:
            lines = seeds_table(self.runs, self.verdict)  # type: ignore[arg-type]
        return [*lines, f"verdict: {self.verdict.text}"] if self.verdict else lines

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(chr(10).join(self.lines))}</pre>"


def replay(
    target: str,
    *,
    verify: bool = False,
    seeds: int | None = None,
    tolerance: float | None = None,
    tensorboard: bool = False,
    **options: Any,
) -> Replay:
    """Run a recipe (name or file), a recorded run (id, or its beginning) or an exported one again,
    with a verdict.

    verify: compare every epoch with the recorded run, the last val/top1 within `tolerance` points
    (0.5). seeds: judge a recipe by the mean of so many seeds. options: of the recipe; of a recorded
    run those alone that cannot change its result.
    """
    _check_replay(verify, seeds, tolerance)
    from tune.run.record import find_recipe, find_record

    # What cannot be run is refused before anything is written, MLflow's database too, and what is
    # not there before torch is imported, which takes seconds.
    if verify:
        recipe = find_record(target, find_run).to_recipe()
    else:
        recipe = find_recipe(target, options, find_run)[0]
    from rbnn.session import resolve
    from tune.cli.listeners import watched
    from tune.run import replay as again

    resolve(recipe)
    verdict: Any
    with watched("", tensorboard=tensorboard) as (listener, _):
        if seeds:
            return Replay(*again.replay_seeds(target, options, find_run, listener, seeds))
        if verify:
            within = again.TOLERANCE if tolerance is None else tolerance
            done, verdict = again.replay_and_verify(
                target, options, find_run, listener, tolerance=within
            )
        else:
            done, verdict = again.replay(target, options, find_run, listener)
    return Replay([done], verdict)


def _check_replay(verify: bool, seeds: int | None, tolerance: float | None) -> None:
    if seeds is not None and seeds < 1:
        raise RequestError(f"--seeds is {seeds}; it must be at least 1")
    if seeds and verify:
        raise RequestError(
            "--seeds goes with a recipe and --verify with a recorded run; give one of them"
        )
    if tolerance is not None and not (verify and tolerance >= 0):
        raise RequestError(
            f"--tolerance is {tolerance:g}; it must be at least 0, and goes with --verify"
        )


def find_run(target: str) -> RunRecord:
    """The recorded run of an id, or of its beginning, in the store."""
    from tune.run.record import looks_like_an_id
    from tune.tracking.address import RUN, may_hold, tracking_uri
    from tune.tracking.reader import RunReader
    from tune.uris import shown

    if not looks_like_an_id(target):
        remedy = "give one, or its first characters, from rbnn status"
        raise RequestError(f"run '{target}' is not a run id; {remedy}")
    if not may_hold(RUN, {"word": target.lower()}):
        store = shown(tracking_uri())
        raise RequestError(f"run '{target}' in {store} is unknown; see rbnn status, or rbnn ui")
    return RunReader.open().record_of(target)


def result_line(done: TrainResult) -> str:
    """Where a finished run is, and how good."""
    where = f"checkpoints in {done.directory}; run {done.run_id}"
    return f"best val/top1 {done.best_top1:.2f} %; {where}"
