"""The registry: a champion is a confirmed network, and gives way to a better confirmed one only."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from rbnn.errors import RequestError
from rbnn.recipe import Recipe
from tests.tune.made_runs import networked_run
from tune.sweep.confirm import Setting
from tune.sweep.summary import Winner
from tune.sweep.table import TrialRow
from tune.tracking.mirror import Mirror
from tune.tracking.reader import RunReader
from tune.tracking.registry import Candidate, candidate_of, champion_of, register_champion

RECIPE = Recipe(dataset="digits", epochs=1, threads=1)
NAME = "rbnn-digits-resnet20_1w1a"


@pytest.fixture(scope="module")
def place(
    new_store: Callable[[Path], str], tmp_path_factory: pytest.TempPathFactory
) -> tuple[RunReader, list[str]]:
    """A store with three runs that have their checkpoint."""
    folder = tmp_path_factory.mktemp("store")
    mirror = Mirror.open(new_store(folder))
    return mirror.reader, [networked_run(mirror, folder, RECIPE)[0] for _ in range(3)]


def candidate(run_id: str, *scores: float, measure: str = "val/top1") -> Candidate:
    return Candidate(run_id, RECIPE, "look", measure, scores)


def test_a_champion_gives_way_to_a_better_confirmed_one_only(
    place: tuple[RunReader, list[str]],
) -> None:
    reader, ids = place
    assert champion_of(reader, NAME) is None
    first = register_champion(reader, candidate(ids[0], 80.0, 82.0))
    assert (first.champion, first.version) == (True, "1")
    for same_or_worse in (candidate(ids[1], 81.0, 81.0), candidate(ids[1], 70.0)):
        refused = register_champion(reader, same_or_worse)
        assert not refused.champion
        assert "version 1 stays champion: val/top1 81.00 % against" in refused.text
    other = register_champion(reader, candidate(ids[1], 99.0, measure="test/top1"))
    assert not other.champion and "known by val/top1, this one by test/top1" in other.text
    better, again = (register_champion(reader, candidate(ids[2], 83.0, 84.0)) for _ in range(2))
    expected = "version 2 is champion, in place of version 1: val/top1 83.50 %"
    assert better.champion and expected in better.text
    assert again.text.endswith("is this network already, and champion")
    champion = champion_of(reader, NAME)
    assert champion is not None and champion.run_id == ids[2]
    tags = {"rbnn.seeds": "2", "rbnn.sweep": "look", "rbnn.confirmed_top1": "83.5"}
    assert champion.tags.items() >= tags.items()
    assert "lr: 0.1" in champion.description
    assert len(reader.client.search_model_versions(f"name = '{NAME}'")) == 2


def test_an_unconfirmed_winner_is_refused_with_the_way_to_confirm_it(
    place: tuple[RunReader, list[str]],
) -> None:
    reader, ids = place
    row = TrialRow(3, {"lr": 0.2}, ids[0][:20], "complete", 1, 80.0)
    with pytest.raises(RequestError, match="rbnn resume look --confirm_seeds 3"):
        candidate_of(Winner(row, RECIPE, RECIPE, None, None), "look", reader)
    winner = Winner(row, RECIPE, RECIPE, Setting(3, [80.0, 81.0], [79.0, 78.0]), None)
    confirmed = candidate_of(winner, "look", reader)
    found = (confirmed.run_id, confirmed.measure, confirmed.scores)
    assert found == (ids[0], "test/top1", (79.0, 78.0))
    row.run_id = "f" * 32
    with pytest.raises(RequestError, match="is unknown"):
        candidate_of(winner, "look", reader)


@pytest.mark.filterwarnings("ignore")  # of MLflow's and its dependencies' loading
def test_the_champion_loads_in_one_line(
    place: tuple[RunReader, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    reader, ids = place
    register_champion(reader, candidate(ids[2], 83.0, 84.0))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", reader.uri)
    network = mlflow.pytorch.load_model(f"models:/{NAME}@champion")
    assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
