"""VGG-small, the binary network literature's plain CIFAR architecture, with five rotated
convolutions.
"""

from __future__ import annotations

import math
from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F

from rbnn.layers import RotatedConv2d, Semantics, channels_last


class VGGSmall(nn.Module):
    """conv 3->128 float, bconvs 128, 256, 256, 512, 512 wide, three poolings; x (N, 3, 32, 32) ->
    logits (N, num_classes).
    """

    def __init__(self, num_classes: int, *, a32: bool, semantics: Semantics) -> None:
        super().__init__()
        conv = partial(RotatedConv2d, a32=a32, semantics=semantics)
        self.conv0 = nn.Conv2d(3, 128, 3, padding=1, bias=False)
        self.bn0 = nn.BatchNorm2d(128)
        self.conv1 = conv(128, 128, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(128)
        self.conv2 = conv(128, 256, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(256)
        self.conv3 = conv(256, 256, 3, padding=1)
        self.bn3 = nn.BatchNorm2d(256)
        self.conv4 = conv(256, 512, 3, padding=1)
        self.bn4 = nn.BatchNorm2d(512)
        self.conv5 = conv(512, 512, 3, padding=1)
        self.bn5 = nn.BatchNorm2d(512)
        self.fc = nn.Linear(512 * 4 * 4, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels
                nn.init.normal_(module.weight, 0, math.sqrt(2 / fan_out))
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, 0, 0.01)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        out = F.hardtanh(self.bn0(self.conv0(channels_last(x))))
        out = F.hardtanh(self.bn1(F.max_pool2d(self.conv1(out), 2)))
        out = F.hardtanh(self.bn2(self.conv2(out)))
        out = F.hardtanh(self.bn3(F.max_pool2d(self.conv3(out), 2)))
        out = F.hardtanh(self.bn4(self.conv4(out)))
        out = F.hardtanh(self.bn5(F.max_pool2d(self.conv5(out), 2)))
        return self.fc(out.flatten(1))
