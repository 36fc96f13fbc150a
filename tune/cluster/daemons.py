"""The daemons of the Ray that this process started."""

from __future__ import annotations

from pathlib import Path

import psutil

from tune.cluster.ray import cluster_address

DAEMONS = ("gcs_server", "raylet")  # without the first, the second ends


def own_ray_session(address: str) -> str:
    """The folder of the Ray that this process started; "" where it joined a cluster."""
    from ray._private.worker import global_worker

    return "" if cluster_address(address) else str(global_worker.node.get_session_dir_path())


def lost_of_own_ray() -> str:
    """Which daemon of the Ray that this process started has ended; "" for none, or none started."""
    from ray._private.worker import global_worker

    daemons = global_worker.node.all_processes if global_worker.node else {}
    for name in DAEMONS:
        if any(info.process.poll() is not None for info in daemons.get(name, [])):
            return name
    return ""


def ray_processes(session: str) -> list[tuple[int, str]]:
    """(process id, program) of the daemons here of a session folder of Ray's; none for ""."""
    found = []
    for process in psutil.process_iter(["cmdline"]) if session else ():
        program, *words = process.info["cmdline"] or [""]
        if Path(program).name in DAEMONS and any(session in word for word in words):
            found.append((process.pid, Path(program).name))
    return found
