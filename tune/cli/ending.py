"""`rbnn stop`: ends a sweep that another process conducts, or puts in order what a dead
one left.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from tune.cli.doctor import examine_sweep
from tune.sweep.folder import SweepFolder
from tune.tracking.mirror import Tracker

WAIT_S = 120.0
LOOK_INTERVAL_S = 0.2


def stop_sweep(
    folder: SweepFolder, open_tracker: Callable[[str], Tracker], *, wait_s: float = WAIT_S
) -> tuple[bool, str]:
    """(whether it has ended, what happened in a sentence)."""
    name = folder.record.name
    if not folder.conducted():
        if folder.state != "died":
            return True, f"sweep {name} has ended already: {folder.record.state}"
        findings = examine_sweep(folder, open_tracker(folder.record.store))
        for finding in findings:
            finding.fix()
        return True, f"sweep {name}: its process had died; {len(findings)} things were put in order"
    folder.stop_file.touch()
    deadline = time.monotonic() + wait_s
    while folder.conducted():
        if time.monotonic() > deadline:
            return (
                False,
                f"sweep {name} was asked to stop and still runs after {wait_s:g} s; see rbnn "
                f"status {folder.handle}",
            )
        time.sleep(LOOK_INTERVAL_S)
    return True, f"sweep {name} stopped; go on with it: rbnn resume {folder.handle}"
