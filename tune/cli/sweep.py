"""A sweep in a program or a notebook, and as the command line runs it.

    sweep = tune.run_sweep("quickstart", trials=4)     or tune.open_sweep(NAME)
    sweep.trials, sweep.best, sweep.figure("curves"), sweep.resume(), sweep.stop()

Wrong requests raise rbnn.errors.RequestError, whose text is the line that the command prints.
"""

from __future__ import annotations

import html
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rbnn.errors import RequestError, one_line

if TYPE_CHECKING:
    import pandas

    from tune.sweep.config import SweepConfig
    from tune.sweep.folder import SweepFolder
    from tune.sweep.stop import StopSignal
    from tune.sweep.summary import SweepSummary, Winner
    from tune.tracking.mirror import Mirror

STOP_WAIT_S = 120.0
LOOK_INTERVAL_S = 0.2


class Sweep:
    """A sweep, by its folder; every answer is read anew, also while it runs elsewhere."""

    def __init__(self, folder: SweepFolder) -> None:
        self.folder = folder

    @property
    def name(self) -> str:
        return self.folder.record.name

    @property
    def state(self) -> str:
        """running, finished, stopped, failed, or died."""
        return self.folder.state

    @property
    def summary(self) -> SweepSummary:
        """All that is known of how it stands."""
        from tune.sweep.summary import look_at

        return look_at(self.folder)

    @property
    def trials(self) -> pandas.DataFrame:
        """A row for each trial, by its number: state, epochs completed, val/top1 (percent) of the
        last and of the best epoch, the searched options, id of the run, why it failed.
        """
        import pandas

        rows = {}
        for number, row in sorted(self.summary.table.rows.items()):
            scores = {"val/top1": row.top1, "best val/top1": row.best_top1}
            scores["best epoch"] = row.best_epoch
            about = {"state": row.shown_state, "epochs": row.epochs, **scores}
            rows[number] = {**about, **row.options, "run": row.run_id, "cause": row.cause}
        found = pandas.DataFrame.from_dict(rows, orient="index")
        return found.rename_axis("trial")

    @property
    def best(self) -> Winner:
        """The winner, with its `recipe`; RunFailed where no trial ran to its end."""
        from tune.sweep.summary import winner_of

        return winner_of(self.folder)

    def figure(self, kind: str) -> Any:
        """The report's figure, plotly's: history, curves, parallel or importance."""
        from tune.report.data import gather
        from tune.report.page import figure

        return figure(kind, gather(self.folder))

    def resume(self, *, address: str = "", tensorboard: bool = False, **given: Any) -> Sweep:
        """Go on where it was left, watched, recorded where its runs are; returns when it ends."""
        from tune.cli.listeners import watched
        from tune.run.folder import run_folders
        from tune.sweep.session import resume_sweep
        from tune.sweep.stop import Interruption

        folder, store = self.folder, self.folder.store_uri()
        with Interruption() as signals:
            with watched(store, tensorboard=tensorboard) as (listener, mirror):
                about: dict[str, Any] = {"store": store, "listener": listener, "signals": signals}
                stop = resume_sweep(folder, address=address, **about, **given)
                for run in run_folders(folder.directory):  # what earlier sessions could not record
                    listener.sweep_changed(run)
            self._conclude(stop, mirror)
        return self

    def extend(self, trials: int | None = None, hours: float | None = None, **given: Any) -> Sweep:
        """Add trials or hours to its budget and go on; given: as for `resume`."""
        from tune.sweep.lineage import extend_budget

        self.check_idle()
        extend_budget(self.folder, trials, hours)
        return self.resume(**given)

    def confirm(self, seeds: int, **given: Any) -> Sweep:
        """Train its best settings again with so many fresh seeds, and what else is left."""
        if seeds < 0:
            raise RequestError(f"--confirm_seeds is {seeds}; it must be at least 0")
        self.check_idle()
        self.folder.update(confirm_seeds=seeds)
        return self.resume(**given)

    def check_idle(self) -> None:
        """RequestError where a process conducts it, or its runs are in another folder's store."""
        if self.folder.conducted():
            raise self.folder.busy()
        self.folder.store_uri()

    def stop(self, *, wait_s: float = STOP_WAIT_S) -> tuple[bool, str]:
        """End it, whoever runs it, or mend a dead one: (whether it has ended, a sentence)."""
        folder, name = self.folder, self.name
        if not folder.conducted():
            if folder.state != "died":
                return True, f"sweep {name} has ended already: {folder.record.state}"
            from tune.cli.doctor import mend_sweep

            number = mend_sweep(folder)
            return True, f"sweep {name}: its process had died; {number} things were put in order"
        folder.stop_file.touch()
        deadline = time.monotonic() + wait_s
        while folder.conducted():
            if time.monotonic() > deadline:
                return False, (
                    f"sweep {name} was asked to stop and still runs after {wait_s:g} s; see rbnn "
                    f"status {folder.handle}"
                )
            time.sleep(LOOK_INTERVAL_S)
        return True, f"sweep {name} stopped; go on with it: rbnn resume {folder.handle}"

    def _conclude(self, stop: StopSignal, mirror: Mirror) -> None:
        """Write and log the report of a sweep that has ended, and say what it found."""
        from tune.report.console import print_result
        from tune.report.publish import publish
        from tune.run.listener import warn
        from tune.sweep.folder import trial_directory
        from tune.tracking.view import sweep_pages

        folder, report = self.folder, ""
        try:
            before = folder.record.tags
            report = str(publish(folder).files[0])
            mirror.sync(folder.directory)
            for tags in (before, folder.record.tags):  # the best has a colour of its own
                if number := tags.get("rbnn.best_trial"):
                    mirror.sync(trial_directory(folder.directory, int(number)))
        # The sweep has ended and its folder is complete, whatever cannot be made of it now.
        except (Exception, KeyboardInterrupt) as error:
            later = f"rbnn {'sync' if report else 'report'} {folder.handle}"
            what, why = "logged to MLflow" if report else "written", one_line(error)
            warn(f"the report could not be {what}: {why or 'interrupted'}; later: {later}")
        found, pages = self.summary, sweep_pages(mirror.reader.uri, folder)
        print_result(found.table, stop, found.confirmation, folder.handle, pages)
        if report:
            print(f"report:                            {report}")

    def __repr__(self) -> str:
        return f"<Sweep {self.name}: {self.state}, in {self.folder.directory}>"

    def _repr_html_(self) -> str:
        """For a notebook: how it stands, what it gained, its best trials."""
        from tune.report.table import as_html, verdict

        table = self.summary.table
        head = f"<b>{html.escape(self.name)}</b>: {self.state}; {html.escape(verdict(table))}"
        return f"<p>{head}</p>{as_html(table, num_rows=10)}"


