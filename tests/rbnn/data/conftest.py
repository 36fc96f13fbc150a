"""Small real image files: every shape and kind of JPEG that ImageNet holds, in its folders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

WNIDS = ("n01440764", "n02102040", "n03028079")


def save_image(path: Path, height: int, width: int, seed: int, mode: str = "RGB") -> None:
    """A smooth random image, so that resampling has something to agree on, that EXIF would turn."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    path.parent.mkdir(parents=True, exist_ok=True)
    image = coarse.resize((width, height), Image.Resampling.BICUBIC).convert(mode)
    image.save(path, format="JPEG", quality=95, exif=exif)


def make_imagenet(root: Path) -> Path:
    """18 training and 7 validation images: small, wide, tall, gray, CMYK, turned, odd names."""
    shapes = [(64, 80), (256, 256), (300, 90), (90, 300), (231, 375), (224, 223)]
    for label, wnid in enumerate(WNIDS):
        for number, shape in enumerate(shapes):
            mode = {1: "L", 4: "CMYK"}.get(number, "RGB")
            name = "it's [odd] name é.JPEG" if number == 2 else f"{wnid}_{number}.JPEG"
            save_image(root / "train" / wnid / name, *shape, 100 * label + number, mode)
    for number in range(7):
        path = root / "val" / WNIDS[number % 3] / f"val_{number}.JPEG"
        save_image(path, *shapes[number % 6], 1000 + number)
    return root


def make_tiny(root: Path) -> Path:
    """As downloaded: 12 training images, 7 validation images in one folder, their annotations."""
    for label, wnid in enumerate(WNIDS):
        for number in range(4):
            path = root / "train" / wnid / "images" / f"{wnid}_{number}.JPEG"
            save_image(path, 64, 64, 10 * label + number, "L" if number == 1 else "RGB")
        (root / "train" / wnid / f"{wnid}_boxes.txt").write_text("n\t0\t0\t1\t1\n")
    rows = []
    for number in range(7):
        save_image(root / "val" / "images" / f"val_{number}.JPEG", 64, 64, 500 + number)
        rows.append(f"val_{number}.JPEG\t{WNIDS[number % 3]}\t0\t0\t63\t63\n")
    (root / "val" / "val_annotations.txt").write_text("".join(rows))
    (root / "wnids.txt").write_text("\n".join(WNIDS))
    return root


@pytest.fixture(scope="session")
def imagenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_imagenet(tmp_path_factory.mktemp("data") / "imagenet")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny(tmp_path_factory.mktemp("data") / "tiny-imagenet-200")


@pytest.fixture
def own_imagenet(tmp_path: Path) -> Path:
    """One that a test may damage."""
    return make_imagenet(tmp_path / "imagenet")


@pytest.fixture
def own_tiny(tmp_path: Path) -> Path:
    """One that a test may damage."""
    return make_tiny(tmp_path / "tiny-imagenet-200")
