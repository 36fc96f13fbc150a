"""Every kind of file is the same image, or is refused by name, whoever reads it: both loaders and
the check.

The files are of every kind that Pillow can write, and of kinds that OpenCV writes or that are rare,
made by hand.
"""

from __future__ import annotations

import functools
import gzip
import io
import struct
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rbnn.data import open_loaders
from rbnn.data.check import check
from rbnn.data.loading import Loaders
from rbnn.errors import DataError
from rbnn.recipe import Recipe
from tests.rbnn.small import CPU, HAS_DALI, needs_dali

# Pillow's IM format is deprecated, and still one that a file may have
pytestmark = [
    pytest.mark.filterwarnings("ignore:IM image format"),
    pytest.mark.filterwarnings("ignore:Truncated File Read"),
]

LOADERS = {"torchvision": {"loader": "torchvision", "workers": 0}}
if HAS_DALI:
    LOADERS["dali"] = {"use_dali": True, "workers": 2}

MODES = (
    "1", "L", "P", "PA", "LA", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I", "F", "I;16",
)  # fmt: skip
ORIENTATION = 0x0112
HEIGHT, WIDTH = 37, 52
GREY_LEVEL = 0.018  # of 255, in the normalised input


def picture(mode: str = "RGB") -> Image.Image:
    """A smooth image with some noise."""
    rng = np.random.default_rng(3)
    coarse = Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC))
    noise = rng.normal(0, 5, smooth.shape)
    image = Image.fromarray(np.clip(smooth + noise, 0, 255).astype(np.uint8))
    if mode == "I;16":
        return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    return image.convert("P").convert("PA") if mode == "PA" else image.convert(mode)


def saved(image: Image.Image, file_format: str, **options: object) -> bytes:
    content = io.BytesIO()
    image.save(content, file_format, **options)
    return content.getvalue()


def written_by_pillow() -> Iterator[tuple[str, bytes]]:
    """Every format in every mode that it takes."""
    Image.init()
    for file_format in sorted(Image.SAVE):
        for mode in MODES:
            try:
                yield f"{file_format} {mode}", saved(picture(mode), file_format)
            except (OSError, KeyError, ValueError, SystemError):
                continue  # not of this mode, or no format to write without another program


def jpegs() -> Iterator[tuple[str, bytes]]:
    """What a decoder may do in another way."""
    for mode, sampling, progressive in product(
        ("RGB", "CMYK"), ("4:4:4", "4:2:2", "4:2:0"), (False, True)
    ):
        content = saved(picture(mode), "JPEG", subsampling=sampling, progressive=progressive)
        yield f"JPEG {mode} {sampling} progressive={progressive}", content
    yield "JPEG restarts", saved(picture(), "JPEG", restart_marker_blocks=2)
    yield "JPEG RGB kept", saved(picture(), "JPEG", keep_rgb=True)
    yield "JPEG bytes behind its end", saved(picture(), "JPEG") + bytes(500)
    for mode in ("RGB", "CMYK"):
        yield f"JPEG {mode} as Adobe's, without its marker", without_adobe(picture(mode))
    grey = bytearray(saved(picture("L"), "JPEG"))
    grey[grey.index(b"\xff\xc0") + 11] = 0x22  # sampling factors, which mean nothing alone
    yield "JPEG L sampled", bytes(grey)


def without_adobe(image: Image.Image) -> bytes:
    """What an encoder writes that leaves Adobe's APP14 out."""
    content = saved(image, "JPEG")
    start = content.find(b"\xff\xee")
    if start < 0:
        return content
    (length,) = struct.unpack(">H", content[start + 2 : start + 4])
    return content[:start] + content[start + 2 + length :]


def turned() -> Iterator[tuple[str, bytes]]:
    """With an orientation, which some decoders apply."""
    for file_format, orientation in product(("JPEG", "PNG", "WEBP", "TIFF", "AVIF"), (3, 6)):
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        content = saved(picture(), file_format, exif=exif)
        yield f"{file_format} orientation {orientation}", content


