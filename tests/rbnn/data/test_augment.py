"""Draws are uniform and independent; windows are those of torchvision's definition."""

from __future__ import annotations

import numpy as np
import pytest

from rbnn.data.augment import AREA, ASPECT, FILE_DRAWS, crop_windows, eval_geometry, uniforms

NUM = FILE_DRAWS["resized_crop_flip"]


def test_draws_are_uniform_and_uncorrelated() -> None:
    draws = uniforms(1234, 0, np.arange(20_000), 4)
    assert draws.min() >= 0 and draws.max() < 1
    counts = np.apply_along_axis(lambda column: np.histogram(column, 20, (0, 1))[0], 0, draws)
    assert abs(counts - 1000).max() < 5 * np.sqrt(1000)
    following = np.corrcoef(np.concatenate([draws[:-1], draws[1:]], axis=1).T)
    assert abs(following - np.eye(8)).max() < 0.04


@pytest.mark.parametrize(
    ("height", "width"), [(1, 1), (2, 900), (900, 2), (224, 224), (333, 500), (1200, 1600)]
)
def test_windows_lie_inside_the_image(height: int, width: int) -> None:
    sizes = np.tile([height, width], (500, 1))
    top, left, h, w = crop_windows(sizes, uniforms(3, 1, np.arange(500), NUM)).T
    assert (h >= 1).all() and (w >= 1).all() and (top >= 0).all() and (left >= 0).all()
    assert (top + h <= height).all() and (left + w <= width).all()
    assert (h * w <= height * width).all()


def test_windows_have_the_areas_and_aspects_asked_for() -> None:
    sizes = np.tile([400, 400], (4000, 1))
    top, _, h, w = crop_windows(sizes, uniforms(3, 1, np.arange(4000), NUM)).T
    assert (w / h).min() > ASPECT[0] - 0.02 and (w / h).max() < ASPECT[1] + 0.02
    share = h * w / 160_000
    assert AREA[0] - 0.01 < share.min() < 0.1 and 0.95 < share.max() <= 1
    free = 400 - h > 100
    assert abs((top[free] / (400 - h[free])).mean() - 0.5) < 0.02


def test_a_window_that_never_fits_is_the_largest_centred_one() -> None:
    draws = np.full((2, NUM), 0.999999)
    (top, left, h, w), other = crop_windows(np.array([[100, 400], [400, 100]]), draws).tolist()
    assert (h, w) == (100, 133) and top == 0 and left == (400 - 133) // 2
    assert other[2:] == [133, 100]


def test_evaluation_geometry_is_torchvisions() -> None:
    sizes = np.array([[375, 500], [500, 375], [256, 256], [231, 376]])
    resized, corner = eval_geometry(sizes, 224, 256)
    assert resized.tolist() == [[256, 341], [341, 256], [256, 256], [256, 416]]
    assert corner.tolist() == [[16, 58], [58, 16], [16, 16], [16, 96]]
    assert eval_geometry(sizes, 224, None)[0].tolist() == [[224, 224]] * 4
