"""The binary residual networks for 32 x 32 images: resnet20 (and its Bi-Real form) and resnet18.

Every convolution but the first is rotated; `conv` below builds one, so that a32 and semantics are
stated once.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rbnn.layers import RotatedConv2d, Semantics, channels_last


class PadShortcut(nn.Module):
    """Option A of He et al. 2016: every second pixel, channels padded with zeros on both sides
    equally; no parameters.
    """

    def __init__(self, in_planes: int, planes: int) -> None:
        super().__init__()
        self.pad = (planes - in_planes) // 2

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.pad, self.pad))


class Block(nn.Module):
    """bconv, BN, hardtanh, bconv, BN, add the shortcut, hardtanh; with `bireal` a shortcut around
    each bconv.
    """

    def __init__(
        self,
        conv: type | partial,
        in_planes: int,
        planes: int,
        stride: int,
        shortcut: nn.Module,
        *,
        bireal: bool = False,
    ):
        super().__init__()
        self.bireal = bireal
        self.conv1 = conv(in_planes, planes, 3, stride=stride, padding=1)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = conv(planes, planes, 3, stride=1, padding=1)
        self.bn2 = nn.BatchNorm2d(planes)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        if self.bireal:
            x = F.hardtanh(self.bn1(self.conv1(x)) + self.shortcut(x))
            return F.hardtanh(self.bn2(self.conv2(x)) + x)
        out = F.hardtanh(self.bn1(self.conv1(x)))
        return F.hardtanh(self.bn2(self.conv2(out)) + self.shortcut(x))


class ResNet20(nn.Module):
    """Three stages of three blocks, 16, 32, 64 wide; x (N, 3, 32, 32) -> logits (N,
    num_classes).
    """

    def __init__(
        self, num_classes: int, *, a32: bool, semantics: Semantics, bireal: bool = False
    ) -> None:
        super().__init__()
        conv = partial(RotatedConv2d, a32=a32, semantics=semantics)
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)

        def stage(in_planes: int, planes: int, stride: int) -> nn.Sequential:
            first = nn.Identity() if in_planes == planes else PadShortcut(in_planes, planes)
            blocks = [Block(conv, in_planes, planes, stride, first, bireal=bireal)]
            blocks += [
                Block(conv, planes, planes, 1, nn.Identity(), bireal=bireal) for _ in range(2)
            ]
            return nn.Sequential(*blocks)

        self.layer1 = stage(16, 16, 1)
        self.layer2 = stage(16, 32, 2)
        self.layer3 = stage(32, 64, 2)
        self.bn2 = nn.BatchNorm1d(64)
        self.linear = nn.Linear(64, num_classes)
        init_kaiming(self)

    def forward(self, x: Tensor) -> Tensor:
        out = F.hardtanh(self.bn1(self.conv1(channels_last(x))))
        out = self.layer3(self.layer2(self.layer1(out)))
        return self.linear(self.bn2(out.mean((2, 3))))


class ResNet18(nn.Module):
    """Four stages of two blocks, 64 to 512 wide; x (N, 3, 32, 32) -> logits (N, num_classes).
    PyTorch's own initialisation.
    """

    def __init__(self, num_classes: int, *, a32: bool, semantics: Semantics) -> None:
        super().__init__()
        conv = partial(RotatedConv2d, a32=a32, semantics=semantics)
        self.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)

        def stage(in_planes: int, planes: int, stride: int) -> nn.Sequential:
            first: nn.Module = nn.Sequential()
            if stride != 1 or in_planes != planes:
                first = nn.Sequential(
                    conv(in_planes, planes, 1, stride=stride), nn.BatchNorm2d(planes)
                )
            blocks = [
                Block(conv, in_planes, planes, stride, first),
                Block(conv, planes, planes, 1, nn.Sequential()),
            ]
            return nn.Sequential(*blocks)

        self.layer1 = stage(64, 64, 1)
        self.layer2 = stage(64, 128, 2)
        self.layer3 = stage(128, 256, 2)
        self.layer4 = stage(256, 512, 2)
        self.linear = nn.Linear(512, num_classes)
        self.bn2 = nn.BatchNorm1d(512)

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn1(self.conv1(channels_last(x)))
        out = self.layer4(self.layer3(self.layer2(self.layer1(out))))
        return self.linear(self.bn2(F.avg_pool2d(out, 4).flatten(1)))


def init_kaiming(
    model: nn.Module, modules: Sequence[type[nn.Module]] = (nn.Conv2d, nn.Linear)
) -> None:
    """Kaiming normal weights for `modules`; BN2d weight 1e-8 and bias 0, so that every residual
    branch starts near zero.

    1e-8 underflows to 0 in float16, whose losses are then NaN; bfloat16 and float32 hold it.
    """
    for module in model.modules():
        if isinstance(module, tuple(modules)):
            nn.init.kaiming_normal_(torch.as_tensor(module.weight))
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.constant_(module.weight, 1e-8)
            nn.init.zeros_(module.bias)
