"""python tests/tune/cluster/niceness.py: says its own niceness and that of what its Ray runs."""

from __future__ import annotations

import os

import ray

from tune.cluster.ray import connected


def main() -> None:
    with connected():
        print(os.nice(0), ray.get(ray.remote(lambda: os.nice(0)).remote()))


if __name__ == "__main__":
    main()
