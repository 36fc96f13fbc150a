"""scikit-learn's handwritten digits: 1,797 real 8 x 8 images, enlarged to 32 x 32 x 3; nothing to
download.

A fixed stratified split, 1,400 for training and 397 for validation. There is no test split beside
it.
"""

from __future__ import annotations

import functools

import numpy as np

from rbnn.data.loading import array_fingerprint, stratified_holdout
from rbnn.data.source import Source, Split

NUM_VALIDATION = 397
ENLARGEMENT = 4


@functools.cache
def read() -> Source:
    """The data set, images (N, 3, 32, 32) uint8 by pixel repetition, labels (N,) int64."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    labels = digits.target.astype(np.int64)
    gray = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    large = gray.repeat(ENLARGEMENT, axis=1).repeat(ENLARGEMENT, axis=2)
    images = np.ascontiguousarray(
        np.broadcast_to(large[:, None], (len(large), 3, *large.shape[1:]))
    )
    kept, held = stratified_holdout(labels, NUM_VALIDATION)
    train, val = Split(images[kept], labels[kept]), Split(images[held], labels[held])
    fingerprint = array_fingerprint(train.array, train.labels, val.array, val.labels)
    return Source(train, val, tuple("0123456789"), fingerprint)


def open_source(name: str, data_path: str) -> Source:
    """See `rbnn.data.open_source`; nothing is read from `data_path`."""
    return read()
