"""python own_ray.py: says where this code lies and how many recipes and sweep files it brings; with
`start`, its own niceness, that of what its Ray runs, that Ray's daemons, and how many of them share
its process group.
"""

from __future__ import annotations

import os
import sys

import rbnn.recipe
import tune.sweep.config
from tune.cluster.daemons import own_ray_session, ray_processes
from tune.cluster.ray import connected


def main() -> None:
    files = rbnn.recipe.recipe_files(), tune.sweep.config.sweep_files()
    print(rbnn.recipe.__file__, *(len(found) for found in files))


def start() -> None:
    import ray

    with connected():
        found = ray_processes(own_ray_session(""))
        num_near = [os.getpgid(pid) for pid, _ in found].count(os.getpgid(0))
        print(os.nice(0), ray.get(ray.remote(lambda: os.nice(0)).remote()))
        print(*sorted(name for _, name in found), num_near)


if __name__ == "__main__":
    start() if "start" in sys.argv else main()
