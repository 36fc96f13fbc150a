"""The binary residual networks for 224 x 224 images: resnet18 and resnet34, a residual around every
bconv (Bi-Real style).
"""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F

from rbnn.layers import RotatedConv2d, Semantics, channels_last
from rbnn.models.resnet_cifar import init_kaiming


class Block(nn.Module):
    """Twice: bconv, BN, add the residual, hardtanh; the result is the next residual."""

    def __init__(self, conv: partial, in_planes: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1 = conv(in_planes, planes, 3, stride=stride, padding=1)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = conv(planes, planes, 3, stride=1, padding=1)
        self.bn2 = nn.BatchNorm2d(planes)
        self.downsample: nn.Module | None = None
        if stride != 1 or in_planes != planes:
            projection = nn.Conv2d(in_planes, planes, 1, stride=stride, bias=False)
            self.downsample = nn.Sequential(projection, nn.BatchNorm2d(planes))

    def forward(self, x: Tensor) -> Tensor:
        residual = x if self.downsample is None else self.downsample(x)
        residual = F.hardtanh(self.bn1(self.conv1(x)) + residual)
        return F.hardtanh(self.bn2(self.conv2(residual)) + residual)


class ResNet(nn.Module):
    """Stages of `depths` blocks, 64 to 512 wide; x (N, 3, 224, 224) -> logits (N, num_classes)."""

    def __init__(
        self,
        depths: tuple[int, int, int, int],
        num_classes: int,
        *,
        a32: bool,
        semantics: Semantics,
    ) -> None:
        super().__init__()
        conv = partial(RotatedConv2d, a32=a32, semantics=semantics)
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)

        def stage(index: int) -> nn.Sequential:
            planes = 64 << index
            in_planes, stride = (64, 1) if index == 0 else (planes // 2, 2)
            blocks = [Block(conv, in_planes, planes, stride)]
            blocks += [Block(conv, planes, planes, 1) for _ in range(depths[index] - 1)]
            return nn.Sequential(*blocks)

        self.layer1, self.layer2, self.layer3, self.layer4 = (stage(index) for index in range(4))
        self.bn2 = nn.BatchNorm1d(512)
        self.fc = nn.Linear(512, num_classes)
        init_kaiming(self, (nn.Conv2d,))

    def forward(self, x: Tensor) -> Tensor:
        out = F.max_pool2d(
            F.hardtanh(self.bn1(self.conv1(channels_last(x)))), 3, stride=2, padding=1
        )
        out = self.layer4(self.layer3(self.layer2(self.layer1(out))))
        return self.fc(self.bn2(out.mean((2, 3))))
