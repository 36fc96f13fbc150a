"""How OpenMP threads wait, set before torch is loaded.

Waiting threads that spin cost a core each: with three busy threads on two cores, a training step
took 1.8 to 2.2 s spinning and 0.4 s sleeping (2-core machine, resnet20, batch 64). Threads that
sleep at once are woken for every small operation: a step on two threads of a quiet machine took 144
to 154 ms, a rotation update 15 ms; with a moment of spinning first (GNU OpenMP's 1000 turns, some
10 microseconds) 106 to 115 ms and 8 ms, and a step beside a busy process 10 % more. Bits do not
depend on it.
"""

from __future__ import annotations

import os

THREADING = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "1000"}


def set_threading() -> None:
    """Put THREADING into this process's environment, unless the user has chosen one of them; call
    before importing torch.
    """
    if not THREADING.keys() & os.environ.keys():
        os.environ.update(THREADING)
