"""The loaders, in images per second, against data loading as a first script writes it: torchvision
transforms in a DataLoader.

Images are made here: CIFAR-shaped ones in memory, and JPEGs of 500 x 375 in ImageNet's layout. DALI
is also compared with the torchvision loader here, on these JPEGs and on real ones where REAL_JPEGS
is there.
"""

from __future__ import annotations

import importlib
import statistics
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import count
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import datasets, transforms

from benchmarks.measure import Benchmark, Row, Setting, alternate, compared, installed
from rbnn.data import LOADERS, open_source
from rbnn.data.augment import AREA, ASPECT, PADDING
from rbnn.data.loading import Batch, Drawn, TrainLoader
from rbnn.data.source import Split
from rbnn.datasets import dataset_spec
from rbnn.distributed import World
from rbnn.hardware import num_cores, prepare_process
from rbnn.recipe import Recipe

BASELINE = "DataLoader with torchvision transforms"
OUR_TORCHVISION = "loader torchvision, same processes or threads"
REAL_JPEGS = (
    Path(__file__).resolve().parents[2] / "shared" / "data" / "imagenet"
)  # in ImageNet's layout, beside the project
JPEG_SIZE = (500, 375)
NUM_CLASSES_MADE = 4


class FromArray(Dataset[tuple[torch.Tensor, int]]):
    """Images (N, 3, S, S) uint8 through a transform of PIL images, as torchvision's CIFAR10 does
    it.
    """

    def __init__(self, split: Split, transform: Callable[[Image.Image], torch.Tensor]) -> None:
        self.images = np.ascontiguousarray(split.array.transpose(0, 2, 3, 1))
        self.labels = split.labels
        self.transform = transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(Image.fromarray(self.images[index])), int(self.labels[index])


def consumed(batches: Iterable[Batch | Drawn], device: torch.device) -> None:
    """Read an epoch to its end, on the device."""
    for images, labels in batches:
        images.to(device, non_blocking=True), labels.to(device, non_blocking=True)


def next_epoch(loader: TrainLoader, epochs: Iterator[int], device: torch.device) -> None:
    """Read the epoch of a loader of ours whose turn it is."""
    consumed(loader.epoch(next(epochs)), device)


def plain_loader(dataset: Dataset[tuple[torch.Tensor, int]], batch_size: int) -> Iterable[Batch]:
    """Shuffled batches from as many processes as our loaders use, which live on between epochs."""
    loader: DataLoader[tuple[torch.Tensor, int]] = DataLoader(
        dataset,
        batch_size,
        shuffle=True,
        num_workers=min(8, num_cores()),
        persistent_workers=True,
        pin_memory=torch.cuda.is_available(),
    )
    return loader


def cifar_images(num: int) -> Split:
    """Random images of CIFAR's shape."""
    rng = np.random.default_rng(1234)
    return Split(rng.integers(0, 256, (num, 3, 32, 32), dtype=np.uint8), rng.integers(0, 10, num))


def make_jpegs(folder: Path, num: int) -> None:
    """train/ and val/ with a folder per class: smooth noise, which compresses as photographs do (60
    to 100 kB each).
    """
    rng = np.random.default_rng(1234)
    for index in range(num):
        small = Image.fromarray(rng.integers(0, 256, (25, 33, 3), dtype=np.uint8)).resize(
            JPEG_SIZE, Image.Resampling.BICUBIC
        )
        grain = rng.normal(0, 12, (*JPEG_SIZE[::-1], 3))
        image = Image.fromarray(np.clip(np.asarray(small) + grain, 0, 255).astype(np.uint8))
        for split in ("train", "val") if index < NUM_CLASSES_MADE else ("train",):
            path = folder / split / f"n{index % NUM_CLASSES_MADE:08d}" / f"{index}.JPEG"
            path.parent.mkdir(parents=True, exist_ok=True)
            image.save(path, quality=85)


