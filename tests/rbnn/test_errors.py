"""Which error is whose doing, and the nearest names."""

from __future__ import annotations

from rbnn.errors import (
    CheckpointError,
    DataError,
    NonFiniteLoss,
    RecipeError,
    RequestError,
    RunFailed,
    nearest,
)


def test_requests_and_failed_runs_are_told_apart() -> None:
    assert all(issubclass(kind, RequestError) for kind in (RecipeError, DataError, CheckpointError))
    assert issubclass(NonFiniteLoss, RunFailed) and not issubclass(RunFailed, RequestError)


def test_nearest_gives_the_close_names_best_first_and_all_of_them_when_none_is_close() -> None:
    names = ["momentum", "model", "epochs", "warm_up"]
    assert nearest("modle", names) == "model"
    assert nearest("momentom", names) == "momentum"
    assert nearest("zzz", names) == "epochs, model, momentum, warm_up"
