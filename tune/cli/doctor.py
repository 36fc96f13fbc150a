"""`rbnn doctor` and `rbnn sync`: what an accident left, and MLflow brought up to date."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Collection
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rbnn.errors import RequestError
from tune.cli import RESULTS, Add, arg, flag
from tune.process import Process

if TYPE_CHECKING:
    from tune.run.folder import RunFolder
    from tune.sweep.folder import SweepFolder
    from tune.sweep.repair import Finding
    from tune.tracking.mirror import Mirror
    from tune.tracking.reader import RunReader


def add(command: Add) -> None:
    """The parsers of these commands."""
    text = "find what an accident left in Ray, Optuna and MLflow; exit status 1 where anything is"
    command("doctor", doctor, f"{text} wrong", [flag("--fix", "put it right"), RESULTS])
    folder = arg("folder", show="FOLDER", nargs="?", default="./result", help="default: ./result")
    uri = arg("--to", show="URI", default="", help="another MLflow store, which may be empty")
    text = "bring MLflow up to date with the runs in a folder and below it"
    command("sync", sync, text, [folder, uri])


def sync(args: argparse.Namespace) -> int:
    """Record every run of a folder in MLflow, as far as it is not recorded there yet."""
    from rbnn.data.progress import printer
    from tune.tracking.sync import sync_all

    folder = Path(args.folder)
    if not folder.is_dir():
        raise RequestError(f"folder '{folder}' does not exist; give one that holds runs")
    done, refused = sync_all(folder, args.to, printer(f"{folder}: in MLflow", "runs"))
    for line in refused:
        print(f"rbnn: {line}", file=sys.stderr)
    print(f"{done} run{'s' * (done != 1)} of {folder} are in MLflow as they are in their folders")
    return 1 if refused else 0


def doctor(args: argparse.Namespace) -> int:
    """Say what is wrong, and put it right on request."""
    from tune.run.folder import run_folders
    from tune.sweep.folder import DEFAULT_RESULTS, sweep_folders
    from tune.tracking.reader import existing_reader

    where = args.results_dir or DEFAULT_RESULTS
    found: list[tuple[str, Finding]] = []
    unread = 0
    sweeps = [folder for folder in sweep_folders(args.results_dir) if not folder.conducted()]
    for folder in sweeps:
        try:
            name = folder.record.name
            found += [(f"sweep {name}: ", each) for each in ailments(folder)]
        except RequestError as error:
            unread += 1
            print(f"sweep {folder.directory.name} cannot be examined: {error}")
    runs = run_folders(Path(where))
    inside = [folder.directory.resolve() for folder in sweep_folders(args.results_dir)]
    alone = [run for run in runs if not _within(run.directory, inside)]
    found += [("", finding) for run in alone for finding in _dead_run(run)]
    if reader := existing_reader():
        found += [("", finding) for finding in dead_runs(reader, {run.info.id for run in runs})]
    for subject, finding in found:
        print(subject + finding.text)
        if args.fix:
            finding.fix()
    for folder in sweeps if args.fix else []:
        mirror_all(folder)
    looked = f"{len(sweeps)} sweep{'s' * (len(sweeps) != 1)} in {where} looked at"
    if not found and not unread:
        print(f"nothing is wrong; {looked}")
        return 0
    if found:
        done = ", all put right" if args.fix else "; rbnn doctor --fix puts them right"
        print(f"{len(found)} found{done}; {looked}")
    return 0 if args.fix and not unread else 1


def _within(directory: Path, folders: Collection[Path]) -> bool:
    path = directory.resolve()
    return any(folder == path or folder in path.parents for folder in folders)


def mend_sweep(folder: SweepFolder) -> int:
    """Put right what is wrong with a sweep that no process conducts; how much it was."""
    findings = ailments(folder)
    for finding in findings:
        finding.fix()
    mirror_all(folder)
    return len(findings)


def ailments(folder: SweepFolder) -> list[Finding]:
    """What is wrong with a sweep that no process conducts, and with what MLflow says of it."""
    from tune.sweep.repair import Finding, examine_folder
    from tune.tracking.mirror import Mirror

    findings = examine_folder(folder)
    if behind := not_mirrored(folder, Mirror.open(folder.store_uri())):
        some = ", ".join(str(each.relative_to(folder.directory)) for each in behind[:3])
        more = f" and {len(behind) - 3} more" if len(behind) > 3 else ""
        text = f"its MLflow runs do not say what their folders say: {some}{more}"
        findings.append(Finding(text, lambda: None))  # `mirror_all` mends it, after all others
    return findings


def not_mirrored(folder: SweepFolder, mirror: Mirror) -> list[Path]:
    """The folders of a sweep's runs that MLflow lacks or is behind with."""
    from tune.run.folder import run_folders

    mirror.prefetch()
    return [run.directory for run in run_folders(folder.directory) if mirror.lacks(run.directory)]


def mirror_all(folder: SweepFolder) -> None:
    """Bring MLflow up to date with a sweep."""
    from tune.tracking.mirror import Mirror

    mirror = Mirror.open(folder.store_uri())
    for directory in not_mirrored(folder, mirror):
        mirror.sync(directory)


def _dead_run(run: RunFolder) -> list[Finding]:
    """A training whose process died without noting its end."""
    from tune.sweep.repair import Finding

    if not run.is_dead:
        return []

    def fix() -> None:
        from tune.tracking.mirror import Mirror

        run.end("killed", "its process died")
        Mirror.open().sync(run.directory)

    text = f"run {run.run_id[:8]} in {run.directory} is running, and its process is gone"
    return [Finding(text, fix)]


def dead_runs(reader: RunReader, known: Collection[str]) -> list[Finding]:
    """Runs that the store holds as running though their process, of this machine, is gone."""
    from tune.sweep.repair import Finding
    from tune.tracking.mirror import end_dead
    from tune.tracking.reader import ID_TAG

    found = []
    for run in reader.search("attributes.status = 'RUNNING'"):
        tags, run_id = run.data.tags, run.info.run_id
        process = Process.of(tags.get("rbnn.process", ""))
        if tags.get(ID_TAG) in known or process is None or not process.here or process.alive:
            continue
        text = (
            f"run {run_id[:8]} ({tags.get('rbnn.kind')} {run.info.run_name}) is RUNNING, and its "
            f"process {process.pid} is gone"
        )
        found.append(Finding(text, partial(end_dead, reader.client, run_id)))
    return found
