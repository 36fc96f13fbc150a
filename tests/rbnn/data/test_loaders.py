"""Every loader of every data set: the same images, order, labels and counts, however often."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterable
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from rbnn.data import LOADERS, open_loaders, open_source
from rbnn.data.augment import Floats, train_requests
from rbnn.data.loading import Batch, Loaders, stratified_part
from rbnn.datasets import DATASETS
from rbnn.distributed import World
from rbnn.errors import DataError
from rbnn.recipe import Recipe
from tests.rbnn.small import CPU, how, needs_dali

# Of one image, in units of the normalised input (one grey level is 0.017): mean of absolute
# differences between loaders.
TOLERANCE = 0.006
FOLDERS = {"digits": "", "tinyimagenet": "tiny", "imagenet": "imagenet"}
Open = Callable[..., Loaders]


def open_kind(
    kind: str, dataset: str, data_path: Path | str, world: World | None = None, **changes: object
) -> Loaders:
    wanted = {"batch_size": 8, "batch_size_test": 4, "workers": 0, **how(kind), **changes}
    return open_loaders(Recipe(dataset=dataset, data_path=str(data_path), **wanted), CPU, world)


def joined(batches: Iterable[Batch]) -> Batch:
    images, labels = zip(*batches, strict=True)
    return torch.cat(images), torch.cat(labels)


def same(first: Batch, second: Batch) -> bool:
    return torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])


@pytest.fixture(params=FOLDERS)
def dataset(request: pytest.FixtureRequest) -> tuple[str, Path]:
    """A data set's name and folder."""
    folder = FOLDERS[request.param]
    return request.param, request.getfixturevalue(folder) if folder else Path()


@pytest.fixture(
    params=[
        pytest.param((kind, name), marks=needs_dali if kind == "dali" else (), id=f"{kind}-{name}")
        for kind in LOADERS
        for name in FOLDERS
        if kind != "resident" or DATASETS[name].in_memory
    ]
)
def opened(request: pytest.FixtureRequest) -> Open:
    """Opens one kind of loader on one data set: `open_kind` but for what is then given."""
    kind, name = request.param
    data_path = request.getfixturevalue(FOLDERS[name]) if FOLDERS[name] else ""
    return partial(open_kind, kind, name, data_path)


def test_an_epoch_is_a_function_of_seed_and_epoch_whatever_was_read_before(opened: Open) -> None:
    run = opened()
    copied = [images.clone() for images, _ in run.train.epoch(0)]
    kept = [*run.train.epoch(0)]
    second, third = (joined(run.train.epoch(epoch)) for epoch in (1, 2))
    first = joined(kept)
    assert torch.equal(first[0], torch.cat(copied))
    resumed = opened()
    next(iter(resumed.train.epoch(1)))  # which is then left
    assert same(joined(resumed.train.epoch(2)), third)
    assert same(joined(resumed.train.epoch(0)), first)
    assert not torch.equal(first[0], second[0])
    assert not same(joined(opened(seed=1).train.epoch(0)), first)
    assert first[0].dtype == torch.float32 and first[1].dtype == torch.int64


def test_workers_change_nothing_and_leave_torchs_random_numbers_alone(opened: Open) -> None:
    alone = opened()
    expected, validation = joined(alone.train.epoch(1)), joined(alone.val)
    torch.manual_seed(5)
    several = opened(workers=2)
    for _ in range(2):
        assert same(joined(several.train.epoch(1)), expected)
        assert same(joined(several.val), validation)
    after = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(1), after)


