"""Compiles a training step of a few operations, as a run does it."""

import torch
from torch import nn

from rbnn.network import Network
from rbnn.recipe import Recipe

RECIPE = Recipe(dataset="digits", batch_size=4, compile="on")


def main() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    model(torch.randn(4, 3, 2, 2)).sum().backward()
    network = Network(model, RECIPE, torch.device("cpu"))
    network(torch.randn(4, 3, 2, 2)).relu().sum().backward()


if __name__ == "__main__":
    main()
