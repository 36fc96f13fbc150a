"""The ONNX form: operations of the standard alone, binary weights as bits that a table unpacks when
the file is opened.

onnxruntime has no 1-bit convolution; its 8-bit arithmetic is exact for signs and, on one thread of
an AVX-512 machine, 1.1 to 3.6 times as fast as its float32 convolution: QLinearConv where 8 bits
hold every sum, else MatMulInteger over the taps side by side. (ConvInteger takes 5 times as long.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rbnn.packed.extra import needed
from rbnn.packed.graph import walk
from rbnn.packed.layers import FLOAT_EPS, Affine, BinaryConv2d

OPSET, IR_VERSION = 18, 9


class Builder:
    """The steps of a network as nodes of an ONNX graph; every emitter returns its result's name."""

    def __init__(self) -> None:
        self.onnx = needed("onnx")
        self.nodes: list[Any] = []
        self.constants: dict[str, Any] = {}

    def node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Append a node of one result."""
        name = f"{kind}_{len(self.nodes)}"
        self.nodes.append(self.onnx.helper.make_node(kind, inputs, [name], name, **attributes))
        return name

    def constant(self, values: Any, dtype: type = np.float32, name: str = "") -> str:
        """The name of an initializer, a new one unless `name` is there already."""
        name = name or f"constant_{len(self.constants)}"
        if name not in self.constants:
            array: NDArray[np.generic] = np.ascontiguousarray(values, dtype)
            self.constants[name] = self.onnx.numpy_helper.from_array(array, name)
        return name

    def per_channel(self, values: Tensor) -> str:
        return self.constant(values.view(1, -1, 1, 1).numpy())

    def axes(self, *axes: int) -> str:
        return self.constant(axes, np.int64, "axes" + "_".join(map(str, axes)))

    def signs(self, layer: BinaryConv2d, dtype: type) -> str:
        """The weights (O, I, kh, kw): each byte names a row of a table of eight signs."""
        rows = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
        table = self.constant(rows * 2.0 - 1.0, dtype, f"signs_of_byte_{dtype.__name__}")
        bits = self.constant(layer.bits.numpy(), np.uint8)
        places = self.node("Cast", bits, to=self.onnx.TensorProto.INT32)
        flat = self.node("Reshape", self.node("Gather", table, places), self.axes(-1))
        if layer.num_weights % 8:
            flat = self.node("Slice", flat, self.axes(0), self.axes(layer.num_weights))
        return self.node("Reshape", flat, self.axes(*layer.shape))

    def binary_conv(self, x: str, layer: BinaryConv2d) -> str:
        mean = self.node("ReduceMean", x, self.axes(1, 2, 3), keepdims=1)
        if layer.a32:
            inputs = [self._standardized(x, mean), self.signs(layer, np.float32)]
            return self._conv("Conv", inputs, layer.shape[2:], layer.stride, layer.padding)
        largest = self.node("ReduceMax", x, self.axes(1, 2, 3), keepdims=1)
        is_positive = self.node("GreaterOrEqual", x, self.node("Min", mean, largest))
        # -1, 0 (padding) and +1 as 0, 1 and 2: the kernels take activations without a sign
        zero = self.constant(1, np.uint8, "zero_of_signs")
        bx = self.node(
            "Where",
            is_positive,
            self.constant(2, np.uint8, "plus_sign"),
            self.constant(0, np.uint8, "minus_sign"),
        )
        num_out, num_in, *size = layer.shape
        num_terms = math.prod([num_in, *size])
        # with an even number of channels every sum is even, also at the border
        step = 2 if num_in % 2 == 0 else 1
        if num_terms <= 127 * step:
            one, none = self.constant(1.0, name="plus"), self.constant(0, np.int8, "int8_zero")
            scale, middle = self.constant(step), self.constant(128, np.uint8, "middle")
            inputs = [bx, one, zero, self.signs(layer, np.int8), one, none, scale, middle]
            sums = self._conv("QLinearConv", inputs, size, layer.stride, layer.padding)
            return self.node("DequantizeLinear", sums, scale, middle)
        taps = self._taps(bx, layer)
        turned = self.node("Transpose", self.signs(layer, np.int8), perm=[2, 3, 1, 0])
        w = self.node("Reshape", turned, self.axes(num_terms, num_out))
        sums = self.node("MatMulInteger", taps, w, zero)
        wide = self.node("Cast", sums, to=self.onnx.TensorProto.FLOAT)
        return self.node("Transpose", wide, perm=[0, 3, 1, 2])

    def _taps(self, bx: str, layer: BinaryConv2d) -> str:
        """What each output of a convolution sums over, side by side: (N, H', W', kh * kw * I)."""
        height, width = layer.shape[2:]
        last = self.node("Transpose", bx, perm=[0, 2, 3, 1])
        padded = last
        if any(layer.padding):
            sides = self.axes(0, *layer.padding, 0, 0, *layer.padding, 0)
            padded = self.node("Pad", last, sides, self.constant(1, np.uint8, "zero_of_signs"))
        for axis, size, stride in ((2, width, layer.stride[1]), (1, height, layer.stride[0])):
            padded = self._shifted(padded, axis, size, stride)
        return padded

    def _shifted(self, x: str, axis: int, size: int, stride: int) -> str:
        """x (N, H, W, C) from each tap of a window along an axis on, side by side in C."""
        parts = []
        for first in range(size):
            # the window's other taps end as far from the border as this one begins
            end = first - size + 1 or 2**31 - 1
            bounds = self.axes(first), self.axes(end), self.axes(axis), self.axes(stride)
            parts.append(self.node("Slice", x, *bounds))
        return self.node("Concat", *parts, axis=3) if size > 1 else parts[0]

    def _standardized(self, x: str, mean: str) -> str:
        """(x - mean) / std, 0 for a constant sample."""
        centred = self.node("Sub", x, mean)
        # Not ReduceSumSquare, whose plain float32 sum is wrong in the fifth digit.
        squares = self.node("Mul", centred, centred)
        variance = self.node("ReduceMean", squares, self.axes(1, 2, 3), keepdims=1)
        sizes = self.node("Size", x), self.node("Shape", x, start=0, end=1)
        num = self.node("Cast", self.node("Div", *sizes), to=self.onnx.TensorProto.FLOAT)
        fewer = self.node("Sub", num, self.constant(1.0, name="plus"))
        std = self.node("Sqrt", self.node("Mul", variance, self.node("Div", num, fewer)))
        # training's 4 eps and what onnxruntime's mean of equal values is off by
        least = self.node("Mul", self.node("Abs", mean), self.constant(64 * FLOAT_EPS))
        inverse = self.node("Reciprocal", std)
        is_constant = self.node("LessOrEqual", std, least)
        return self.node(
            "Mul", centred, self.node("Where", is_constant, self.constant(0.0), inverse)
        )

    def _conv(
        self,
        kind: str,
        inputs: Sequence[str],
        size: Sequence[int],
        stride: Sequence[int],
        padding: Sequence[int],
    ) -> str:
        return self.node(
            kind, *inputs, kernel_shape=list(size), strides=list(stride), pads=[*padding] * 2
        )

    def affine(self, x: str, layer: Affine) -> str:
        none, one = torch.zeros_like(layer.shift), torch.ones_like(layer.scale)
        values = (layer.folded(), layer.shift, none, one)
        parts = [self.constant(part.numpy()) for part in values]
        return self.node("BatchNormalization", x, *parts, epsilon=0.0)  # one pass, not two

    def conv(self, x: str, layer: nn.Conv2d) -> str:
        inputs = [x, self.constant(layer.weight.numpy())]
        inputs += [] if layer.bias is None else [self.constant(layer.bias.numpy())]
        padding = [int(p) for p in layer.padding]
        return self._conv("Conv", inputs, layer.kernel_size, layer.stride, padding)

    def linear(self, x: str, layer: nn.Linear) -> str:
        weight, bias = self.constant(layer.weight.numpy()), self.constant(layer.bias.numpy())
        return self.node("Gemm", x, weight, bias, transB=1)

    def hardtanh(self, x: str) -> str:
        return self.node(
            "Clip", x, self.constant(-1.0, name="minus"), self.constant(1.0, name="plus")
        )

    def add(self, x: str, y: str) -> str:
        return self.node("Add", x, y)

    def max_pool(self, x: str, size: int, stride: int | None = None, padding: int = 0) -> str:
        window = {"kernel_shape": [size] * 2, "strides": [stride or size] * 2}
        return self.node("MaxPool", x, pads=[padding] * 4, **window)

    def avg_pool(self, x: str, size: int) -> str:
        return self.node("AveragePool", x, kernel_shape=[size] * 2, strides=[size] * 2)

    def mean(self, x: str, axes: Sequence[int]) -> str:
        return self.node("ReduceMean", x, self.axes(*axes), keepdims=0)

    def flatten(self, x: str, start: int) -> str:
        return self.node("Flatten", x, axis=start)

    def every_second(self, x: str, _index: object) -> str:
        bounds = self.axes(0, 0), self.axes(2**31 - 1, 2**31 - 1)
        return self.node("Slice", x, *bounds, self.axes(2, 3), self.axes(2, 2))

    def pad_channels(self, x: str, sides: Sequence[int]) -> str:
        return self.node("Pad", x, self.axes(0, sides[4], 0, 0, 0, sides[5], 0, 0))


@torch.no_grad()
def network(model: nn.Module, image_size: int, num_classes: int) -> Any:
    """The packed (or folded float) `model` as an ONNX model: images (N, 3, S, S) -> logits
    (N, num_classes), float32.
    """
    build = Builder()
    helper, kind = build.onnx.helper, build.onnx.TensorProto.FLOAT
    emitters = {name: getattr(build, name) for name in dir(build) if not name.startswith("_")}
    build.node("Identity", walk(model, "images", emitters))
    build.nodes[-1].output[0] = "logits"
    graph = helper.make_graph(
        build.nodes,
        "rbnn",
        [helper.make_tensor_value_info("images", kind, ["N", 3, image_size, image_size])],
        [helper.make_tensor_value_info("logits", kind, ["N", num_classes])],
        list(build.constants.values()),
    )
    opset = helper.make_opsetid("", OPSET)
    return helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION)
