"""python one_kernel.py FILE: the polar factors of the problems in FILE, by the GPU's kernel as
Triton interprets it on a CPU (TRITON_INTERPRET=1), written back to FILE.
"""

from __future__ import annotations

import sys

import torch

from rbnn.polar import newton_schulz_in_one

if __name__ == "__main__":
    problems = torch.load(sys.argv[1])
    torch.save([newton_schulz_in_one(D, near) for D, near in problems], sys.argv[1])
