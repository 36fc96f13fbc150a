"""The augmentations, and the geometry of evaluation, of one image with torchvision."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as TF

from rbnn.data.augment import PADDING, Floats, angles, crop_windows, eval_geometry, flips


def resized_crop_flip(image: Image.Image, draws: Floats, size: int) -> Tensor:
    """Random resized crop, linear without antialias as ImageNet was trained with, and random flip;
    draws (1, 23).
    """
    top, left, height, width = crop_windows(np.array([[image.height, image.width]]), draws)[
        0
    ].tolist()
    crop = TF.pil_to_tensor(image.crop((left, top, left + width, top + height)))
    resized = TF.resize(crop, [size, size], antialias=False)
    return resized.flip(2) if flips(draws)[0] else resized


def rotate_flip(image: Image.Image, draws: Floats, size: int) -> Tensor:
    """Enlargement, rotation by up to 20 degrees (nearest pixel, black outside) and random flip;
    draws (1, 2).
    """
    rotated = TF.rotate(
        TF.resize(image, [size, size]), float(angles(draws)[0]), InterpolationMode.NEAREST
    )
    return TF.pil_to_tensor(TF.horizontal_flip(rotated) if flips(draws)[0] else rotated)


TRAIN: dict[str, Callable[[Image.Image, Floats, int], Tensor]] = {
    "resized_crop_flip": resized_crop_flip,
    "rotate_flip": rotate_flip,
}


def eval_image(image: Image.Image, size: int, short_side: int | None) -> Tensor:
    """Resized, antialiased linear ("triangular"), to a shorter side whose centre is cut out, or to
    `size` outright.
    """
    (resized,), (corner,) = eval_geometry(np.array([[image.height, image.width]]), size, short_side)
    large = TF.resize(image, resized.tolist(), antialias=True)
    return TF.pil_to_tensor(TF.crop(large, *corner.tolist(), size, size))


def shifted(image: Tensor, draws: Floats) -> Tensor:
    """Crop of an image in memory padded with zeros, and flip; draws (3,)."""
    top, left, flip = (int(value) for value in draws)
    size = image.shape[-1]
    crop = TF.crop(TF.pad(image, [PADDING]), top, left, size, size)
    return crop.flip(2) if flip else crop
