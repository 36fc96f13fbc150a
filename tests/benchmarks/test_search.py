"""The table of real trainings and what searches are compared on."""

from __future__ import annotations

import itertools
import json
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from benchmarks.search import compare, table
from benchmarks.search.__main__ import main
from benchmarks.search.compare import BUDGETS, regrets, trials_of
from benchmarks.search.objectives import FAMILIES, Synthetic, TableObjective, place, setting
from benchmarks.search.table import BASE, DOCUMENTED, FULL, NUM_SETTINGS, jobs, settings
from tune.sweep.simulate import SimulatedTrial


@pytest.mark.parametrize("data", BASE)
def test_any_beginning_of_the_jobs_holds_short_schedules_and_further_seeds(data: str) -> None:
    wanted = [job.key for job in jobs(data)]
    assert len(set(wanted)) == len(wanted)
    assert len({setting for setting, _, epochs in wanted if epochs == FULL}) > NUM_SETTINGS[data]
    begun = wanted[:40]
    assert sum(epochs < FULL for _, _, epochs in begun) >= 20
    assert sum(seed > 1 for _, seed, _ in begun) >= 4


def test_settings_are_the_documented_one_and_others_all_over_the_space() -> None:
    found = settings("digits")
    assert found[0] == DOCUMENTED and found == settings("digits")
    assert len({tuple(values.values()) for values in found}) == NUM_SETTINGS["digits"] + 1
    places = [place(values) for values in found[1:]]
    for column in zip(*places, strict=True):
        assert min(column) < 0.1 and max(column) > 0.9 and 0.4 < sum(column) / 200 < 0.65
    for values, where in zip(found[1:], places, strict=True):
        assert setting(where) == pytest.approx(values)


def test_an_unfinished_line_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "FOLDER", tmp_path)
    assert table.read("digits") == []
    (tmp_path / "digits.jsonl").write_text(
        '{"data":"digits","cpu":"x"}\n{"setting":0,"top1":[1.0]}\n{"setting":1,"to'
    )
    assert table.read("digits") == [{"setting": 0, "top1": [1.0]}]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_synthetic_objective_repeats_itself_and_has_the_best_that_it_says(family: str) -> None:
    one, same, other = (Synthetic(**FAMILIES[family], seed=seed) for seed in (1, 1, 2))
    values = settings("digits")[3]
    assert one(values, 2, FULL, 5) == same(values, 2, FULL, 5) != one(values, 2, FULL, 6)
    assert one.quality(values) != other.quality(values)
    assert all(one.quality(values) <= one.best for values in settings("digits"))


def test_the_table_as_an_objective_is_near_the_mean_of_what_was_trained() -> None:
    ends = defaultdict(list)
    for row in table.read("digits"):
        if row["epochs"] == len(row["top1"]) == FULL:
            ends[row["setting"]].append(row["top1"][-1])
    objective, values = TableObjective("digits"), settings("digits")
    found = [objective.quality(values[number]) for number in ends]
    trained = [statistics.fmean(scores) for scores in ends.values()]
    assert statistics.correlation(found, trained) > 0.9
    assert max(found) <= objective.best <= 100


def test_regret_is_that_of_the_best_of_the_longest_complete_schedule() -> None:
    class Known:
        best = 90.0

        def quality(self, values: dict[str, Any]) -> float:
            return float(values["lr"])

    def trial(lr: float, num_epochs: int, state: Any, after: int) -> SimulatedTrial:
        return SimulatedTrial({"lr": lr}, num_epochs, num_epochs, state, lr, after)

    trials = [
        trial(80, 2, "complete", 30),
        trial(85, 2, "failed", 40),
        trial(60, FULL, "complete", 90),
        trial(70, FULL, "complete", 200),
        trial(88, FULL, "pruned", 300),
    ]
    assert regrets(trials, Known()) == [10, 30, 20, 20]
    assert regrets([], Known()) == [80] * len(BUDGETS)


def test_what_was_simulated_is_kept_and_gone_on_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, objective = tmp_path / "compared.jsonl", Synthetic(**FAMILIES["bowl"], seed=1)
    compare.compare(["bowl"], ["random search"], 2, file, 1)
    text = file.read_text()
    assert len(text.splitlines()) == 2  # two and eight at once
    file.write_text(text.splitlines(True)[0] + '["bowl","random search",8,0,[[1,1')
    compare.compare(["bowl"], ["random search"], 2, file, 1)
    assert file.read_text() == text
    found = dict(compare.read(file))
    assert [job[2:] for job in found] == [(2, 0), (2, 1), (8, 0), (8, 1)]
    played = trials_of("random search", objective, 8, 1)
    assert found["bowl", "random search", 8, 1] == regrets(played, objective)
    without = {job: each for job, each in found.items() if job[2:] != (2, 0)}
    assert [json.loads(line)[:4] for line in compare.lines(without)] == [
        ["bowl", "random search", 2, 1],
        ["bowl", "random search", 8, 0],
    ]
    assert "| random search |" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            ["{}/x.jsonl", "--objectives", "hill"],
            "'hill' is unknown; choose of 'digits', 'cifar10'",
        ),
        (["{}/x.jsonl", "--methods", "luck"], "'luck' is unknown; choose of 'Ray: OptunaSearch"),
        (["{}/none/x.jsonl"], "x.jsonl: its folder does not exist; make it first"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_one_line(
    given: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["compare", *(part.replace("{}", str(tmp_path)) for part in given)]
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert said in printed.err and printed.err.count("\n") == 1 and not printed.out
    assert not list(tmp_path.iterdir())


def test_every_way_to_search_spends_its_budget_and_no_more() -> None:
    objective = Synthetic(**FAMILIES["bowl"])
    ways = ["random search", "Ray: OptunaSearch + ASHA", "Optuna: TPE, median"]
    for method, concurrent in itertools.product(ways, (2, 8)):
        trials = trials_of(method, objective, concurrent, 0)
        assert 380 <= trials[-1].ended_after <= 400
        assert {trial.num_epochs for trial in trials} == {FULL}
