"""Damage that decoders pass over: they fill in what is missing, and the loaders take the result.

Found: in JPEGs whatever libjpeg warns of, in PNGs a part whose checksum is wrong or that is not
there. Not to be found: changed bytes that still make sense, as most do in the other formats.
"""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial

import numpy as np
import torch
from PIL import Image

from rbnn.data.images import UNREADABLE

JPEGS = ("JPEG", "MPO")


def png_fault(image: Image.Image) -> str:
    """What is wrong with the parts of a PNG that was opened and not read yet, "" for nothing."""
    try:
        image.verify()
    except UNREADABLE as error:
        return str(error)
    return ""


def jpeg_faults(paths: Sequence[str], threads: ThreadPoolExecutor) -> dict[str, str]:
    """What libjpeg warns of, by path.

    It names no file: where it warned of any, each is decoded again, alone.
    """
    with warnings.catch_warnings():
        # torchvision 0.29 is to lose its decoders; no other library that is here tells of warnings
        warnings.simplefilter("ignore", DeprecationWarning)
        if not printed_by(lambda: list(threads.map(decode_strictly, paths))):
            return {}
        told = {path: printed_by(partial(decode_strictly, path)) for path in paths}
    return {path: text for path, text in told.items() if text}


def decode_strictly(path: str) -> None:
    """Decode a JPEG with torchvision, whose libjpeg, other than Pillow's, prints its first warning
    to standard error.
    """
    from torchvision.io import decode_jpeg

    # raised of kinds that it does not know: whether a file is an image was for Pillow to say
    with suppress(RuntimeError):
        decode_jpeg(torch.from_numpy(np.fromfile(path, np.uint8)))


def printed_by(action: Callable[[], object]) -> str:
    """What C code prints to standard error, in all threads of this process, while action runs."""
    with tempfile.TemporaryFile() as caught:
        before = os.dup(2)
        os.dup2(caught.fileno(), 2)
        try:
            action()
        finally:
            os.dup2(before, 2)
            os.close(before)
        caught.seek(0)
        return " ".join(caught.read().decode(errors="replace").split())