def by_hand() -> Iterator[tuple[str, bytes]]:
    """Text and odd numbers of bits; transparency; several frames; what OpenCV writes."""
    numbers = np.asarray(picture("L"))
    text = " ".join(map(str, numbers.ravel().tolist()))
    yield "PGM ascii", f"P2\n{WIDTH} {HEIGHT}\n255\n{text}\n".encode()
    hundredth = np.asarray(picture()) // 3
    yield "PPM to 100", b"P6 %d %d 100\n" % (WIDTH, HEIGHT) + hundredth.tobytes()
    for depth in (1000, 65535):
        wide = (numbers.astype(">u2") * (depth // 255)).tobytes()
        yield f"PGM to {depth}", b"P5 %d %d %d\n" % (WIDTH, HEIGHT, depth) + wide
    rows = np.zeros((HEIGHT, WIDTH), "<u2") + np.arange(WIDTH, dtype="<u2") * 1201
    sizes = (52, WIDTH, HEIGHT, 1, 16, 3, 0, 0, 0, 0, 0)
    info = struct.pack("<IiiHHIIiiIIIII", *sizes, 0xF800, 0x7E0, 31)
    data = rows.tobytes()
    yield "BMP 565", b"BM" + struct.pack("<IHHI", 66 + len(data), 0, 0, 66) + info + data
    raster = struct.pack(">8I", 0x59A66A95, WIDTH, HEIGHT, 24, 3 * WIDTH * HEIGHT, 1, 0, 0)
    yield "Sun raster", raster + picture().tobytes()
    yield "PNG transparent colour", saved(picture("P"), "PNG", transparency=3)
    yield "PNG transparent colours", saved(picture("P"), "PNG", transparency=bytes(range(200)))
    yield "PNG transparent grey", saved(picture("L"), "PNG", transparency=9)
    frames = [picture().rotate(90 * turn) for turn in range(3)]
    for file_format in ("GIF", "WEBP", "PNG", "TIFF", "MPO", "AVIF"):
        content = saved(frames[0], file_format, save_all=True, append_images=frames[1:])
        yield f"{file_format} of three frames", content
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits"):
        yield f"TIFF {compression}", saved(picture(), "TIFF", compression=compression)
    yield "WEBP lossless", saved(picture("RGBA"), "WEBP", lossless=True)


@functools.cache
def every_kind() -> dict[str, bytes]:
    """Name of the kind -> a file of it."""
    return dict(kind for kinds in (written_by_pillow, jpegs, turned, by_hand) for kind in kinds())


def folder_of(root: Path, files: dict[str, bytes]) -> Path:
    """Files in ImageNet's layout, all in both splits, under a name that says JPEG."""
    for split in ("train", "val"):
        folder = root / split / "n00000001"
        folder.mkdir(parents=True)
        for name, content in files.items():
            (folder / f"{name}.JPEG").write_bytes(content)
    return root


def opened(root: Path, loader: str) -> Loaders:
    options = {"batch_size": 32, "batch_size_test": 32, **LOADERS[loader]}
    return open_loaders(Recipe(dataset="imagenet", data_path=str(root), **options), CPU)


def is_refused(kind: str) -> bool:
    """Whether nobody takes a kind: more than 8 bits, no pixels, or unknown to Pillow."""
    file_format, _, mode = kind.partition(" ")
    if file_format in ("AVIF", "GIF", "ICNS", "WEBP"):  # write any mode in 8 bits
        return False
    return mode in ("I", "F", "I;16", "to 1000", "to 65535") or file_format in (
        "EPS", "PALM", "PDF", "SPIDER",
    )  # fmt: skip


def test_every_kind_that_is_taken_is_the_same_image_everywhere(tmp_path: Path) -> None:
    taken = {kind: content for kind, content in every_kind().items() if not is_refused(kind)}
    assert len(taken) > 150
    root = folder_of(tmp_path / "imagenet", taken)
    report = check("imagenet", str(root))
    assert report.damaged == ()
    honest = {kind for kind in taken if not any(f"{kind}.JPEG' is " in n for n in report.notes)}
    assert honest == {kind for kind in taken if kind.startswith(("JPEG ", "MPO "))}
    assert outcome(root) == ""


def test_every_kind_that_is_refused_is_named_everywhere(tmp_path: Path) -> None:
    refused = {kind: content for kind, content in every_kind().items() if is_refused(kind)}
    report = check("imagenet", str(folder_of(tmp_path / "all", refused)))
    assert len(report.damaged) == 2 * len(refused) > 60
    modes = ["Pillow's mode I)", "Pillow's mode I;16)", "mode F)"]
    whys = ["an EPS drawing", "a PDF document", *modes]
    assert all(any(why in line for line in report.damaged) for why in whys)
    for kind in ("EPS RGB", "PDF RGB", "PALM P", "PNG I;16", "TIFF F"):
        root = folder_of(tmp_path / kind / "imagenet", {kind: refused[kind]} | two_whole())
        assert f"{kind}.JPEG' cannot be " in outcome(root)


def two_whole() -> dict[str, bytes]:
    """What makes a batch together with another image."""
    return {f"whole {number}": every_kind()["JPEG RGB"] for number in range(2)}


def outcome(root: Path) -> str:
    """How the loaders refuse both splits of a data set; "" where they give the same images."""
    outcomes = []
    for images in (lambda loaders: loaders.train.epoch(0), lambda loaders: loaders.val):
        made, errors = [], []
        for loader in LOADERS:
            try:
                made.append(torch.cat([batch for batch, _ in images(opened(root, loader))]))
            except DataError as error:
                errors.append(str(error))
        assert not (made and errors), errors
        assert all((one - made[0]).abs().max() < GREY_LEVEL for one in made)
        outcomes.append("".join({error.replace("/train/", "/val/") for error in errors}))
    assert outcomes[0] == outcomes[1] and "\n" not in outcomes[0]
    return outcomes[0]


def shortened(num_bytes: int) -> Callable[[bytes], bytes]:
    return lambda content: content[:-num_bytes]


def halved(content: bytes) -> bytes:
    return content[: len(content) // 2]


def with_part(part: bytes, tenth: int) -> Callable[[bytes], bytes]:
    """Which overwrites what stands there."""

    def change(content: bytes) -> bytes:
        place = tenth * len(content) // 10
        return content[:place] + part + content[place + len(part) :]

    return change


def flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


JPEG = "JPEG RGB 4:2:0 progressive=False"
PASSED_OVER = {
    "JPEG cut short, its end put back": (
        JPEG,
        lambda content: content[: 3 * len(content) // 4] + b"\xff\xd9",
    ),
    "JPEG zeroed in the middle": ("JPEG RGB 4:4:4 progressive=False", with_part(bytes(100), 5)),
    "PNG without its end": ("PNG RGB", shortened(12)),
    "PNG cut by 20 bytes": ("PNG RGB", shortened(20)),
}
NOT_PASSED_OVER = {
    # Which a decoder of the upper rows alone does not meet.
    "JPEG with another part within": (JPEG, with_part(b"\xff\xc4", 9)),
    "PNG flipped": ("PNG RGB", flipped),
    "JPEG cut by 10 bytes": (JPEG, shortened(10)),
    "TIFF cut by 10 bytes": ("TIFF tiff_lzw", shortened(10)),
    "WEBP cut in half": ("WEBP RGB", halved),
    "AVIF cut in half": ("AVIF RGB", halved),
    "GIF cut in half": ("GIF RGB", halved),
    "gzip": ("PNG RGB", gzip.compress),
}


@pytest.mark.parametrize("damage", [*PASSED_OVER, *NOT_PASSED_OVER])
def test_the_check_names_damage_and_the_loaders_agree_on_it(damage: str, tmp_path: Path) -> None:
    kind, spoil = (PASSED_OVER | NOT_PASSED_OVER)[damage]
    spoilt = {"spoilt": spoil(every_kind()[kind])}
    root = folder_of(tmp_path / "imagenet", spoilt | two_whole())
    report = check("imagenet", str(root))
    assert len(report.damaged) == 2 and all("spoilt.JPEG" in line for line in report.damaged)
    taken = ["though decoders take" in line for line in report.damaged]
    assert taken == 2 * [damage in PASSED_OVER]
    assert outcome(root).startswith("image ") == (damage not in PASSED_OVER)


@needs_dali
def test_pillow_takes_what_dali_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rbnn.data.feeds.is_plain_jpeg", lambda image, content: True)
    for_pillow = {kind: every_kind()[kind] for kind in ("AVIF RGB", "GIF RGB", "TGA RGB")}
    assert outcome(folder_of(tmp_path / "imagenet", for_pillow)) == ""
