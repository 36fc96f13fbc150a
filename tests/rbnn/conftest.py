"""Shared by the tests of the loop."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from rbnn.data import digits
from tests.rbnn import small


@pytest.fixture(scope="module")
def few_digits() -> Iterator[None]:
    """The digits are few: see `small.few_digits`."""
    few = small.few_digits()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(digits, "read", lambda: few)
        yield
