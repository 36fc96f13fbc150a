"""`one_kernel.py FILE`: polar factors of the problems in FILE, by the GPU's kernel, put there."""

from __future__ import annotations

import sys

import torch

from rbnn.polar import newton_schulz_in_one

if __name__ == "__main__":
    problems = torch.load(sys.argv[1])
    torch.save([newton_schulz_in_one(D, near) for D, near in problems], sys.argv[1])
