"""Writes a sweep's report into its folder, and logs it to the sweep's own run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tune.report.data import SweepData, gather
from tune.report.page import page
from tune.report.picture import draw
from tune.sweep.folder import SweepFolder

HTML, PNG = "report.html", "report.png"
ARTIFACTS = "report"


@dataclass(frozen=True)
class Report:
    """A report that is written: what it shows, and its files."""

    data: SweepData
    files: tuple[Path, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for --json."""
        data = self.data
        curves = {str(number): curve for number, curve in data.curves.items()}
        shown = {
            "importance": data.importance,
            "curves": curves,
            "files": [str(file) for file in self.files],
        }
        return {**data.standing.to_dict(), "default_top1": data.default_top1, **shown}


def write_report(folder: SweepFolder, directory: Path | None = None) -> Report:
    """report.html and report.png of a sweep, in its folder or in `directory`; of a running one, as
    it stands.
    """
    data = gather(folder)
    directory = directory or folder.directory
    directory.mkdir(parents=True, exist_ok=True)
    text, picture = directory / HTML, directory / PNG
    text.write_text(page(data))
    draw(data, picture)
    return Report(data, (text, picture))
