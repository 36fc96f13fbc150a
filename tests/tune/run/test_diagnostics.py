"""The plot of the diagnostics, and which files of a run are its artifacts."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from rbnn.diagnostics import TABLE, LayerRow, append_rows, open_table
from tune.run.diagnostics import PLOT, log_diagnostics


def test_the_table_and_its_plot_are_handed_over_once_an_epoch_is_done(tmp_path: Path) -> None:
    logged: list[tuple[str, Path]] = []

    def log(run_id: str, file: Path) -> None:
        logged.append((run_id, file))

    log_diagnostics(log, "r", tmp_path)
    open_table(tmp_path)
    log_diagnostics(log, "r", tmp_path)
    assert logged == []
    drawn = []
    for epoch in range(2):
        append_rows(
            tmp_path,
            [LayerRow(epoch, f"layer{n}", 0.9 - 0.1 * n, 0.8, 0.1, None) for n in range(45)],
        )
        log_diagnostics(log, "r", tmp_path)
        with Image.open(tmp_path / PLOT) as image:
            drawn.append((image.size, image.convert("L").getextrema(), image.tobytes()))
    assert logged == [("r", tmp_path / TABLE), ("r", tmp_path / PLOT)] * 2
    assert drawn[0][0][0] > 1000 and drawn[0][1][0] < 100 and drawn[0][2] != drawn[1][2]
    assert not list(tmp_path.glob(".*"))
