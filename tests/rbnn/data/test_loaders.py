"""Every loader of every data set: the same images, order, labels and counts, however often."""

from __future__ import annotations

import gc
import importlib.util
import os
from collections.abc import Iterable
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

CPU = torch.device("cpu")
HAS_DALI = importlib.util.find_spec("nvidia") and importlib.util.find_spec("nvidia.dali")
needs_dali = pytest.mark.skipif(not HAS_DALI, reason="NVIDIA DALI is not installed")
KINDS = [pytest.param(kind, marks=needs_dali if kind == "dali" else ()) for kind in LOADERS]
# Of one image, in units of the normalised input (one grey level is 0.017): mean of absolute
# differences between loaders.
TOLERANCE = 0.006


def options(kind: str) -> dict[str, object]:
    return {"use_dali": True} if kind == "dali" else {"loader": kind}


def open_kind(
    kind: str, dataset: str, data_path: Path | str, world: World | None = None, **changes: object
) -> Loaders:
    if kind == "resident" and not DATASETS[dataset].in_memory:
        pytest.skip(f"{dataset} is not held in memory")
    wanted = {"batch_size": 8, "batch_size_test": 4, "workers": 0, **options(kind), **changes}
    return open_loaders(Recipe(dataset=dataset, data_path=str(data_path), **wanted), CPU, world)


def joined(batches: Iterable[Batch]) -> Batch:
    images, labels = zip(*batches, strict=True)
    return torch.cat(images), torch.cat(labels)


def same(first: Batch, second: Batch) -> bool:
    return torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])


@pytest.fixture(params=["digits", "tinyimagenet", "imagenet"])
def dataset(request: pytest.FixtureRequest) -> tuple[str, Path]:
    folders = {"digits": None, "tinyimagenet": "tiny", "imagenet": "imagenet"}
    folder = folders[request.param]
    return request.param, request.getfixturevalue(folder) if folder else Path()


@pytest.mark.parametrize("kind", KINDS)
def test_an_epoch_is_a_function_of_seed_and_epoch(kind: str, dataset: tuple[str, Path]) -> None:
    run = open_kind(kind, *dataset)
    first, second, third = (joined(run.train.epoch(epoch)) for epoch in range(3))
    resumed = open_kind(kind, *dataset)
    assert same(joined(resumed.train.epoch(2)), third)
    assert same(joined(resumed.train.epoch(0)), first)
    assert not torch.equal(first[0], second[0])
    assert not same(joined(open_kind(kind, *dataset, seed=1).train.epoch(0)), first)
    assert first[0].dtype == torch.float32 and first[1].dtype == torch.int64


@pytest.mark.parametrize("kind", KINDS)
def test_workers_change_nothing_and_leave_torchs_random_numbers_alone(
    kind: str, dataset: tuple[str, Path]
) -> None:
    alone = open_kind(kind, *dataset)
    expected, validation = joined(alone.train.epoch(1)), joined(alone.val)
    torch.manual_seed(5)
    several = open_kind(kind, *dataset, workers=2)
    for _ in range(2):
        assert same(joined(several.train.epoch(1)), expected)
        assert same(joined(several.val), validation)
    after = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(1), after)


