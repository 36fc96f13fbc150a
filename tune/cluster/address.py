"""The cluster that the environment names. Apart from what talks to it, whose import
takes seconds.
"""

from __future__ import annotations

import os


def jobs_address(address: str = "") -> str:
    """`address`, else RAY_API_SERVER_ADDRESS or RAY_ADDRESS, where it is one that takes jobs; ""
    where it is not.
    """
    names = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
    given = (
        (address or next((os.environ[name] for name in names if os.environ.get(name)), ""))
        .strip()
        .rstrip("/")
    )
    return given if given.startswith(("http://", "https://")) else ""
