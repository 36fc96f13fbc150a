"""python own_ray.py: says its own niceness, that of what its Ray runs, and that Ray's daemons."""

from __future__ import annotations

import os

import ray

from tune.cluster.daemons import own_ray_session, ray_processes
from tune.cluster.ray import connected


def main() -> None:
    with connected():
        daemons = sorted(name for _, name in ray_processes(own_ray_session("")))
        print(os.nice(0), ray.get(ray.remote(lambda: os.nice(0)).remote()), *daemons)


if __name__ == "__main__":
    main()
