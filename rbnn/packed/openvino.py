"""The OpenVINO form: binary convolutions become its 1-bit operation.

A convolution whose input OpenVINO quantises to two levels and whose weights are bits compiles to
`BinaryConvolution`. Two traps: FakeQuantize with in_low = in_high gives silently wrong signs, and
with -1..1 a difference of 1e-8 counts as negative; -2^-100..0 gives the sign of training, +1 at 0
among it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rbnn.packed.extra import needed
from rbnn.packed.graph import walk
from rbnn.packed.layers import Affine, BinaryConv2d

LOW = -(2.0**-100)  # half of it is the threshold; what lies between it and 0 no float32 sum reaches
SMALLEST = 2.0**-16  # 128 float32 roundings; OpenVINO's sums are off by up to sixteen
MIN_CHANNELS = 32  # below, one bit takes longer than float32


class Builder:
    """The steps of a network as OpenVINO's operations."""

    def __init__(self, min_channels: int = MIN_CHANNELS) -> None:
        self.ov = needed("openvino")
        self.op = needed("openvino.opset13")
        self.min_channels = min_channels

    def floats(self, values: Any) -> Any:
        """A float32 constant."""
        return self.op.constant(np.asarray(values, np.float32))

    def per_channel(self, values: Tensor, rank: int = 4) -> Any:
        return self.floats(values.view(1, -1, *[1] * (rank - 2)).numpy())

    def axes(self, *axes: int) -> Any:
        return self.op.constant(np.array(axes, np.int64))

    def binary_conv(self, x: Any, layer: BinaryConv2d) -> Any:
        op = self.op
        mean = op.reduce_mean(x, self.axes(1, 2, 3), True)
        window = (layer.stride, layer.padding, layer.padding, [1, 1])
        if layer.a32:
            return op.convolution(self._standardized(x, mean), self.signs(layer), *window)
        threshold = op.minimum(mean, op.reduce_max(x, self.axes(1, 2, 3), True))
        if layer.shape[1] < self.min_channels:
            is_positive = op.greater_equal(x, threshold)
            sign = op.select(is_positive, self.floats(1), self.floats(-1))
            return op.convolution(sign, self.signs(layer), *window)
        levels = [self.floats(value) for value in (LOW, 0, -1, 1)]
        one_bit = op.fake_quantize(op.subtract(x, threshold), *levels, 2)
        bits = self.ov.Tensor(layer.bits.numpy(), self.ov.Shape(layer.shape), self.ov.Type.u1)
        filters = op.constant(bits, shared_memory=False)
        return self.ov.opset1.binary_convolution(one_bit, filters, *window, "xnor-popcount", 0.0)

    def signs(self, layer: BinaryConv2d) -> Any:
        """The weights (O, I, kh, kw) as float32, kept in the file as bytes."""
        return self.op.convert(self.op.constant(layer.weight().numpy().astype(np.int8)), "f32")

    def _standardized(self, x: Any, mean: Any) -> Any:
        """(x - mean) / std, 0 for a constant sample; the variance from the mean of squares, which
        costs a pass less over x, and below SMALLEST of it is taken for rounding.
        """
        op = self.op
        sizes = op.gather(op.shape_of(x), self.axes(1, 2, 3), self.axes(0))
        num = op.convert(op.reduce_prod(sizes, self.axes(0)), "f32")
        norm = op.reduce_l2(x, self.axes(1, 2, 3), True)
        square = op.divide(op.multiply(norm, norm), num)
        variance = op.subtract(square, op.multiply(mean, mean))
        is_constant = op.less_equal(variance, op.multiply(square, self.floats(SMALLEST)))
        unbiased = op.divide(op.subtract(num, self.floats(1)), num)
        inverse = op.sqrt(op.divide(unbiased, variance))
        return op.multiply(op.subtract(x, mean), op.select(is_constant, self.floats(0), inverse))

    def affine(self, x: Any, layer: Affine) -> Any:
        rank = self.op.shape_of(x).get_output_partial_shape(0)[0].get_length()
        scaled = self.op.multiply(x, self.per_channel(layer.folded(), rank))
        return self.op.add(scaled, self.per_channel(layer.shift, rank))

    def conv(self, x: Any, layer: nn.Conv2d) -> Any:
        padding = [int(p) for p in layer.padding]
        window = (list(layer.stride), padding, padding, [1, 1])
        y = self.op.convolution(x, self.floats(layer.weight.numpy()), *window)
        return y if layer.bias is None else self.op.add(y, self.per_channel(layer.bias))

    def linear(self, x: Any, layer: nn.Linear) -> Any:
        y = self.op.matmul(x, self.floats(layer.weight.numpy()), False, True)
        return self.op.add(y, self.floats(layer.bias.numpy()))

    def hardtanh(self, x: Any) -> Any:
        return self.op.clamp(x, -1.0, 1.0)

    def add(self, x: Any, y: Any) -> Any:
        return self.op.add(x, y)

    def max_pool(self, x: Any, size: int, stride: int | None = None, padding: int = 0) -> Any:
        pads = [padding, padding]
        return self.op.max_pool(x, [stride or size] * 2, [1, 1], pads, pads, [size] * 2).output(0)

    def avg_pool(self, x: Any, size: int) -> Any:
        return self.op.avg_pool(x, [size] * 2, [0, 0], [0, 0], [size] * 2, True)

    def mean(self, x: Any, axes: tuple[int, ...]) -> Any:
        return self.op.reduce_mean(x, self.axes(*axes), False)

    def flatten(self, x: Any, start: int) -> Any:
        assert start == 1
        return self.op.reshape(x, self.axes(0, -1), True)

    def every_second(self, x: Any, _index: object) -> Any:
        every, first = self.axes(1, 1, 2, 2), self.axes(0, 0, 0, 0)
        end = self.op.constant(np.full(4, np.iinfo(np.int64).max))
        return self.op.strided_slice(x, first, end, every, [0] * 4, [0] * 4)

    def pad_channels(self, x: Any, sides: tuple[int, ...]) -> Any:
        before, after = self.axes(0, sides[4], 0, 0), self.axes(0, sides[5], 0, 0)
        return self.op.pad(x, before, after, "constant", self.floats(0))


@torch.no_grad()
def network(model: nn.Module, image_size: int, min_channels: int = MIN_CHANNELS) -> Any:
    """The packed (or folded float) `model` as an OpenVINO model for batches of any size."""
    build = Builder(min_channels)
    images = build.op.parameter([-1, 3, image_size, image_size], np.float32, name="images")
    emitters = {name: getattr(build, name) for name in dir(build) if not name.startswith("_")}
    return build.ov.Model([walk(model, images, emitters)], [images], "rbnn")
