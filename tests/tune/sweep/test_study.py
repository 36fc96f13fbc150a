"""Where a sweep's trials are kept: a storage that cannot be used is told in one line, and no sweep
takes another's trials.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from rbnn.errors import RequestError
from tune.sweep.study import Study, begin_study, check_storage_url, open_storage


def test_a_storage_that_does_not_answer_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "optuna.db").write_text("no database at all, " * 100)
    for url in (
        "postgresql://ann:hidden@127.0.0.1:9/rbnn",
        f"sqlite:///{tmp_path}/optuna.db",
        "nosuch://x",
    ):
        with pytest.raises(
            RequestError, match=r"^storage .* cannot be used: .*; see that it is there"
        ) as refusal:
            Study.existing(url, "look")
        assert "\n" not in str(refusal.value) and "hidden" not in str(refusal.value)


def test_a_sweep_never_takes_up_the_trials_of_another_of_its_name(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/all.db"
    begin_study(url, "look", "ab" * 16)
    with pytest.raises(RequestError, match=r"holds a sweep 'look' already; choose another --name"):
        begin_study(url, "look", "cd" * 16)
    begin_study(url, "look-2", "cd" * 16)
    Study(url, "look").belongs_to("ab" * 16)
    with pytest.raises(RequestError, match=r"holds another sweep named 'look'"):
        Study(url, "look").belongs_to("cd" * 16)


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:"])
def test_a_storage_that_ends_with_its_process_is_refused(url: str) -> None:
    with pytest.raises(RequestError, match="is in memory, and ends with its process"):
        check_storage_url(url)


def test_a_missing_file_is_not_created(tmp_path: Path) -> None:
    assert Study.existing(f"sqlite:///{tmp_path}/none.db", "look") is None
    open_storage(f"sqlite:///{tmp_path}/made.db")
    assert [path.name for path in tmp_path.iterdir()] == ["made.db"]
