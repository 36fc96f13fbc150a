"""How a run calls its network: training through torch.compile where the recipe says so, under the
recipe's precision.

Compiled code gives what eager code gives within float32 rounding, and the same bits every time:
full training batches run compiled, so that which code computes what depends on the recipe alone,
not on when a run was resumed. The last, smaller batch of an epoch runs eagerly, as compiling for it
would cost more than it saves; so does evaluation, which gains nothing (0.40 of the unfused layer's
time eagerly, 0.47 compiled; resnet20, one core). On a GPU, `compile` on also means that what a run
of one process repeats is captured: see `rbnn.graphs`.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rbnn.code_cache import use_cache
from rbnn.errors import RecipeError
from rbnn.graphs import Captured
from rbnn.hardware import obstacle
from rbnn.layers import rotated_layers
from rbnn.metrics import counted
from rbnn.recipe import Recipe
from rbnn.weights import update_rotations, weights_given

# Inductor would keep intermediate activations that several sums read, and lays some of them out so
# that nothing vectorises; computing them again in each kernel took a block's backward from 19 to 5
# ms (2-core machine, one thread).
OPTIONS: dict[str, Any] = {"realize_reads_threshold": 16, "realize_opcount_threshold": 200}
GRAPHS = {"triton.cudagraphs": True}  # torch's own, of forward and backward
# Small kernels that do not wait for one another become one. Without deterministic, how a kernel
# splits its sums, and so their bits, is chosen by speed in the process that compiles it first.
CUDA_OPTIONS = OPTIONS | {"combo_kernels": True, "deterministic": True}


def losses(network: Callable[[Tensor], Tensor], *batch: Tensor) -> tuple[Tensor, Tensor]:
    """(mean cross-entropy, `metrics.counted`) of a batch of images and labels."""
    images, labels = batch
    logits = network(images)
    loss = F.cross_entropy(logits, labels)
    return loss, counted(logits.detach(), labels, loss.detach())


class Network(nn.Module):
    """`model` as a run calls it, sharing its parameters; images (N, 3, S, S) -> logits (N, C)
    float32.
    """

    def __init__(self, model: nn.Module, recipe: Recipe, device: torch.device) -> None:
        super().__init__()
        self.model = model
        self.full_batch = recipe.batch_size // recipe.train_workers
        self.device = device
        self.is_bf16 = recipe.precision == "bf16"
        self.layers = [*rotated_layers(model).values()]
        if device.type == "cuda":  # drawn in columns, each would be copied for itself
            for layer in self.layers:
                layer.R1, layer.R2 = layer.R1.contiguous(), layer.R2.contiguous()
                # Operation by operation, the further launches would cost more than they save.
                is_float32 = recipe.precision == "float32" and recipe.compile == "on"
                layer.by_pieces = is_float32 and not layer.a32
        is_alone = recipe.train_workers == 1
        self.captures = device.type == "cuda" and is_alone  # without a compiler too, but steps
        self.score: Callable[[Tensor, Tensor], Tensor] = self.counted
        self.rotate: Callable[[], None] = partial(update_rotations, self.layers)
        if self.captures:
            self.score, self.rotate = Captured(self.counted), Captured(self.rotate)
        self._compiled: Any = None
        if recipe.compile == "on":
            why = obstacle(device.type)
            if why:
                raise RecipeError(f"compile is 'on', but {why}; install it, or pass --compile off")
            use_cache()
            if (
                device.type == "cpu"
            ):  # Inductor looks for CUDA all the same, and warns where nvcc is there and no GPU
                logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
            else:  # it advises TF32 for float32 products: a recipe's precision says what it wants
                warnings.filterwarnings("ignore", "TensorFloat32 tensor cores")
            options = CUDA_OPTIONS if device.type == "cuda" else OPTIONS
            if device.type == "cuda" and not is_alone:
                options = options | GRAPHS
            whole = partial(torch.compile, fullgraph=True, dynamic=False, options=options)
            self._compiled = whole(self.plain)
            self._compiled_losses = whole(partial(losses, self.plain))

    def losses(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """`losses` of a full training batch, compiled whole."""
        return self._compiled_losses(images, labels)

    def plain(self, images: Tensor) -> Tensor:
        """The model's logits, operation by operation."""
        if self.device.type == "cuda" and self.layers[0].given_weight is None:
            with weights_given(self.layers):
                return self._logits(images)
        return self._logits(images)

    def _logits(self, images: Tensor) -> Tensor:
        if not self.is_bf16:
            return self.model(images)
        with torch.autocast(self.device.type, torch.bfloat16):
            return self.model(images).float()

    def forward(self, images: Tensor) -> Tensor:
        if self._compiled is not None and self.training and len(images) == self.full_batch:
            return self._compiled(images)
        return self.plain(images)

    def counted(self, images: Tensor, labels: Tensor) -> Tensor:
        """`metrics.counted` of a batch's logits; `score` is the same, captured where work is."""
        return counted(self(images), labels)
