"""What changes by epoch: the learning rate with its warm-up, and the surrogate's t and k.

e: the epoch, counted from 0. E: recipe.epochs. All are plain floats; nothing here knows a tensor.
"""

from __future__ import annotations

import math

from rbnn.recipe import Recipe

WARM_UP_EPOCHS = 5
STEP_FACTOR = 0.1


def learning_rate(recipe: Recipe, epoch: int) -> float:
    """The learning rate of an epoch.

    cos: lr / 2 * (1 + cos(pi e / E)); with warm-up lr * (e + 1) / 5 in epochs 0 to 4, and from
    epoch 4 the cosine over the remaining E - 4. (The authors' loop lags this by four epochs, at
    most 0.64 % of lr at E = 1000.) step: lr * 0.1 ** (milestones passed), a milestone counting from
    its own epoch on; warm-up as above.
    """
    if recipe.warm_up and epoch < WARM_UP_EPOCHS:
        return recipe.lr * (epoch + 1) / WARM_UP_EPOCHS
    if recipe.lr_type == "step":
        return recipe.lr * STEP_FACTOR ** sum(
            epoch >= milestone for milestone in recipe.lr_decay_step
        )
    start = WARM_UP_EPOCHS - 1 if recipe.warm_up else 0
    return recipe.lr / 2 * (1 + math.cos(math.pi * (epoch - start) / (recipe.epochs - start)))


def surrogate_tk(recipe: Recipe, epoch: int) -> tuple[float, float]:
    """(t, k) of an epoch: t = 10 ** (log10 Tmin + (log10 Tmax - log10 Tmin) * e / E), k = max(1 /
    t, 1) (paper eq. 12).

    e / E, so that t never quite reaches Tmax.
    """
    low, high = math.log10(recipe.Tmin), math.log10(recipe.Tmax)
    t = 10 ** (low + (high - low) * epoch / recipe.epochs)
    return t, max(1 / t, 1.0)
