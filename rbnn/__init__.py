"""Rotated binary neural networks: the network, and how one process trains it (Lin et al., NeurIPS
2020, arXiv 2009.13055).

    import rbnn
    done = rbnn.train("cifar10_resnet20_1w1a", epochs=20)
    done.best_top1, done.model, done.epochs
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rbnn.recipe import Recipe, load_recipe
    from rbnn.session import Trained, train

__version__ = "0.2.0"
__all__ = ["Recipe", "Trained", "__version__", "load_recipe", "train"]
MODULES = {"Recipe": "recipe", "load_recipe": "recipe", "train": "session", "Trained": "session"}


def __getattr__(name: str) -> Any:
    """Each is imported when it is first asked for: torch takes seconds, and is to find its settings
    in the environment.
    """
    if name not in MODULES:
        raise AttributeError(f"module 'rbnn' has no attribute '{name}'")
    from importlib import import_module

    from rbnn.threading_env import set_threading

    set_threading()
    return getattr(import_module(f"rbnn.{MODULES[name]}"), name)
