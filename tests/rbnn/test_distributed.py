"""World: alone it does nothing; over two processes it sums, and gives rank 0's bits."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch

from rbnn.distributed import World


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().numpy().tobytes()


def test_a_single_process_leads_and_changes_nothing() -> None:
    world = World.current()
    assert world == World(0, 1) and world.leads
    tensor = torch.tensor([1.0, 2.0])
    world.sum_(tensor)
    world.broadcast_([tensor])
    assert tensor.tolist() == [1.0, 2.0]


def test_two_processes_end_with_the_bits_of_rank_0(tmp_path: Path) -> None:
    command = [sys.executable, str(Path(__file__).with_name("world_rank.py"))]
    processes = [
        subprocess.Popen([*command, str(rank), str(tmp_path)], stderr=subprocess.PIPE)
        for rank in (0, 1)
    ]
    outputs = [process.communicate(timeout=120)[1].decode() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    assert first[:3] == (0, 2, True) and second[:3] == (1, 2, False)
    assert first[3].tolist() == second[3].tolist() == [3.0, 20.0]
    assert [bits(tensor) for tensor in first[4]] == [bits(tensor) for tensor in second[4]]
    expected = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(second[4][0], expected)
    assert second[4][2].tolist() == [0, 1, 2, 3]