def test_without_room_in_shared_memory_batches_come_through_pipes(
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


def test_loader_processes_leave_this_ones_garbage_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A forked process that destroyed a DALI pipeline it inherited in a cycle would
    hang for ever.
    """
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
        loaders = open_kind("torchvision", "digits", Path(), workers=1, batch_size=700)
        assert sum(len(labels) for _, labels in loaders.train.epoch(0)) == 1400
    finally:
        gc.enable()
    assert not destroyed.exists() and gc.get_freeze_count() == 0


@pytest.mark.parametrize("kind", KINDS)
def test_an_epoch_left_early_does_not_disturb_the_next(
    kind: str, dataset: tuple[str, Path]
) -> None:
    loaders = open_kind(kind, *dataset)
    expected = joined(loaders.train.epoch(1))
    batches = iter(loaders.train.epoch(0))
    next(batches)
    del batches
    assert same(joined(loaders.train.epoch(1)), expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [1, 2])
def test_an_epoch_taken_up_at_a_step_is_its_rest(
    kind: str, size: int, dataset: tuple[str, Path]
) -> None:
    loaders = open_kind(kind, *dataset, World(0, size), batch_size=4 * size)
    whole = list(loaders.train.epoch(2))[:40]
    for start in {1, len(whole) - 1}:
        rest = list(zip(loaders.train.epoch(2, start), whole[start:], strict=False))
        assert rest and all(same(one, other) for one, other in rest)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "resident" not in kind.values])
def test_skipped_batches_are_not_even_read(kind: str, own_imagenet: Path) -> None:
    images = open_source("imagenet", str(own_imagenet)).train.files
    (first, *_) = train_requests("resized_crop_flip", len(images), Recipe().seed, 0, [slice(0, 8)])
    for index in first.indices:
        Path(images.path(int(index))).unlink()
    loaders = open_kind(kind, "imagenet", own_imagenet)
    assert [len(labels) for _, labels in loaders.train.epoch(0, 1)] == [8, 2]
    with pytest.raises(DataError, match="cannot be read"):
        list(loaders.train.epoch(0))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [2, 3])
def test_ranks_share_batches_evenly_and_validation_exactly(
    kind: str, size: int, dataset: tuple[str, Path]
) -> None:
    whole = open_kind(kind, *dataset, workers=0)
    ranks = [open_kind(kind, *dataset, World(rank, size)) for rank in range(size)]
    parts = [list(rank.train.epoch(0)) for rank in ranks]
    assert len({len(part) for part in parts}) == 1
    assert [len(part) for part in parts] == [rank.train.num_batches for rank in ranks]
    for number, (images, labels) in enumerate(whole.train.epoch(0)):
        if number < len(parts[0]):
            share = len(labels) // size
            assert torch.equal(
                torch.cat([part[number][1] for part in parts]), labels[: share * size]
            )
            assert torch.equal(
                torch.cat([part[number][0] for part in parts]), images[: share * size]
            )
    images, labels = joined(whole.val)
    for rank, loaders in enumerate(ranks):
        assert same(joined(loaders.val), (images[rank::size], labels[rank::size]))
    assert len(labels) == whole.info.sizes["validation"]


@pytest.mark.parametrize("kind", KINDS)
def test_batches_stay_what_they_are_after_the_next_is_read(
    kind: str, dataset: tuple[str, Path]
) -> None:
    loaders = open_kind(kind, *dataset)
    copied = [images.clone() for images, _ in loaders.train.epoch(0)]
    kept = [images for images, _ in loaders.train.epoch(0)]
    list(loaders.train.epoch(1))
    assert all(map(torch.equal, kept, copied))


@pytest.mark.parametrize("kind", KINDS)
def test_held_out_images_leave_training_and_are_not_augmented(
    kind: str, dataset: tuple[str, Path]
) -> None:
    loaders = open_kind(kind, *dataset, val_fraction=0.25)
    full = open_kind(kind, *dataset)
    sizes = loaders.info.sizes
    assert sizes["train"] + sizes["validation"] == full.info.sizes["train"]
    assert sizes["test"] == full.info.sizes["validation"]
    images, labels = joined(loaders.val)
    assert len(labels) == sizes["validation"] and torch.bincount(labels).min() > 0
    assert same(joined(loaders.val), (images, labels))
    assert loaders.info.fingerprint == full.info.fingerprint


@pytest.mark.parametrize("kind", KINDS)
def test_a_part_of_the_training_images_is_data_of_its_own(
    kind: str, dataset: tuple[str, Path]
) -> None:
    """The same images for every loader, those of a smaller part among them; held-out ones are of
    the part.
    """
    full = open_kind(kind, *dataset)
    num = full.info.sizes["train"] - 3
    part, smaller = (open_kind(kind, *dataset, train_images=n) for n in (num, num - 5))
    held = open_kind(kind, *dataset, train_images=num, val_fraction=0.4).info.sizes
    assert part.info.sizes == {**full.info.sizes, "train": num}
    assert held["train"] + held["validation"] == num
    assert len({each.info.fingerprint for each in (full, part, smaller)}) == 3
    source = open_source(dataset[0], str(dataset[1])).train
    rows = [set(stratified_part(source.labels, n).tolist()) for n in (num - 5, num, len(source))]
    assert rows[0] < rows[1] < rows[2] == set(range(len(source)))
    share = np.bincount(source.labels) * num / len(source)
    assert np.abs(np.bincount(source.labels[sorted(rows[1])]) - share).max() <= 2
    drawn = torch.bincount(joined(part.train.epoch(0))[1], minlength=len(share))
    assert (drawn <= torch.bincount(torch.from_numpy(source.labels[sorted(rows[1])]))).all()
    with pytest.raises(DataError, match=r"^train_images is 1; it must be from \d+, the number of"):
        open_kind(kind, *dataset, train_images=1)


def differences(first: Loaders, second: Loaders) -> tuple[Tensor, Tensor]:
    """Mean absolute difference per image, of a training epoch and of validation; labels must be
    equal.
    """
    results = []
    for one, other in (
        (joined(first.train.epoch(1)), joined(second.train.epoch(1))),
        (joined(first.val), joined(second.val)),
    ):
        assert torch.equal(one[1], other[1]) and one[0].shape == other[0].shape
        results.append((one[0] - other[0]).abs().mean((1, 2, 3)))
    return results[0], results[1]


@needs_dali
@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_dali_and_torchvision_see_the_same_images(
    device: str, dataset: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a GPU is asked to do, the resizing included, is run on the CPU, where otherwise DALI
    only decodes.
    """
    if device == "gpu":
        monkeypatch.setattr("rbnn.data.dali.DECODED_ON_CPU", {})
    train, val = differences(open_kind("torchvision", *dataset), open_kind("dali", *dataset))
    assert max(train.max(), val.max()) < TOLERANCE


def test_torchvision_and_memory_give_the_same_bits() -> None:
    kinds = (open_kind(kind, "digits", "") for kind in ("torchvision", "resident"))
    train, val = differences(*kinds)
    assert not train.any() and not val.any()


@needs_dali
@pytest.mark.parametrize("name", ["cifar10", "tinyimagenet", "imagenet"])
def test_loaders_agree_on_real_images(name: str, shared_dir: Path) -> None:
    path = shared_dir / "data" / ("cifar10" if name == "cifar10" else "")
    small = {
        "batch_size": 64,
        "batch_size_test": 64,
        "val_fraction": {"cifar10": 0.02, "tinyimagenet": 0.1}.get(name, 0.2),
    }
    first, second = (
        open_kind(kind, name, path, workers=2, **small) for kind in ("torchvision", "dali")
    )
    assert first.info == second.info
    one, other = joined(first.val), joined(second.val)
    assert torch.equal(one[1], other[1])
    assert (one[0] - other[0]).abs().mean((1, 2, 3)).max() < TOLERANCE
    pair = zip(first.train.epoch(3), second.train.epoch(3), strict=False)
    (images, labels), (others, other_labels) = next(pair)
    assert (
        torch.equal(labels, other_labels)
        and (images - others).abs().mean((1, 2, 3)).max() < TOLERANCE
    )


@needs_dali
def test_original_imagenet_files_are_read_alike(shared_dir: Path, tmp_path: Path) -> None:
    originals = shared_dir / "data" / "imagenet_originals"
    for split in ("train", "val"):
        (tmp_path / split).symlink_to(originals)
    train, val = differences(
        *(open_kind(kind, "imagenet", tmp_path) for kind in ("torchvision", "dali"))
    )
    assert max(train.max(), val.max()) < TOLERANCE


def test_grayscale_becomes_rgb(tiny: Path) -> None:
    images, _ = joined(open_kind("torchvision", "tinyimagenet", tiny).train.epoch(0))
    spec = DATASETS["tinyimagenet"]
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (spec.mean, spec.std))
    pixels = images * std + mean
    gray = (pixels.amax(1) - pixels.amin(1)).amax((1, 2)) < 0.01
    assert gray.sum() == 3
    assert images.shape == (12, 3, 224, 224) and np.isfinite(images.numpy()).all()
