"""python -m tests.tune.processes KIND [FILE SECONDS]: what tests start, and some kill.

`ends` starts another process, says its number and ends; `waits` stays after that; `deaf` says a
word and does not hear SIGTERM; `locks` keeps a database file to itself for so long; `naps` lets
process group FILE stand still for so long, as Ctrl-Z and `fg` do; `kills` ends process FILE after
so long.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time


def main(kind: str, file: str = "", seconds: str = "") -> None:
    if kind == "locks":
        database = sqlite3.connect(file, isolation_level=None, timeout=60)
        database.execute("BEGIN EXCLUSIVE")
        print("locked", flush=True)
        time.sleep(float(seconds))
        database.execute("ROLLBACK")
    elif kind == "naps":
        os.killpg(int(file), signal.SIGSTOP)
        time.sleep(float(seconds))
        os.killpg(int(file), signal.SIGCONT)
    elif kind == "kills":
        time.sleep(float(seconds))
        os.kill(int(file), signal.SIGKILL)
    elif kind == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print("deaf", flush=True)
    else:
        print(subprocess.Popen(["sleep", "1000"]).pid, flush=True)
    if kind in ("deaf", "waits"):
        signal.pause()


if __name__ == "__main__":
    main(*sys.argv[1:])
