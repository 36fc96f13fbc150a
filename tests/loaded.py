"""`python -m tests.loaded NAME ...`: the packages that importing those modules loads."""

from __future__ import annotations

import importlib
import sys

if __name__ == "__main__":
    for name in sys.argv[1:]:
        importlib.import_module(name)
    print(*{module.partition(".")[0] for module in sys.modules})