def run_sweep(
    file: str | Path | SweepConfig,
    *,
    name: str = "",
    results_dir: str = "",
    address: str = "",
    tensorboard: bool = False,
    trainable: Any = None,
    learn_from: Sequence[SweepFolder] = (),
    **settings: Any,
) -> Sweep:
    """Run a sweep file, by its name or path, to its end, watched and recorded; Ctrl-C, or a
    notebook's stop button, ends it in good order, to be gone on with by `resume`.

    settings: keys that take the place of the file's, e.g. trials=4. address: of a running Ray
    cluster, "" for RAY_ADDRESS or a Ray of its own. trainable: what trains a trial. learn_from:
    folders of earlier sweeps whose trials the sampler learns from.
    """
    from tune.cli.listeners import watched
    from tune.report.console import opening
    from tune.sweep.config import SweepConfig, load_sweep
    from tune.sweep.session import run_sweep as run
    from tune.sweep.stop import Interruption

    config = file if isinstance(file, SweepConfig) else load_sweep(file, **settings)
    given: dict[str, Any] = {"name": name, "results_dir": results_dir, "address": address}
    given |= {"learn_from": learn_from} | ({"trainable": trainable} if trainable else {})
    with Interruption() as signals:
        with watched("", tensorboard=tensorboard) as (listener, mirror):
            about: dict[str, Any] = {"listener": listener, "signals": signals}
            about["began"] = lambda plan, folder: print(opening(plan), flush=True)
            folder, stop = run(config, store=mirror.reader.uri, **about, **given)
        sweep = Sweep(folder)
        sweep._conclude(stop, mirror)
    return sweep


def open_sweep(name_or_folder: str | Path, results_dir: str = "") -> Sweep:
    """The sweep of that name under ./result, or in that folder; RequestError for none."""
    from tune.sweep.folder import find_sweep

    return Sweep(find_sweep(str(name_or_folder), results_dir))
