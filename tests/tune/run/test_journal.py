"""A trial's epochs on disk: written once, in order, whole lines only, and completed from the
checkpoint after a kill.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rbnn import checkpoint as ckpt
from rbnn.engine import LAST
from tune.run.journal import JOURNAL, Journal


def epoch(number: int) -> dict[str, float]:
    return {"epoch": number, "val/top1": 10.0 * number}


def known(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows without their times, which must be there."""
    return [{key: row[key] for key in row if key != "time_ms"} for row in rows if row["time_ms"]]


def test_epochs_are_appended_once_and_read_again(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "trial")
    assert journal.last_epoch == -1
    for number in (0, 1, 1, 0, 2):
        journal.append(epoch(number))
    again = Journal(tmp_path / "trial")
    assert again.rows == journal.rows and known(again.rows) == [epoch(0), epoch(1), epoch(2)]
    again.append(epoch(2))
    assert len((tmp_path / "trial" / JOURNAL).read_text().splitlines()) == 3


def test_a_torn_line_is_passed_over_and_written_anew(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.append(epoch(0))
    with journal.file.open("a") as file:
        file.write('{"epoch": 1, "val/to')
    again = Journal(tmp_path)
    assert again.last_epoch == 0
    again.append(epoch(1))
    again.append(epoch(2))
    assert known(journal.rows) == [epoch(0), epoch(1), epoch(2)]


def test_the_epoch_of_the_checkpoint_is_taken_over_but_none_further_on(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    assert not journal.complete()
    for number, taken in ((2, False), (0, True), (0, False), (1, True), (1, False)):
        ckpt.save(tmp_path / LAST, ckpt.Checkpoint({}, epoch=number + 1, metrics=epoch(number)))
        assert Journal(tmp_path).complete() is taken
    assert known(journal.rows) == [epoch(0), epoch(1)]


def test_a_journal_hears_of_what_another_process_appended(tmp_path: Path) -> None:
    ours, theirs = Journal(tmp_path), Journal(tmp_path)
    theirs.append(epoch(0))
    ours.append(epoch(0))
    ours.append(epoch(1))
    assert known(ours.rows) == known(theirs.rows) == [epoch(0), epoch(1)]
