"""Run a documented recipe, a recorded run or an exported one again, and say with evidence whether
it came out as it should.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from rbnn.console import run_directory
from rbnn.errors import RecipeError, RequestError
from rbnn.recipe import FIELDS, Recipe, documented_accuracies, load_recipe, recipe_files
from tune.run.environment import run_environment
from tune.run.record import RunRecord, is_record, read_record, record_of
from tune.run.train import Recorded, train_recorded
from tune.run.verdict import (
    TOLERANCE,
    Difference,
    SeedsVerdict,
    Verdict,
    environment_differences,
    judge_seeds,
    verify,
)
from tune.tracking.mirror import Tracker

FOLDERS = ("save", "resume", "evaluate")
Say = Callable[[str], Any]


def replay(
    target: str, given: dict[str, Any], tracker: Tracker
) -> tuple[Recorded, SeedsVerdict | None]:
    """Replay `target`: a recipe's name or file, with options of the line on top, a run id (or its
    beginning), a file of export.

    A recorded run takes only options that cannot change its result (folders, printing); RecipeError
    otherwise. The verdict is on the figure documented for a named recipe, None for all else.
    """
    recipe, name, source = find_recipe(target, given, tracker)
    named, figures = (None, {}) if source else _documented(name)
    verdicts: list[SeedsVerdict] = []

    def conclude(done: Recorded) -> None:
        if "top1" in figures:
            verdicts.append(judge_seeds([done.best_top1], recipe, named, figures))
            tracker.set_tags(done.run_id, verdict_tags(verdicts[0]))
            tracker.log_dict(done.run_id, verdicts[0].to_dict(), "verdict.json")

    tags = {"rbnn.replays": source} if source else {}
    done = train_recorded(recipe, tracker, kind="replay", name=name, tags=tags, conclude=conclude)
    return done, verdicts[0] if verdicts else None


def replay_and_verify(
    target: str,
    given: dict[str, Any],
    tracker: Tracker,
    *,
    tolerance: float = TOLERANCE,
    say: Say = print,
) -> tuple[Recorded, Verdict]:
    """Run a recorded run (by id, or the file of `rbnn export`) again and compare, epoch by epoch,
    with what it recorded.

    The differences of the machines are said first. The verdict becomes tags and artifacts of the
    new run, linked to the old.
    """
    recorded = find_record(target, tracker)
    recipe = _again(target, recorded.to_recipe(), given)
    here = run_environment(recipe)
    changed = environment_differences(recorded.environment, here)
    say(
        f"replaying {recorded.recipe_name or recorded.name}, run {recorded.run_id}: "
        f"{len(recorded.epochs)} recorded epochs"
    )
    say(*environment_lines(changed))
    verdicts: list[Verdict] = []

    def conclude(done: Recorded) -> None:
        verdicts.append(verify(recorded, done.epochs, here, tolerance))
        log_verdict(tracker, done.run_id, recorded, verdicts[0])

    done = train_recorded(
        recipe,
        tracker,
        kind="replay",
        name=recorded.recipe_name,
        tags={"rbnn.replays": recorded.run_id},
        fingerprint=recorded.data.get("fingerprint", ""),
        conclude=conclude,
    )
    return done, verdicts[0]


def environment_lines(changed: list[Difference]) -> list[str]:
    """What differs between the recorded machine and this one, as one text for people."""
    if not changed:
        return ["environment: the same machine, packages and code as recorded"]
    lines = [
        f"  {each.name}: {each.old or 'none'} recorded, {each.new or 'none'} here"
        for each in changed
    ]
    return ["\n".join(["environment differs:", *lines])]


def verdict_tags(verdict: Verdict | SeedsVerdict) -> dict[str, str]:
    """The tags by which verdicts are found."""
    tags = {"rbnn.verdict": verdict.result, "rbnn.verdict_positive": str(verdict.positive).lower()}
    if isinstance(verdict, SeedsVerdict):
        figures = {"mean": verdict.mean, "std": verdict.std, "documented": verdict.documented}
        tags |= {
            f"rbnn.{name}_top1": f"{value:.6g}"
            for name, value in figures.items()
            if value is not None
        }
    return tags


def log_verdict(tracker: Tracker, run_id: str, recorded: RunRecord, verdict: Verdict) -> None:
    """The verdict as tags, artifact and description of the run that was replayed into."""
    tags = verdict_tags(verdict)
    if verdict.first:
        tags["rbnn.verdict_epoch"] = str(verdict.first.epoch)
    link = (
        f"[{recorded.name} "
        f"({recorded.run_id[:8]})](#/experiments/{tracker.experiment_id}/runs/{recorded.run_id})"
    )
    lines = [f"Replay of {link}.", "", f"**Verdict: {verdict.text}.**", "", "Environment:"]
    lines += [
        f"- {each.name}: `{each.old}` recorded, `{each.new}` here" for each in verdict.environment
    ] or ["- the same"]
    tracker.set_tags(run_id, {**tags, "mlflow.note.content": "\n".join(lines)})
    tracker.log_dict(run_id, {"replays": recorded.run_id, **verdict.to_dict()}, "verdict.json")


def replay_seeds(
    target: str, given: dict[str, Any], tracker: Tracker, num_seeds: int, *, say: Say = print
) -> tuple[list[Recorded], SeedsVerdict]:
    """Run a recipe with `num_seeds` seeds, its own and the next ones, and hold the best val/top1
    against the documented figure.

    The seeds are child runs of one run that carries mean, standard deviation and verdict.
    """
    recipe, name, source = find_recipe(target, given, tracker)
    if source:
        raise RequestError(
            f"--seeds would change run {target}; give a recipe, or replay the run with --verify"
        )
    named, figures = _documented(name)
    recipes = [recipe.replace(seed=recipe.seed + index) for index in range(num_seeds)]
    if recipe.save:
        recipes = [each.replace(save=f"{recipe.save}-seed{each.seed}") for each in recipes]
    title = f"{Path(name).stem}, {num_seeds} seeds"
    tags = {"rbnn.recipe": name, "rbnn.seeds": " ".join(str(each.seed) for each in recipes)}
    done: list[Recorded] = []
    with tracker.buffered(run_directory(recipe.replace(save=""))):
        parent = tracker.start_run(
            "replay",
            title,
            recipe=recipe,
            tags=tags,
            description=f"`{name}` with {num_seeds} seeds.",
        )
        try:
            for each in recipes:
                say(f"seed {each.seed}, {len(done) + 1} of {num_seeds}")
                done.append(train_recorded(each, tracker, kind="replay", name=name, parent=parent))
        except BaseException as error:
            stopped = isinstance(error, (KeyboardInterrupt, SystemExit))
            tracker.finish(
                parent, "KILLED" if stopped else "FAILED", cause="" if stopped else str(error)
            )
            raise
        verdict = judge_seeds([each.best_top1 for each in done], recipe, named, figures)
        log_seeds_verdict(tracker, parent, done, verdict)
        tracker.finish(parent, "FINISHED")
    return done, verdict


def _documented(name: str) -> tuple[Recipe | None, dict[str, Any]]:
    stem = Path(name).stem
    known = (
        stem
        if stem in recipe_files() and (name == stem or Path(name).resolve() == recipe_files()[stem])
        else ""
    )
    return (load_recipe(known), documented_accuracies().get(known, {})) if known else (None, {})


def seeds_table(done: list[Recorded], verdict: SeedsVerdict) -> list[str]:
    """Rows of a Markdown table that also reads well in a terminal."""
    rows = [
        "| run      | epochs | last val/top1 | best val/top1 |",
        "|----------|-------:|--------------:|--------------:|",
    ]
    for each in done:
        last = each.epochs[-1].metrics["val/top1"] if each.epochs else float("nan")
        rows.append(
            f"| {each.run_id[:8]} | {len(each.epochs):6} | {last:13.2f} | {each.best_top1:13.2f} |"
        )
    rows.append(f"| mean     |        |               | {verdict.mean:13.2f} |")
    if verdict.std is not None:
        rows.append(f"| std      |        |               | {verdict.std:13.2f} |")
    return rows


def log_seeds_verdict(
    tracker: Tracker, parent: str, done: list[Recorded], verdict: SeedsVerdict
) -> None:
    """Mean, standard deviation and verdict as metrics, tags, artifact and description of the parent
    run.
    """
    metrics = {
        "val/top1": verdict.mean,
        "seeds/mean_top1": verdict.mean,
        "seeds/num": float(len(done)),
    }
    if verdict.std is not None:
        metrics["seeds/std_top1"] = verdict.std
    tracker.log_points(parent, metrics, 0)
    note = "\n".join([f"**Verdict: {verdict.text}.**", "", *seeds_table(done, verdict)])
    tracker.set_tags(parent, {**verdict_tags(verdict), "mlflow.note.content": note})
    tracker.log_dict(
        parent, {"runs": [each.run_id for each in done], **verdict.to_dict()}, "verdict.json"
    )


def find_record(target: str, tracker: Tracker) -> RunRecord:
    """What is to be compared with: the exported file of that name, or the run of that id."""
    if is_record(Path(target)):
        return read_record(Path(target))
    if target in recipe_files() or target.endswith((".yaml", ".yml")):
        raise RequestError(
            f"--verify compares with a recorded run, and '{target}' is a recipe; use --seeds N, "
            "or give a run id"
        )
    if Path(target).is_file():
        return read_record(Path(target))
    return record_of(tracker, target)


def find_recipe(target: str, given: dict[str, Any], tracker: Tracker) -> tuple[Recipe, str, str]:
    """(recipe, its name, the run it comes from or "")."""
    if is_record(Path(target)):
        record = read_record(Path(target))
        return _again(target, record.to_recipe(), given), record.recipe_name, record.run_id
    if target in recipe_files() or "/" in target or target.endswith((".yaml", ".yml")):
        return load_recipe(target, **given), target, ""
    try:
        run = tracker.find_run(target)
    except RequestError:
        if len(target) >= 6 and all(letter in "0123456789abcdef" for letter in target.lower()):
            raise
        return load_recipe(target, **given), target, ""
    recipe = _again(target, tracker.recipe_of(run.info.run_id), given)
    return recipe, run.data.tags.get("rbnn.recipe", target), run.info.run_id


def _again(target: str, recipe: Recipe, given: dict[str, Any]) -> Recipe:
    """A recorded recipe in a new folder, with options that cannot change its result on top."""
    changing = [field for field in given if FIELDS[field].metadata["affects"] != "nothing"]
    if changing:
        raise RecipeError(
            f"{changing[0]} would change run {target}; to vary it, export its recipe and edit "
            "that file"
        )
    return recipe.replace(**dict.fromkeys(FOLDERS, "")).replace(**given)
