"""What a package is worth: predictions beside the trained network's, bytes, and latency; as
report.json and as a table.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from rbnn.data.loading import Batch
from rbnn.layers import rotated_layers
from rbnn.packed import onnx, openvino
from rbnn.packed.engines import BIN, FILES, XML, open_engine, run_torch
from rbnn.packed.extra import needed
from rbnn.packed.fold import float_twin, fold
from rbnn.packed.latency import Latency, measure
from rbnn.packed.layers import BinaryConv2d
from rbnn.packed.parity import CLOSE, Parity, compare
from rbnn.packed.weights import read_config
from rbnn.weights import weights_given

REPORT = "report.json"


@dataclass
class Report:
    """parity: by form, "trained" among them; bytes: by name; latency: a row for each form, batch
    and number of threads.
    """

    parity: dict[str, Parity] = field(default_factory=dict)
    bytes: dict[str, int] = field(default_factory=dict)
    latency: list[Latency] = field(default_factory=list)

    @property
    def agrees(self) -> bool:
        """Whether every form predicts what the reference does, but for float rounding."""
        return not any(self.parity[form].beyond for form in FILES if form in self.parity)

    def write(self, folder: Path) -> None:
        """report.json."""
        content: dict[str, Any] = asdict(self)
        for name, parity in self.parity.items():
            content["parity"][name] |= {"beyond": parity.beyond, "top1": parity.top1}
        (folder / REPORT).write_text(json.dumps(content, indent=2) + "\n")


def report(
    folder: Path,
    trained: nn.Module,
    packed: nn.Module,
    batches: Iterable[Batch],
    *,
    num_images: int,
    with_latency: bool = True,
) -> Report:
    """Compare, weigh and time the package that `make` left in `folder`, and write report.json.

    trained: the network that it was made of, the reference; of a package in float16, whose rounded
    layers are meant to differ, the reference is its own form in torch.
    """
    config, twin = read_config(folder), fold(float_twin(trained))
    runs = {"trained": run_torch(trained.eval())}
    runs |= {engine: open_engine(folder, engine) for engine in FILES}
    reference = "torch" if config.half else "trained"
    with weights_given([*rotated_layers(trained).values()]):
        parity = compare(runs, reference, packed, batches, num_images)
    found = Report(parity, sizes(folder, trained, twin))
    if with_latency:
        shape = config.image_size, config.num_classes
        found.latency = list(measure(packed, twin, *shape))
    found.write(folder)
    return found


def sizes(folder: Path, trained: nn.Module, twin: nn.Module) -> dict[str, int]:
    """Bytes of the package's files, of the checkpoint's weights, and of the float network's."""
    config = read_config(folder)
    with tempfile.TemporaryDirectory() as place:
        files = Path(place) / XML, Path(place) / BIN
        needed("openvino").serialize(openvino.network(twin, config.image_size), *files)
        in_openvino = sum(file.stat().st_size for file in files)
    in_onnx = onnx.network(twin, config.image_size, config.num_classes).ByteSize()
    packed = fold(trained)
    bits = [layer.bits for layer in packed.modules() if isinstance(layer, BinaryConv2d)]
    return {
        "checkpoint weights": _bytes(trained),
        **{name: (folder / name).stat().st_size for names in FILES.values() for name in names},
        "float torch": _bytes(twin),
        "float onnx": in_onnx,
        "float openvino": in_openvino,
        "binary weights": sum(tensor.nbytes for tensor in bits),
        "binary weights as float32": sum(32 * tensor.nbytes for tensor in bits),
    }


def _bytes(model: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in model.state_dict().values())


def lines_of(found: Report) -> Iterator[str]:
    """The report for people."""
    if found.parity["trained"].num_images:
        yield from _parity_lines(found.parity)
        yield ""
    yield from _size_lines(found.bytes)
    if found.latency:
        yield ""
        yield from _latency_lines(found.latency)


def _parity_lines(parity: dict[str, Parity]) -> Iterator[str]:
    trained = parity["trained"]
    yield f"predictions on {trained.num_images} validation images"
    yield f"{'':10} {'top-1':>9}  {'equal argmax':>12}  {'largest difference of a logit':>29}"
    for name, found in parity.items():
        equal = 100 * (1 - found.differing / max(found.num_images, 1))
        yield (
            f"{name:10} {found.top1:7.3f} %  {equal:10.3f} %  {found.max_difference:29.2g}"
            f"{_differing(found)}"
        )


def _differing(found: Parity) -> str:
    if not found.differing:
        return ""
    return (
        f"  {found.differing} differ: {found.close} of logits within {CLOSE:g}, {found.rounding} "
        f"within float rounding, {found.beyond} beyond it"
    )


def _size_lines(sizes: dict[str, int]) -> Iterator[str]:
    weights = sizes["checkpoint weights"]
    floats = {"torch": "float torch", "onnx": "float onnx", "openvino": "float openvino"}
    yield f"bytes (the checkpoint's weights: {weights:,})"
    for form, names in FILES.items():
        num_bytes, of_float = sum(sizes[name] for name in names), sizes[floats[form]]
        yield (
            f"{form:10} {num_bytes:12,}  {' + '.join(names):27}  1/{weights / num_bytes:.1f} of "
            f"the checkpoint's weights, 1/{of_float / num_bytes:.1f} of the float network's form"
        )


def _latency_lines(rows: list[Latency]) -> Iterator[str]:
    yield "latency, times faster than the float network of the same shape (median, min..max)"
    yield (
        f"{'':10} {'batch':>5} {'threads':>7} {'ms':>9} {'float ms':>9}  "
        f"{'in the same engine':>20}  {'than in torch':>20}"
    )
    for row in rows:
        yield (
            f"{row.form:10} {row.batch:5} {row.threads:7} {row.packed_ms:9.3f} "
            f"{row.float_ms:9.3f}  {_spread(row.against_float):>20}  "
            f"{_spread(row.against_torch):>20}"
        )


def _spread(ratios: tuple[float, ...]) -> str:
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f}..{max(ratios):.2f})"
