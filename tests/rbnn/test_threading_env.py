"""How threads wait: the project's way unless the user has chosen one."""

from __future__ import annotations

import pytest

from rbnn.threading_env import THREADING, set_threading


@pytest.mark.parametrize(
    ("chosen", "then"),
    [
        ({}, THREADING),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, {"OMP_WAIT_POLICY": "ACTIVE"}),
        ({"GOMP_SPINCOUNT": "0"}, {"GOMP_SPINCOUNT": "0"}),
    ],
)
def test_threads_wait_as_the_user_chose_or_as_measured(
    monkeypatch: pytest.MonkeyPatch, chosen: dict[str, str], then: dict[str, str]
) -> None:
    environment = dict(chosen)
    monkeypatch.setattr("os.environ", environment)
    set_threading()
    assert environment == then
