"""Run a recipe, or a recorded run, again and say with evidence whether it came out the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rbnn.console import run_directory
from rbnn.errors import RequestError
from rbnn.files import write_atomically
from rbnn.recipe import Recipe, documented_accuracies, load_recipe, recipe_files
from rbnn.session import resolve
from tune.run.environment import run_environment
from tune.run.folder import RunFolder, RunInfo
from tune.run.listener import Listener
from tune.run.record import Find, RunRecord, find_recipe, find_record, with_folders
from tune.run.train import TrainResult, going_on, train_recorded, training
from tune.run.verdict import (
    TOLERANCE,
    Difference,
    SeedsVerdict,
    Verdict,
    environment_differences,
    judge_seeds,
    verify,
)

VERDICT = "verdict.json"


def replay(
    target: str, given: dict[str, Any], find: Find, listener: Listener
) -> tuple[TrainResult, SeedsVerdict | None]:
    """Replay what `find_recipe` makes of `target`. The verdict is on the figure documented for a
    named recipe, None for all else.
    """
    recipe, name, source = find_recipe(target, given, find)
    recipe = resolve(recipe)
    named, figures = (None, {}) if source else _documented(name)
    verdict = None
    tags = {"rbnn.replays": source} if source else {}
    with training(recipe, listener, kind="replay", name=name, tags=tags) as done:
        if "top1" in figures:
            verdict = judge_seeds([done.best_top1], recipe, named, figures)
            record_verdict(done.run, verdict.to_dict(), verdict_tags(verdict))
    return done, verdict


def replay_and_verify(
    target: str, given: dict[str, Any], find: Find, listener: Listener, tolerance: float = TOLERANCE
) -> tuple[TrainResult, Verdict]:
    """Run a recorded run (by id, or the file of `rbnn export`) again and compare, epoch by epoch,
    with what it recorded; the verdict becomes part of the new run's record, linked to the old.
    """
    recorded = find_record(target, find)
    recipe = resolve(with_folders(target, recorded.to_recipe(), given))
    here = run_environment(recipe)
    changed = environment_differences(recorded.environment, here)
    what = f"{recorded.recipe_name or recorded.name}, run {recorded.run_id}"
    print(f"replaying {what}: {len(recorded.epochs)} recorded epochs")
    print(environment_text(changed))
    about: dict[str, Any] = {"kind": "replay", "name": recorded.recipe_name}
    about |= {"fingerprint": recorded.data.get("fingerprint", "")}
    with training(recipe, listener, tags={"rbnn.replays": recorded.run_id}, **about) as done:
        verdict = verify(recorded, done.epochs, here, tolerance)
        tags = verdict_tags(verdict)
        if verdict.first:
            tags["rbnn.verdict_epoch"] = str(verdict.first.epoch)
        content = {"replays": recorded.run_id, **verdict.to_dict()}
        record_verdict(done.run, content, tags, verdict_note(recorded, verdict))
    return done, verdict


def replay_seeds(
    target: str, given: dict[str, Any], find: Find, listener: Listener, num_seeds: int
) -> tuple[list[TrainResult], SeedsVerdict]:
    """Run a recipe with `num_seeds` seeds, its own and the next ones, and hold the best val/top1
    against the documented figure. They belong to one run that carries mean, deviation and verdict.
    """
    recipe, name, source = find_recipe(target, given, find)
    if source:
        remedy = "give a recipe, or replay the run with --verify"
        raise RequestError(f"--seeds would change run {target}; {remedy}")
    named, figures = _documented(name)
    recipe = resolve(recipe)
    recipes = [recipe.replace(seed=recipe.seed + index) for index in range(num_seeds)]
    if recipe.save:
        recipes = [each.replace(save=f"{recipe.save}-seed{each.seed}") for each in recipes]
    tags = {"rbnn.recipe": name, "rbnn.seeds": " ".join(str(each.seed) for each in recipes)}
    title, note = f"{Path(name).stem}, {num_seeds} seeds", f"`{name}` with {num_seeds} seeds."
    info = RunInfo(kind="replay", name=title, tags=tags, description=note)
    parent = RunFolder.begin(Path(f"{run_directory(recipe.replace(save=''))}-seeds"), info, recipe)
    done: list[TrainResult] = []
    with going_on(parent, listener):
        for each in recipes:
            print(f"seed {each.seed}, {len(done) + 1} of {num_seeds}")
            run_id = parent.info.id
            done.append(train_recorded(each, listener, kind="replay", name=name, parent=run_id))
        verdict = judge_seeds([each.best_top1 for each in done], recipe, named, figures)
        _record_seeds(parent, done, verdict)
    return done, verdict


def record_verdict(
    run: RunFolder, content: dict[str, Any], tags: dict[str, str], description: str = ""
) -> None:
    """Keep a verdict in the folder of the run that it is on."""
    write_atomically(run.directory / VERDICT, json.dumps(content, indent=2))
    info = run.info
    run.update(tags={**info.tags, **tags}, description=description or info.description)


def verdict_note(recorded: RunRecord, verdict: Verdict) -> str:
    """The verdict in Markdown, with a link to the run that was replayed."""
    link = f"{recorded.name} ({recorded.run_id[:8]})"
    link = f"[{link}]({recorded.page})" if recorded.page else link
    lines = [f"Replay of {link}.", "", f"**Verdict: {verdict.text}.**", "", "Environment:"]
    for each in verdict.environment:
        lines.append(f"- {each.name}: `{each.old}` recorded, `{each.new}` here")
    return "\n".join(lines if verdict.environment else [*lines, "- the same"])


def environment_text(changed: list[Difference]) -> str:
    """What differs between the recorded machine and this one, for people."""
    if not changed:
        return "environment: the same machine, packages and code as recorded"
    found = [f"  {e.name}: {e.old or 'none'} recorded, {e.new or 'none'} here" for e in changed]
    return "\n".join(["environment differs:", *found])


def verdict_tags(verdict: Verdict | SeedsVerdict) -> dict[str, str]:
    """The tags by which verdicts are found."""
    tags = {"rbnn.verdict": verdict.result, "rbnn.verdict_positive": str(verdict.positive).lower()}
    if isinstance(verdict, SeedsVerdict):
        for name in ("mean", "std", "documented"):
            if (value := getattr(verdict, name)) is not None:
                tags[f"rbnn.{name}_top1"] = f"{value:.6g}"
    return tags


def _documented(name: str) -> tuple[Recipe | None, dict[str, Any]]:
    """(the named recipe, its documented figures); (None, {}) for any other recipe."""
    stem = Path(name).stem
    file = recipe_files().get(stem)
    if file is None or (name != stem and Path(name).resolve() != file):
        return None, {}
    return load_recipe(stem), documented_accuracies().get(stem, {})


def seeds_table(done: list[TrainResult], verdict: SeedsVerdict) -> list[str]:
    """Rows of a Markdown table that also reads well in a terminal."""
    rows = [
        "| run      | epochs | last val/top1 | best val/top1 |",
        "|----------|-------:|--------------:|--------------:|",
    ]
    for each in done:
        epochs, best = each.epochs, each.best_top1
        last = epochs[-1].metrics["val/top1"] if epochs else float("nan")
        rows.append(f"| {each.run_id[:8]} | {len(epochs):6} | {last:13.2f} | {best:13.2f} |")
    rows.append(f"| mean     |        |               | {verdict.mean:13.2f} |")
    if verdict.std is not None:
        rows.append(f"| std      |        |               | {verdict.std:13.2f} |")
    return rows


def _record_seeds(parent: RunFolder, done: list[TrainResult], verdict: SeedsVerdict) -> None:
    """Mean, standard deviation and verdict in the record of the run that the seeds belong to."""
    mean = verdict.mean
    values = {"val/top1": mean, "seeds/mean_top1": mean, "seeds/num": float(len(done))}
    if verdict.std is not None:
        values["seeds/std_top1"] = verdict.std
    parent.add_points(0, values)
    note = "\n".join([f"**Verdict: {verdict.text}.**", "", *seeds_table(done, verdict)])
    content = {"runs": [each.run_id for each in done], **verdict.to_dict()}
    record_verdict(parent, content, verdict_tags(verdict), note)
