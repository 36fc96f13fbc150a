"""What a sweep's own run in MLflow shows: a description that reads well, the report, a link that
opens on its trials.
"""

from __future__ import annotations

from tune.report.console import verdict
from tune.report.data import SweepData
from tune.report.write import ARTIFACTS, Report, write_report
from tune.sweep.folder import SweepFolder
from tune.sweep.table import BASELINE, METRIC, columns, percent, shown
from tune.tracking.view import view_link

NUM_ROWS = 8


def publish(folder: SweepFolder) -> Report:
    """Write the report of a sweep as it stands, and describe the sweep's run by it."""
    report = write_report(folder)
    board, record = report.data.standing.table, folder.record
    tags = dict(record.tags)
    if board.best:
        tags |= {"rbnn.best_run": board.best.run_id, "rbnn.best_trial": str(board.best.number)}
    folder.update(tags=tags, description=description(report.data, folder))
    return report


def description(data: SweepData, folder: SweepFolder) -> str:
    """The sweep in Markdown: the result and where to see it first, as the page folds the rest;
    question, budget, the best.
    """
    board, record, file = data.standing.table, folder.record, folder.config
    searched = ", ".join(
        f"`{name}` {text}" for name, kind, text in file.space.describe() if kind != "fixed"
    )
    budget = f"{record.trials} trials" if record.trials is not None else "no end of trials"
    minutes = f", {record.budget_s / 60:g} minutes" if record.budget_s else ""
    recipe = data.recipe
    link = view_link("", folder.mirrored.get("experiment", "0"), record.id).lstrip("/")
    stopping = (
        f"ASHA from epoch {file.scheduler.grace_period} on"
        if file.scheduler.name == "asha"
        else "none"
    )
    lines = [
        f"**{verdict(board)}.** [See the trials, best first, with their curves]({link}); the "
        f"report is in `{ARTIFACTS}/`, "
        "among the artifacts.",
        "",
        f"**Question.** {file.description} Which {searched} suit {recipe['model']} on "
        f"{recipe['dataset']} in "
        f"{recipe['epochs']} epochs?",
        "",
        f"**Budget.** {budget}{minutes}; sampler {file.sampler} (seed {file.seed}), early "
        f"stopping {stopping}, "
        f"recipe seed {recipe['seed']}.",
        "",
        *table(data),
    ]
    if board.best and board.best.run_id:
        lines += [
            "",
            f"Run the best again, to the bit: `rbnn replay {board.best.run_id[:8]} --verify`",
        ]
    if data.standing.confirmation:
        lines += ["", "```", *data.standing.confirmation, "```"]
    return "\n".join(lines)


def table(data: SweepData) -> list[str]:
    """The best trials, and the documented default, as a Markdown table."""
    board = data.standing.table
    rows = board.ranked[:NUM_ROWS]
    rows += [board.baseline] if board.baseline and board.baseline not in rows else []
    if not rows:
        return []
    names = columns(rows)
    head = ["trial", "state", "epochs", f"{METRIC} (%)", *names]
    lines = [" | ".join(["", *head, ""]).strip(), "|".join(["", *["---"] * len(head), ""])]
    for row in rows:
        number = f"{row.number} (documented default)" if row.number == BASELINE else str(row.number)
        cells = [
            number,
            row.state,
            str(row.epochs),
            percent(row.top1),
            *(shown(row.values[name]) for name in names),
        ]
        cells = [f"**{cell}**" for cell in cells] if row is board.best else cells
        lines.append(" | ".join(["", *cells, ""]).strip())
    return lines
