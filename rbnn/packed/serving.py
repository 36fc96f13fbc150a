"""What a server calls for a package, MLflow's among them: a `predict` over NumPy arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rbnn.packed.weights import load


class Classifier:
    """A package in torch: images (N, 3, S, S), normalised -> class scores (N, C) float32."""

    def __init__(self, folder: str) -> None:
        self.model = load(folder)

    def predict(self, images: Any, params: dict[str, Any] | None = None) -> NDArray[np.float32]:
        """`params`: none is known; MLflow hands them to whoever takes them."""
        with torch.inference_mode():
            return self.model(torch.from_numpy(np.asarray(images, np.float32))).numpy()


def _load_pyfunc(folder: str) -> Classifier:
    """The name that MLflow asks a loader module for."""
    return Classifier(folder)
