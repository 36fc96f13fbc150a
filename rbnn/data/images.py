"""What an image is, for every loader and for the check: the first frame that Pillow finds in a
file, whatever the file's name says, as Pillow converts it to RGB of 8 bits.

It stays as stored: transparency is left out, and colour profiles and the orientation in EXIF are
passed over, as by torchvision's own loader. (TIFF and AVIF come turned: there Pillow's decoders do
it.) Refused, by path: what Pillow cannot decode whole; numbers of more than 8 bits in one channel,
which Pillow would cut off at 255; EPS, which Pillow has another program run.
"""

from __future__ import annotations

import io
import struct
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from rbnn.data.folders import LAYOUTS
from rbnn.errors import DataError
from rbnn.signatures import kind_of


class NotTaken(ValueError):
    """A whole image of a kind that is refused; the message says which."""


UNREADABLE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    TypeError,
    LookupError,
    ArithmeticError,
    RuntimeError,
    struct.error,
    Image.DecompressionBombError,
)  # of damaged files, by Pillow; of refused ones, by `rgb`


def rgb(image: Image.Image) -> Image.Image:
    """The pixels of an image that Pillow has opened; raises one of UNREADABLE."""
    if image.format == "EPS":
        raise NotTaken("it is an EPS drawing, which holds no pixels")
    if image.mode.startswith(("I", "F")):
        raise NotTaken(
            f"its pixels are 16- or 32-bit numbers (Pillow's mode {image.mode}), which have no one "
            "meaning in 8 bits; convert it to 8 bits"
        )
    image.load()
    image.info.pop("transparency", None)  # Pillow warns of one that it is going to leave out
    return image.convert("RGB")


def decode(name: str, path: str, content: bytes | None = None) -> Image.Image:
    """The image in a file of the data set `name`, `content` being what was read from it already;
    DataError naming the file where there is none.
    """
    try:
        with Image.open(path if content is None else io.BytesIO(content)) as image:
            return rgb(image)
    except UNREADABLE as error:
        raise refusal(name, path, error) from None


def refusal(name: str, path: str, error: BaseException) -> DataError:
    """The error that names an image that cannot be used, and what to run to find all of them."""
    layout = LAYOUTS[name]
    splits = {split for pair in layout.splits for split in pair}
    root = next(folder for folder in Path(path).parents if folder.name in splits).parent
    return DataError(
        f"image '{path}' cannot be {_reason(path, error)}; see: rbnn data check {name} "
        f"--data_path '{root}'"
    )


def _reason(path: str, error: BaseException) -> str:
    if isinstance(error, OSError) and error.errno is not None:
        return f"read: {error.strerror}"
    if isinstance(error, (NotTaken, Image.DecompressionBombError)):
        return f"used: {error}"
    if isinstance(error, UnidentifiedImageError):
        return f"decoded: it is {kind_of(path) or 'truncated or damaged, or no image'}"
    return "decoded: it is truncated or damaged"
