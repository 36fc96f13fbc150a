"""What the DALI pipelines are fed with, batch by batch: bytes or pixels, and the draws as the
operators want them.
"""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rbnn.data.augment import (
    PADDING,
    Ints,
    Request,
    angles,
    crop_windows,
    eval_geometry,
    eval_short_side,
    flips,
)
from rbnn.data.folders import UNREADABLE, damaged, decode
from rbnn.data.source import Files
from rbnn.datasets import dataset_spec

Bytes = NDArray[np.uint8]
File = tuple[Bytes, tuple[int, int]]  # its bytes, and the image's height and width
Inputs = tuple[tuple[str, int, str], ...]
JPEG_START, JPEG_END = b"\xff\xd8", b"\xff\xd9"
TAIL_BYTES = 64  # cameras pad a file after the end marker; more than this is looked at closely
READ_AHEAD = 2  # batches
ENCODED = ("u1", 1, "")


class Feed(Protocol):
    """inputs: dtype, dimensions of one image's and layout of each array that `batches` yields."""

    inputs: Inputs

    def batches(self, requests: Iterable[Request], num_threads: int) -> Iterator[tuple[Any, ...]]:
        """The inputs of each request."""
        ...

    def blame(self, request: Request) -> None:
        """Raise DataError naming an image of the request that cannot be decoded; nothing if all
        can.
        """
        ...


class ArrayFeed:
    """Images in memory, padded with zeros; offsets of the crop relative to 2 * PADDING,
    and flips.
    """

    inputs: Inputs = (("u1", 3, "HWC"), ("f4", 0, ""), ("f4", 0, ""), ("i4", 0, ""))

    def __init__(self, images: NDArray[np.uint8]) -> None:
        edges = (PADDING, PADDING)
        self.padded = np.ascontiguousarray(
            np.pad(images, ((0, 0), (0, 0), edges, edges)).transpose(0, 2, 3, 1)
        )

    def batches(self, requests: Iterable[Request], num_threads: int) -> Iterator[tuple[Any, ...]]:
        for request in requests:
            num = len(request.indices)
            draws = (
                np.tile([PADDING, PADDING, 0.0], (num, 1))
                if request.draws is None
                else request.draws
            )
            where = (draws[:, :2] / (2 * PADDING)).astype(np.float32)
            yield (
                self.padded[request.indices],
                where[:, 0].copy(),
                where[:, 1].copy(),
                draws[:, 2].astype(np.int32),
            )

    def blame(self, request: Request) -> None:
        pass


class FileFeed:
    """Encoded files, read ahead in threads, each checked as far as its header and end tell."""

    inputs: Inputs

    def __init__(self, files: Files, name: str) -> None:
        self.files, self.name = files, name
        self.spec = dataset_spec(name)

    def batches(self, requests: Iterable[Request], num_threads: int) -> Iterator[tuple[Any, ...]]:
        reading: deque[tuple[Request, list[Future[list[File]]]]] = deque()
        with ThreadPoolExecutor(num_threads) as threads:
            try:
                for request in requests:
                    shares = np.array_split(request.indices, num_threads)
                    reading.append(
                        (request, [threads.submit(self.read_all, share) for share in shares])
                    )
                    if len(reading) > READ_AHEAD:
                        yield self.taken(*reading.popleft())
                while reading:
                    yield self.taken(*reading.popleft())
            finally:
                threads.shutdown(wait=False, cancel_futures=True)

    def taken(self, request: Request, shares: list[Future[list[File]]]) -> tuple[Any, ...]:
        """The inputs of a request, its files having been read."""
        encoded, sizes = zip(*(file for share in shares for file in share.result()), strict=True)
        return list(encoded), *self.parameters(np.array(sizes, dtype=np.int64), request)

    def read_all(self, indices: NDArray[np.int64]) -> list[File]:
        """`read` of each: one task for a thread, as one per file costs as much again as the
        reading.
        """
        return [self.read(index) for index in indices.tolist()]

    def read(self, index: int) -> File:
        """A file's bytes, and the image's height and width. Raises DataError naming it where it is
        cut short or no image.

        DALI decodes the window it needs, and would not notice what is missing below it.
        """
        path = self.files.path(index)
        try:
            with open(path, "rb", buffering=0) as file:
                content = file.read()
            with Image.open(io.BytesIO(content)) as image:
                size = image.height, image.width
        except UNREADABLE as error:
            raise damaged(self.name, path, error) from None
        if content.startswith(JPEG_START) and JPEG_END not in content[-TAIL_BYTES:]:
            decode(self.name, path)
        return np.frombuffer(content, np.uint8), size

    def blame(self, request: Request) -> None:
        for index in request.indices:
            decode(self.name, self.files.path(int(index)))

    def parameters(self, sizes: Ints, request: Request) -> tuple[Any, ...]:
        """What stands beside the files, for images of `sizes` (N, 2)."""
        raise NotImplementedError


class CropFeed(FileFeed):
    """Start and shape (height, width) of the window, flips."""

    inputs: Inputs = (ENCODED, ("i4", 1, ""), ("i4", 1, ""), ("i4", 0, ""))

    def parameters(self, sizes: Ints, request: Request) -> tuple[Any, ...]:
        assert request.draws is not None
        windows = crop_windows(sizes, request.draws).astype(np.int32)
        return windows[:, :2].copy(), windows[:, 2:].copy(), flips(request.draws).astype(np.int32)


class RotateFeed(FileFeed):
    """Angles in degrees, flips."""

    inputs: Inputs = (ENCODED, ("f4", 0, ""), ("i4", 0, ""))

    def parameters(self, sizes: Ints, request: Request) -> tuple[Any, ...]:
        assert request.draws is not None
        return angles(request.draws).astype(np.float32), flips(request.draws).astype(np.int32)


class EvalFeed(FileFeed):
    """Size (height, width) to resize to, position of the crop relative to what is cut off."""

    inputs: Inputs = (ENCODED, ("f4", 1, ""), ("f4", 0, ""), ("f4", 0, ""))

    def parameters(self, sizes: Ints, request: Request) -> tuple[Any, ...]:
        size = self.spec.image_size
        resized, corners = eval_geometry(sizes, size, eval_short_side(self.spec.augmentation))
        where = (corners / np.maximum(resized - size, 1)).astype(np.float32)
        return resized.astype(np.float32), where[:, 0].copy(), where[:, 1].copy()
