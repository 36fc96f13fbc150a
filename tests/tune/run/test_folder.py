"""A run's folder is its record: an id written once, its state truthful, its lines whole."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from rbnn.errors import RequestError
from rbnn.recipe import Recipe
from tune.process import Process
from tune.run.folder import RunFolder, RunInfo, run_folders
from tune.run.journal import Journal

RECIPE = Recipe(dataset="digits", epochs=3)


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder.begin(tmp_path / "run", RunInfo(name="first", kind="train"), RECIPE)


def test_a_run_begins_with_an_id_of_its_own_and_all_it_depends_on(run: RunFolder) -> None:
    other = RunFolder.begin(run.directory.parent / "other", run.info, RECIPE)
    assert len(run.info.id) == 32 and run.info.id != other.info.id
    assert run.info.state == "running" and run.info.began > 0 and not run.is_dead
    assert run.recipe == RECIPE and (run.directory / "environment.yaml").is_file()
    assert run.run_id == run.info.id  # until a tracker has one, by which people call it
    (run.directory / "mirror.json").write_text(json.dumps({"run": "ab" * 16}))
    assert run.run_id == "ab" * 16


def test_its_end_is_noted_once_and_taken_back_when_it_goes_on(run: RunFolder) -> None:
    run.end("failed", "no answer from postgresql://ann:geheim@db/x")
    ended = run.info
    assert (ended.state, ended.cause) == ("failed", "no answer from postgresql://ann:***@db/x")
    run.end("failed", "no answer from postgresql://ann:geheim@db/x")
    assert run.info == ended
    run.resume()
    assert run.info == dataclasses.replace(ended, state="running", cause="", ended=None)


def test_a_run_whose_process_is_gone_is_dead(run: RunFolder) -> None:
    run.update(process={**dataclasses.asdict(Process.current()), "started": "1"})
    assert run.is_dead
    run.end("killed")
    assert not run.is_dead


def test_points_and_epochs_are_whole_lines(run: RunFolder) -> None:
    run.add_points(4, {"sweep/best_top1": 80.0})
    with (run.directory / "points.jsonl").open("a") as file:
        file.write('{"step": 5, "sw')
    run.add_points(6, {"sweep/best_top1": 81.0})
    points = [(point["step"], point["sweep/best_top1"]) for point in run.points]
    assert points == [(4, 80.0), (6, 81.0)]
    Journal(run.directory).append({"epoch": 0, "val/top1": 10.0})
    assert [row["val/top1"] for row in run.epochs] == [10.0]


def test_a_record_that_cannot_be_used_is_refused_in_one_line(run: RunFolder) -> None:
    old, reason = '{"name": "old", "state": "finished"}', r"by rbnn-tune 0\.1[^\n]*begin anew$"
    for content, why in {"{": "cannot be read", old: reason}.items():
        (run.directory / "run.json").write_text(content)
        with pytest.raises(RequestError, match=f"^[^\n]*{why}"):
            run.info  # noqa: B018


def test_all_runs_below_a_folder_are_found_those_they_belong_to_first(run: RunFolder) -> None:
    sweep = run.directory / "sweep"
    RunFolder.begin(sweep / "trials" / "0000", RunInfo(), None)
    (sweep / "sweep.json").write_text("{}")
    found = [folder.directory for folder in run_folders(run.directory.parent)]
    assert found == [run.directory, sweep, sweep / "trials" / "0000"]