def compare(
    setting: Setting, kind: str, what: str, recipe: Recipe, split: Split, baseline: Iterable[Batch]
) -> list[Row]:
    """A training epoch through the loader of that kind and through the baseline, on each device."""
    module = LOADERS[kind]
    needs = ("nvidia.dali",) if kind == "dali" else ()
    if not all(map(installed, (module, *needs))):
        return [
            Row(
                f"loader {kind}, {what}",
                BASELINE,
                note=f"skipped: {module} is not there, or what it needs is not installed",
            )
        ]
    rows = []
    for device in setting.devices:
        prepare_process(recipe, device)
        train, _ = importlib.import_module(module).loaders(recipe, split, split, device, World())
        actions = {
            "ours": partial(next_epoch, train, count(), device),
            "plain": partial(consumed, baseline, device),
        }
        seconds = alternate(actions, setting.rounds, device=device)
        rates = (len(split) / statistics.median(values) for values in seconds.values())
        note = "images/s: {:,.0f} against {:,.0f}".format(*rates)
        rows.append(
            compared(
                f"loader {kind}, {what}, {device.type}",
                BASELINE,
                seconds["ours"],
                seconds["plain"],
                note=note,
            )
        )
    return rows


def cifar_rows(setting: Setting, kind: str) -> list[Row]:
    """Random crop and flip of images in memory."""
    num = 50_000 if setting.full else 5_000
    spec, split = dataset_spec("cifar10"), cifar_images(num)
    transform = transforms.Compose(
        [
            transforms.RandomCrop(spec.image_size, PADDING),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(spec.mean, spec.std),
        ]
    )
    recipe = Recipe(dataset="cifar10")
    baseline = plain_loader(FromArray(split, transform), recipe.batch_size)
    return compare(setting, kind, "CIFAR shapes", recipe, split, baseline)


def made_jpegs(setting: Setting) -> Path:
    """The folder of JPEGs made here."""
    folder = setting.folder / "jpegs"
    if not folder.exists():
        make_jpegs(folder, 1024 if setting.full else 192)
    return folder


def dali_rows(setting: Setting) -> list[Row]:
    """A training epoch of JPEGs through DALI on the CPU and through the torchvision loader here.

    torchvision's goes first, as DALI's memory is copied when a process is forked.
    """
    rows = []
    for what, folder in (("JPEGs", made_jpegs(setting)), ("ImageNet's JPEGs", REAL_JPEGS)):
        name = f"loader dali, {what}, cpu"
        if not folder.is_dir():
            rows.append(
                Row(name, OUR_TORCHVISION, note="skipped: there are none beside the project")
            )
            continue
        recipe, device = (
            Recipe(dataset="imagenet", batch_size=64, data_path=str(folder)),
            torch.device("cpu"),
        )
        prepare_process(recipe, device)
        train = open_source("imagenet", str(folder)).train
        actions = {}
        for kind in ("torchvision", "dali"):
            loader, _ = importlib.import_module(LOADERS[kind]).loaders(
                recipe, train, train, device, World()
            )
            actions[kind] = partial(next_epoch, loader, count(), device)
        seconds = alternate(actions, 3 * setting.rounds, device=device)
        rates = (len(train) / statistics.median(seconds[kind]) for kind in ("dali", "torchvision"))
        note = "images/s: {:,.0f} against {:,.0f}".format(*rates)
        rows.append(
            compared(name, OUR_TORCHVISION, seconds["dali"], seconds["torchvision"], note=note)
        )
    return rows


def jpeg_rows(setting: Setting, kind: str) -> list[Row]:
    """Random resized crop and flip of JPEGs."""
    folder = made_jpegs(setting)
    spec = dataset_spec("imagenet")
    transform = transforms.Compose(
        [
            transforms.RandomResizedCrop(spec.image_size, AREA, ASPECT),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(spec.mean, spec.std),
        ]
    )
    recipe = Recipe(dataset="imagenet", batch_size=64, data_path=str(folder))
    baseline = plain_loader(
        datasets.ImageFolder(str(folder / "train"), transform), recipe.batch_size
    )
    return compare(
        setting, kind, "JPEGs", recipe, open_source("imagenet", str(folder)).train, baseline
    )


BENCHMARKS = [
    *(
        Benchmark(f"loader {kind}, CIFAR shapes", BASELINE, partial(cifar_rows, kind=kind))
        for kind in LOADERS
    ),
    *(
        Benchmark(f"loader {kind}, JPEGs", BASELINE, partial(jpeg_rows, kind=kind))
        for kind in LOADERS
        if kind != "resident"
    ),
    Benchmark(
        "loader dali against torchvision, JPEGs", OUR_TORCHVISION, dali_rows, needs=("nvidia.dali",)
    ),
]
