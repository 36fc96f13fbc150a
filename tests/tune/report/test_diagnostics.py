"""The picture of a run's diagnostics."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from rbnn.diagnostics import LayerRow, append_rows, open_table
from tune.report.diagnostics import PLOT, draw_diagnostics


def test_a_picture_is_drawn_anew_once_an_epoch_is_done(tmp_path: Path) -> None:
    draw_diagnostics(tmp_path)
    open_table(tmp_path)
    draw_diagnostics(tmp_path)
    assert not (tmp_path / PLOT).exists()
    drawn = []
    for epoch in range(2):
        layers = [LayerRow(epoch, f"layer{n}", 0.9 - 0.1 * n, 0.8, 0.1, None) for n in range(45)]
        append_rows(tmp_path, layers)
        draw_diagnostics(tmp_path)
        with Image.open(tmp_path / PLOT) as image:
            assert image.width > 1000 and image.convert("L").getextrema()[0] < 100
            drawn.append(image.tobytes())
    assert drawn[0] != drawn[1] and not list(tmp_path.glob(".*"))
