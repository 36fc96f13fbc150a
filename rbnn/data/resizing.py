"""What DALI decoded on the CPU, resized and normalised there by torch, in threads.

The arithmetic is that of rbnn.data.torchvision_loader, so that images which both decode alike stay
equal to the bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from rbnn.data.resident import Normalize
from rbnn.datasets import DatasetSpec

Decoded = NDArray[np.uint8]  # (H, W, 3)


class Resize(Protocol):
    """An image and its own draws to (3, size, size) uint8."""

    def __call__(self, image: Decoded, draws: list[Any], size: int) -> Decoded: ...


def linear(image: Decoded, height: int, width: int, *, antialias: bool) -> Decoded:
    """(3, height, width)."""
    planes = torch.from_numpy(image).permute(2, 0, 1)[None]
    resized: Decoded = F.interpolate(
        planes, size=(height, width), mode="bilinear", antialias=antialias
    )[0].numpy()
    return resized


def resized_window(image: Decoded, draws: list[Any], size: int) -> Decoded:
    """Without antialias, as ImageNet was trained with; draws: whether to mirror."""
    (mirror,) = draws
    resized = linear(image, size, size, antialias=False)
    return resized[:, :, ::-1] if mirror else resized


def resized_centre(image: Decoded, draws: list[Any], size: int) -> Decoded:
    """Antialiased; draws: the size (height, width) to resize to, then where the crop is, relative
    to what is cut off.
    """
    (height, width), crop_y, crop_x = draws
    resized = linear(image, int(height), int(width), antialias=True)
    top, left = round(float(crop_y * (height - size))), round(float(crop_x * (width - size)))
    return resized[:, top : top + size, left : left + size]


class FinishOnCpu:
    """Decoded images (N) and what belongs to each to (N, 3, S, S) float32, a share of a batch in
    each of `num_threads`.
    """

    def __init__(self, resize: Resize, spec: DatasetSpec, num_threads: int) -> None:
        self.resize, self.size, self.num_threads = resize, spec.image_size, num_threads
        self.normalize = Normalize(spec, torch.device("cpu"))
        self.threads = ThreadPoolExecutor(num_threads)

    def __call__(self, images: Sequence[Any], draws: list[NDArray[Any]]) -> Tensor:
        made = np.empty((len(images), 3, self.size, self.size), np.float32)

        def finish(rows: NDArray[np.int64]) -> None:
            for row in rows.tolist():
                resized = self.resize(
                    np.asarray(images[row]), [draw[row] for draw in draws], self.size
                )
                self.normalize.write(resized, made[row])

        for task in [
            self.threads.submit(finish, rows)
            for rows in np.array_split(np.arange(len(images)), self.num_threads)
        ]:
            task.result()
        return torch.from_numpy(made)
