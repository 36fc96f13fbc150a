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
from PIL.JpegImagePlugin import JpegImageFile

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
from rbnn.data.images import UNREADABLE, decode, refusal, rgb
from rbnn.data.source import Files
from rbnn.datasets import dataset_spec

Bytes = NDArray[np.uint8]
File = tuple[Bytes, tuple[int, int]]  # its bytes, and the image's height and width
Inputs = tuple[tuple[str, int, str], ...]
# By the byte after 0xFF: whether it ends a JPEG's compressed data, and whether it may do so between
# the scans of a progressive one: Huffman tables, the next scan.
ENDS_DATA, BETWEEN_SCANS = np.ones(256, bool), np.zeros(256, bool)
ENDS_DATA[[0x00, *range(0xD0, 0xD8), 0xFF]] = False
BETWEEN_SCANS[[0xC4, 0xDA]] = True
JPEG_END = 0xD9
SAMPLINGS = [
    [(1, 1)],
    *([luminance, (1, 1), (1, 1)] for luminance in ((1, 1), (2, 1), (2, 2))),
]
READ_AHEAD = 2  # batches
ENCODED = ("u1", 1, "")


class Feed(Protocol):
    """inputs: dtype, dimensions of one image's and layout of each array that `batches` yields."""

    inputs: Inputs

    def batches(self, requests: Iterable[Request], num_threads: int) -> Iterator[tuple[Any, ...]]:
        """The inputs of each request."""
        ...

    def take_over(self, request: Request) -> bool:
        """After DALI has refused a request: decode its images without DALI from now on.

        False where that is so already. Raises DataError naming an image that is none.
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

    def take_over(self, request: Request) -> bool:
        return False


def is_plain_jpeg(image: Image.Image, content: bytes) -> bool:
    """Whether DALI decodes a file that Pillow has opened to the same pixels as Pillow.

    A JPEG of 8 bits, grey or YCbCr in one of SAMPLINGS, complete to its end. DALI decodes only the
    window it needs: where anything else stands in the compressed data, which Pillow might refuse,
    or where the end is missing, Pillow has to decode the whole.
    """
    if not isinstance(image, JpegImageFile) or image.format != "JPEG" or image.bits != 8:
        return False
    assert image.fp
    if [(h, v) for _, h, v, _ in image.layer] not in SAMPLINGS:
        return False
    names = [name for name, *_ in image.layer]
    is_rgb = names != [1, 2, 3] or image.info.get("adobe_transform") == 0
    if len(names) == 3 and is_rgb:
        return False
    data = np.frombuffer(content, np.uint8)[image.fp.tell() :]
    codes = data[1:][data[:-1] == 0xFF]
    markers = codes[ENDS_DATA[codes]]
    ends = np.flatnonzero(markers == JPEG_END)
    if not len(ends) or (ends[0] and "progressive" not in image.info):
        return False
    return bool(BETWEEN_SCANS[markers[: ends[0]]].all())


class FileFeed:
    """Encoded files, read ahead in threads: JPEGs as they are, others as Pillow decodes them.

    not_for_dali: indices of JPEGs that DALI has refused.
    """

    inputs: Inputs

    def __init__(self, files: Files, name: str) -> None:
        self.files, self.name = files, name
        self.spec = dataset_spec(name)
        self.not_for_dali: set[int] = set()

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
        """A file for DALI to decode, and the image's height and width. Raises DataError naming it
        where it is no whole image.
        """
        path = self.files.path(index)
        try:
            with open(path, "rb", buffering=0) as file:
                content = file.read()
            with Image.open(io.BytesIO(content)) as image:
                size = image.height, image.width
                if index not in self.not_for_dali and is_plain_jpeg(image, content):
                    return np.frombuffer(content, np.uint8), size
                pixels = rgb(image)
        except UNREADABLE as error:
            raise refusal(self.name, path, error) from None
        header = b"P6 %d %d 255\n" % pixels.size
        return np.frombuffer(header + pixels.tobytes(), np.uint8), (pixels.height, pixels.width)

    def take_over(self, request: Request) -> bool:
        indices = set(request.indices.tolist())
        for index in indices:
            decode(self.name, self.files.path(index))
        is_new = not indices <= self.not_for_dali
        self.not_for_dali |= indices
        return is_new

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
