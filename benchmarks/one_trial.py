"""`python -m benchmarks.one_trial DEVICE NUM_IMAGES NUM_EPOCHS`: resnet20 on made images; prints
JSON, seconds of each epoch.

The first epoch, which compiles, is left out.
"""

from __future__ import annotations

import json
import sys

from rbnn.threading_env import set_threading


def main(device_type: str, num_images: int, num_epochs: int) -> None:
    """Train, as one trial of a sweep does, without checkpoints."""
    set_threading()
    import torch

    from benchmarks.rows_data import cifar_images
    from benchmarks.rows_gpu import compile_mode
    from rbnn.data.loading import DataInfo, Loaders
    from rbnn.data.resident import loaders
    from rbnn.distributed import World
    from rbnn.engine import fit
    from rbnn.recipe import Recipe

    device = torch.device(device_type)
    mode = compile_mode(device) if device.type == "cuda" else "off"
    recipe = Recipe(
        dataset="cifar10",
        epochs=num_epochs + 1,
        batch_size=min(256, num_images),
        compile=mode,
        threads=1,
    )
    made = loaders(
        recipe, cifar_images(num_images), cifar_images(max(num_images // 5, 1)), device, World()
    )
    seconds: list[float] = []
    fit(
        recipe,
        Loaders(*made, DataInfo("cifar10", "made")),
        lambda metrics, _: seconds.append(metrics["time/epoch_s"]),
        device=device,
    )
    print(json.dumps(seconds[1:]))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
