"""What a sweep's own run in MLflow shows: a description that reads well, the report, a link that
opens on its trials.
"""

from __future__ import annotations

from urllib.parse import urlencode

from tune.report.data import SweepData
from tune.report.page import PNG, Report, write_report
from tune.report.table import as_markdown, verdict
from tune.run.folder import RunFolder
from tune.sweep.folder import SweepFolder, trial_directory
from tune.tracking.view import BASELINE, COLOUR_TAG, GREEN, colour_of, view_link

NUM_ROWS = 8
ARTIFACTS = "report"


def publish(folder: SweepFolder) -> Report:
    """Write the report of a sweep as it stands, and describe the sweep's run by it."""
    report = write_report(folder)
    best, tags = report.data.table.best, dict(folder.record.tags)
    if best:
        before = tags.get("rbnn.best_trial", str(best.number))
        tags |= {"rbnn.best_run": best.run_id, "rbnn.best_trial": str(best.number)}
        _colour(folder, int(before), colour_of(int(before)))  # of an earlier session
        _colour(folder, best.number, GREEN)
    folder.update(tags=tags, description=description(report.data, folder))
    return report


def _colour(folder: SweepFolder, number: int, colour: str) -> None:
    """Give a trial's run a colour, by which MLflow's charts draw it."""
    run = RunFolder(trial_directory(folder.directory, number))
    if run.exists and number != BASELINE and run.info.tags.get(COLOUR_TAG) != colour:
        run.update(tags={**run.info.tags, COLOUR_TAG: colour})


def description(data: SweepData, folder: SweepFolder) -> str:
    """The sweep in Markdown, the result and where to see it first, as the page folds the rest."""
    record, file, recipe = folder.record, folder.config, data.recipe
    space = file.space.describe()
    searched = ", ".join(f"`{name}` {text}" for name, kind, text in space if kind != "fixed")
    budget = f"{record.trials} trials" if record.trials is not None else "no end of trials"
    if record.budget_s:
        budget += f", {record.budget_s / 60:g} minutes"
    lengths = ", ".join(str(each) for each in file.scheduler.lengths(recipe["epochs"]))
    stopping = {
        "asha": f"ASHA from epoch {file.scheduler.grace_period} on",
        "short": f"none, but complete schedules of {lengths} epochs",
        "none": "none",
    }[file.scheduler.name]
    link = view_link("", folder.mirrored.get("experiment", "0"), record.id).lstrip("/")
    of_run = {"path": f"{ARTIFACTS}/{PNG}", "run_uuid": folder.run_id}
    picture = f"get-artifact?{urlencode(of_run)}"
    lines = [
        f"**{verdict(data.table)}.** [See the trials, best first, with their curves]({link}); the "
        f"report is in `{ARTIFACTS}/`, among the artifacts.",
        "",
        *as_markdown(data.table, NUM_ROWS),
        "",
        f"![the report's figures]({picture})",
        "",
        f"**Question.** {file.description} Which {searched} suit {recipe['model']} on "
        f"{recipe['dataset']} in {recipe['epochs']} epochs?",
        "",
        f"**Budget.** {budget}; sampler {file.sampler} (seed {file.seed}), early stopping "
        f"{stopping}, recipe seed {recipe['seed']}.",
    ]
    best = data.table.best
    if best and best.run_id:
        lines += ["", f"Run the best again, to the bit: `rbnn replay {best.run_id[:8]} --verify`"]
    if data.summary.confirmation:
        lines += ["", "```", *data.summary.confirmation, "```"]
    return "\n".join(lines)
