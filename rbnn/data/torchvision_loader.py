"""Images decoded and augmented one by one with torchvision, in `workers` processes, as uint8;
normalised on the run's device.

A loader process gets a batch's indices and draws and returns its images: it holds no state, and no
randomness of its own.
"""

from __future__ import annotations

import gc
import multiprocessing
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from multiprocessing.context import BaseContext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from rbnn.data.augment import Request, eval_requests, eval_short_side, train_requests
from rbnn.data.images import decode
from rbnn.data.loading import Batch, dead_loaders_told, epoch_positions
from rbnn.data.resident import Normalize
from rbnn.data.source import Files, Split
from rbnn.data.transforms import TRAIN, eval_image, shifted
from rbnn.datasets import DatasetSpec, dataset_spec
from rbnn.distributed import World
from rbnn.errors import DataError
from rbnn.hardware import num_cores
from rbnn.recipe import Recipe

Images = Tensor | NDArray[np.uint8]
Made = tuple[Images, NDArray[np.int64]]


def handed_over(images: Tensor) -> Images:
    """A loader process's images for the run's process: in memory that both share, or where that
    (/dev/shm) has no room left as an array, which goes through a pipe.

    (Left to torch, a batch without room is lost in a thread, and waited for for ever.)
    """
    if get_worker_info() is None:
        return images
    try:
        return images.share_memory_()
    except RuntimeError:
        return images.numpy()


@dataclass(frozen=True)
class Batches(Dataset[Made | DataError]):
    """request -> (images (N, 3, S, S) uint8, labels (N,)), or the error, which the process that
    reads it raises.

    (An error raised in a loader process would come out as that process's stack trace.)
    """

    split: Split
    name: str
    spec: DatasetSpec

    def __getitem__(self, request: Request) -> Made | DataError:
        try:
            images = [
                self.image(row, int(index), request) for row, index in enumerate(request.indices)
            ]
        except DataError as error:
            return error
        return handed_over(torch.stack(images)), self.split.labels[request.indices]

    def image(self, row: int, index: int, request: Request) -> Tensor:
        """One image of a request."""
        if not isinstance(self.split.images, Files):
            image = torch.from_numpy(self.split.at(np.array([index]))[0])
            return image if request.draws is None else shifted(image, request.draws[row])
        decoded, size = decode(self.name, self.split.images.path(index)), self.spec.image_size
        if request.draws is None:
            return eval_image(decoded, size, eval_short_side(self.spec.augmentation))
        return TRAIN[self.spec.augmentation](decoded, request.draws[row : row + 1], size)


@contextmanager
def nothing_collected() -> Iterator[None]:
    """Within it, processes are forked that never destroy this one's garbage.

    A DALI pipeline that nobody needs any more may wait in a cycle for the garbage collector. A
    forked process that collected it would wait for ever for the pipeline's threads, which it does
    not have.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


class PipedEvent:
    """An event between processes without a lock: set once there is something in a pipe that nobody
    empties.
    """

    def __init__(self) -> None:
        self.reader, self.writer = multiprocessing.Pipe(duplex=False)

    def is_set(self) -> bool:
        return self.reader.poll()

    def set(self) -> None:
        self.writer.send_bytes(b"set")


def loader_processes() -> BaseContext:
    """How loader processes are started, with events that outlive a killed one.

    Each asks the DataLoader's event at every batch. Of multiprocessing's own, one killed just then
    keeps the lock, and the run, asking which process is dead, waits for it for ever.
    """
    context = copy(multiprocessing.get_context())
    vars(context)["Event"] = PipedEvent
    return context


def unchanged(made: Any) -> Any:
    """In place of a collation that would make tensors of arrays."""
    return made


class Requests:
    """What the next pass over a DataLoader asks for; set before it starts, as its processes outlive
    an epoch.
    """

    def __init__(self) -> None:
        self.next: Iterable[Request] = ()

    def __iter__(self) -> Iterator[Request]:
        return iter(self.next)


class Pool:
    """Batches by request, made in loader processes (none: in this one) and brought to the device in
    order.

    The generator given to DataLoader keeps it from drawing on torch's own, which would make later
    draws depend on it.
    """

    def __init__(
        self, batches: Batches, recipe: Recipe, device: torch.device, *, keep: bool
    ) -> None:
        num = min(recipe.workers, num_cores())
        self.requests = Requests()
        self.normalize = Normalize(batches.spec, device)
        self.device = device
        self.loader: DataLoader[Made | DataError] = DataLoader(
            batches,
            batch_size=None,
            collate_fn=unchanged,
            sampler=self.requests,
            num_workers=num,
            multiprocessing_context=loader_processes() if num else None,
            persistent_workers=keep and num > 0,
            pin_memory=device.type == "cuda",
            generator=torch.Generator(),
        )

    def batches(self, requests: Iterable[Request]) -> Iterator[Batch]:
        """Normalised batches; raises DataError naming a damaged image, RunFailed where a loader
        process died.
        """
        self.requests.next = requests
        made_batches = None
        try:
            with dead_loaders_told():
                with nothing_collected():
                    made_batches = iter(self.loader)
                for made in made_batches:
                    if isinstance(made, DataError):
                        raise made
                    images, labels = (
                        torch.as_tensor(part).to(self.device, non_blocking=True) for part in made
                    )
                    yield self.normalize(images), labels
        except (DataError, RuntimeError) as error:
            self.close(made_batches)
            raise error from None

    def close(self, made_batches: Iterator[Made | DataError] | None = None) -> None:
        """End kept loader processes, or those of the pass `made_batches`; the next pass starts
        others.

        Left to the garbage collector, which an error's traceback may hand them to, torch waits 5 s
        for each of them.
        """
        iterator = self.loader._iterator if made_batches is None else made_batches
        self.loader._iterator = None
        if isinstance(iterator, _MultiProcessingDataLoaderIter):
            iterator._shutdown_workers()


class TorchvisionTrain:
    """The recipe's augmentation, image by image."""

    def __init__(
        self, split: Split, recipe: Recipe, spec: DatasetSpec, device: torch.device, world: World
    ) -> None:
        self.spec, self.seed, self.total = spec, recipe.seed, len(split)
        self.pool = Pool(Batches(split, recipe.dataset, spec), recipe, device, keep=True)
        self.slices = epoch_positions(self.total, recipe.batch_size, world)
        self.num_batches = len(self.slices)
        self.num_images = sum(part.stop - part.start for part in self.slices)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        return self.pool.batches(
            train_requests(
                self.spec.augmentation, self.total, self.seed, epoch, self.slices[start:]
            )
        )


class TorchvisionEval:
    """This rank's share of the images, in order."""

    def __init__(
        self, split: Split, recipe: Recipe, spec: DatasetSpec, device: torch.device, world: World
    ) -> None:
        self.pool = Pool(Batches(split, recipe.dataset, spec), recipe, device, keep=False)
        self.requests = eval_requests(len(split), recipe.batch_size_test, world)

    def __iter__(self) -> Iterator[Batch]:
        return self.pool.batches(self.requests)


def loaders(
    recipe: Recipe, train: Split, val: Split, device: torch.device, world: World
) -> tuple[TorchvisionTrain, TorchvisionEval]:
    """Training and validation loaders of one rank."""
    spec = dataset_spec(recipe.dataset)
    return TorchvisionTrain(train, recipe, spec, device, world), TorchvisionEval(
        val, recipe, spec, device, world
    )