def test_without_shared_memory_batches_come_by_pipe(
    imagenet: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch alone would lose such a batch in a thread, and wait for it for ever."""
    expected = joined(open_kind("torchvision", "imagenet", imagenet).train.epoch(0))

    def no_room(*_: object) -> None:
        raise RuntimeError("unable to allocate shared memory(shm): No space left on device (28)")

    monkeypatch.setattr(torch.UntypedStorage, "_share_fd_cpu_", no_room)
    loaders = open_kind("torchvision", "imagenet", imagenet, workers=2)
    assert same(joined(loaders.train.epoch(0)), expected)
    loaders.train.pool.close()


def test_loader_processes_leave_garbage_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that destroyed a DALI pipeline it inherited in a cycle would hang for ever."""
    parent, destroyed = os.getpid(), tmp_path / "destroyed"

    class Garbage:
        def __init__(self) -> None:
            self.cycle = self

        def __del__(self) -> None:
            if os.getpid() != parent:
                destroyed.touch()

    def collecting(image: Tensor, draws: Floats) -> Tensor:
        gc.collect()
        return image

    monkeypatch.setattr("rbnn.data.torchvision_loader.shifted", collecting)
    gc.disable()
    try:
        Garbage()
        loaders = open_kind("torchvision", "digits", "", workers=1, batch_size=700)
        assert sum(len(labels) for _, labels in loaders.train.epoch(0)) == 1400
    finally:
        gc.enable()
    assert not destroyed.exists() and gc.get_freeze_count() == 0


def test_an_epoch_taken_up_at_a_step_is_its_rest(opened: Open) -> None:
    loaders = opened(World(0, 2))
    whole = list(loaders.train.epoch(2))[:40]
    for start in {1, len(whole) - 1}:
        rest = list(zip(loaders.train.epoch(2, start), whole[start:], strict=False))
        assert rest and all(same(one, other) for one, other in rest)


@pytest.mark.parametrize("kind", ["torchvision", pytest.param("dali", marks=needs_dali)])
def test_skipped_batches_are_not_even_read(kind: str, own_imagenet: Path) -> None:
    images = open_source("imagenet", str(own_imagenet)).train.files
    (first, *_) = train_requests("resized_crop_flip", len(images), Recipe().seed, 0, [slice(0, 8)])
    for index in first.indices:
        Path(images.path(int(index))).unlink()
    loaders = open_kind(kind, "imagenet", own_imagenet)
    assert [len(labels) for _, labels in loaders.train.epoch(0, 1)] == [8, 2]
    with pytest.raises(DataError, match="cannot be read"):
        list(loaders.train.epoch(0))


@pytest.mark.parametrize("size", [2, 3])
def test_ranks_share_batches_evenly_and_validation_exactly(opened: Open, size: int) -> None:
    whole, ranks = opened(), [opened(World(rank, size)) for rank in range(size)]
    parts = [list(rank.train.epoch(0)) for rank in ranks]
    assert [len(part) for part in parts] == [ranks[0].train.num_batches] * size
    for (images, labels), *shares in zip(whole.train.epoch(0), *parts, strict=False):
        num = len(labels) // size * size
        assert same(joined(shares), (images[:num], labels[:num]))
    images, labels = joined(whole.val)
    for rank, loaders in enumerate(ranks):
        assert same(joined(loaders.val), (images[rank::size], labels[rank::size]))
    assert len(labels) == whole.info.sizes["validation"]


def test_held_out_images_leave_training_and_are_not_augmented(opened: Open) -> None:
    loaders, full = opened(val_fraction=0.25), opened()
    sizes = loaders.info.sizes
    assert sizes["train"] + sizes["validation"] == full.info.sizes["train"]
    assert sizes["test"] == full.info.sizes["validation"]
    images, labels = joined(loaders.val)
    assert len(labels) == sizes["validation"] and torch.bincount(labels).min() > 0
    assert same(joined(loaders.val), (images, labels))
    assert loaders.info.fingerprint == full.info.fingerprint


def test_a_part_of_the_training_images_is_data_of_its_own(opened: Open) -> None:
    """The same for every loader, a smaller part within; held-out images are of the part."""
    full = opened()
    num = full.info.sizes["train"] - 3
    part, smaller = (opened(train_images=n) for n in (num, num - 5))
    held = opened(train_images=num, val_fraction=0.4).info.sizes
    assert part.info.sizes == {**full.info.sizes, "train": num}
    assert held["train"] + held["validation"] == num
    assert len({each.info.fingerprint for each in (full, part, smaller)}) == 3
    source = open_source(opened.args[1], str(opened.args[2])).train
    rows = [set(stratified_part(source.labels, n).tolist()) for n in (num - 5, num, len(source))]
    assert rows[0] < rows[1] < rows[2] == set(range(len(source)))
    share = np.bincount(source.labels) * num / len(source)
    assert np.abs(np.bincount(source.labels[sorted(rows[1])]) - share).max() <= 2
    drawn = torch.bincount(joined(part.train.epoch(0))[1], minlength=len(share))
    assert (drawn <= torch.bincount(torch.from_numpy(source.labels[sorted(rows[1])]))).all()
    with pytest.raises(DataError, match=r"^train_images is 1; it must be from \d+, the number of"):
        opened(train_images=1)


def assert_alike(first: Loaders, second: Loaders, tolerance: float = TOLERANCE) -> None:
    """The first batches and all of validation: equal labels, images but for `tolerance`."""
    assert first.info == second.info
    pairs = islice(zip(first.train.epoch(1), second.train.epoch(1), strict=True), 4)
    for one, other in [*pairs, (joined(first.val), joined(second.val))]:
        assert torch.equal(one[1], other[1]) and one[0].shape == other[0].shape
        assert (one[0] - other[0]).abs().mean((1, 2, 3)).max() <= tolerance


@needs_dali
@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_dali_and_torchvision_see_the_same_images(
    device: str, dataset: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the CPU, DALI only decodes; what a GPU is asked to do is run there too."""
    if device == "gpu":
        monkeypatch.setattr("rbnn.data.dali.DECODED_ON_CPU", {})
    assert_alike(open_kind("torchvision", *dataset), open_kind("dali", *dataset))


def test_torchvision_and_memory_give_the_same_bits() -> None:
    assert_alike(*(open_kind(kind, "digits", "") for kind in ("torchvision", "resident")), 0)


@needs_dali
@pytest.mark.parametrize(
    ("name", "folder", "val_fraction"),
    [
        ("cifar10", "cifar10", 0.02),
        ("tinyimagenet", "", 0.1),
        ("imagenet", "", 0.2),
        ("imagenet", "imagenet_originals", 0.0),
    ],
)
def test_loaders_agree_on_real_images(
    name: str, folder: str, val_fraction: float, shared_dir: Path, tmp_path: Path
) -> None:
    path = shared_dir / "data" / folder
    if not val_fraction:  # one folder for both splits
        for split in ("train", "val"):
            (tmp_path / split).symlink_to(path)
        path = tmp_path
    small = {"batch_size_test": 64, "val_fraction": val_fraction, "workers": 2}
    assert_alike(*(open_kind(kind, name, path, **small) for kind in ("torchvision", "dali")))
