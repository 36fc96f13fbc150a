"""Checkpoints: every bit comes back, a kill leaves the old file, no damaged or foreign passes."""

from __future__ import annotations

import dataclasses
import gzip
import os
import pickle
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from rbnn import checkpoint
from rbnn.checkpoint import Checkpoint, load, rng_state, save, set_rng_state, state_digest
from rbnn.errors import CheckpointError
from rbnn.models import build
from rbnn.recipe import Recipe

CPU = torch.device("cpu")
DAMAGED = "truncated, damaged or no checkpoint; use another"


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(1234)
    return build("resnet20_1w1a", "digits")


@pytest.fixture
def state(network: nn.Module) -> Checkpoint:
    """A checkpoint with something in every field, and momentum in the optimiser."""
    optimizer = torch.optim.SGD(network.parameters(), 0.1, 0.9)
    for parameter in network.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    return Checkpoint(
        state_dict={name: tensor.clone() for name, tensor in network.state_dict().items()},
        recipe=Recipe(dataset="digits", lr_type="step", lr_decay_step=(1, 2)).to_dict(),
        epoch=3,
        optimizer=optimizer.state_dict(),
        rng=rng_state(CPU),
        best={"top1": 12.5, "epoch": 1},
        metrics={"val/top1": 0.1 + 0.2, "digest": "ab"},
        data="sha256:" + "0" * 64,
    )


@pytest.fixture
def file(state: Checkpoint, tmp_path: Path) -> Path:
    """Its file, in a folder that was not there."""
    save(tmp_path / "new" / "folder" / "last.ckpt", state)
    return tmp_path / "new" / "folder" / "last.ckpt"


def refusal_of(path: Path) -> str:
    with pytest.raises(CheckpointError) as refusal:
        load(path)
    message = str(refusal.value)
    assert "\n" not in message and str(path) in message
    return message


def test_every_bit_comes_back(state: Checkpoint, file: Path) -> None:
    again = load(file)
    first, second = (checkpoint.digest_of(dataclasses.asdict(each)) for each in (again, state))
    assert first == second
    momentum = [entry["momentum_buffer"] for entry in again.optimizer["state"].values()]
    assert len(momentum) == len(state.optimizer["state"]) and all(map(torch.any, momentum))
    assert Recipe(**again.recipe) == Recipe(**state.recipe)
    drawn = []
    for rng in (again.rng, state.rng):
        set_rng_state(rng, CPU)
        drawn.append(torch.rand(3))
    assert torch.equal(*drawn)


def test_unusual_values_survive(tmp_path: Path) -> None:
    odd = torch.tensor([float("nan"), -0.0, 1e-42, float("inf")])
    values = {"w": odd, "n": torch.tensor(7), "empty": torch.zeros(0, 3)}
    save(tmp_path / "a.ckpt", Checkpoint(values))
    again = load(tmp_path / "a.ckpt").state_dict
    assert again["w"].numpy().tobytes() == odd.numpy().tobytes()
    assert again["n"].shape == () and again["empty"].shape == (0, 3)


def test_anything_can_read_the_file_without_this_project(file: Path, state: Checkpoint) -> None:
    content = torch.load(file, weights_only=True)
    assert (content["format"], content["version"], content["epoch"]) == ("rbnn-checkpoint", 2, 3)
    assert content["state_dict"].keys() == state.state_dict.keys()


def test_a_kill_while_writing_leaves_the_previous_file_and_nothing_else(
    file: Path, state: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = file.read_bytes()

    def killed(content: Any, stream: Any) -> None:
        stream.write(b"half a file")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        save(file, dataclasses.replace(state, epoch=4))
    assert file.read_bytes() == before and list(file.parent.iterdir()) == [file]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        *((lambda content, n=n: content[: len(content) * n // 100], DAMAGED) for n in (1, 50, 99)),
        (lambda content: b"", "an empty file; use another"),
        *((lambda content, n=n: random.Random(5).randbytes(n), DAMAGED) for n in (1, 100, 100_000)),
        (lambda content: b"epochs: 3\n", DAMAGED),
        (gzip.compress, "a file compressed with gzip; unpack it first"),
    ],
)
def test_what_is_no_checkpoint_is_named(
    change: Callable[[bytes], bytes], reason: str, file: Path
) -> None:
    file.write_bytes(change(file.read_bytes()))
    assert f"cannot be read: it is {reason}" in refusal_of(file)


def test_a_folder_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    assert refusal_of(tmp_path).endswith("cannot be read: Is a directory")
    assert "does not exist; give the path of a .ckpt file" in refusal_of(tmp_path / "none.ckpt")


def test_no_flipped_bit_passes(file: Path, state: Checkpoint) -> None:
    content = bytearray(file.read_bytes())
    weights = state.state_dict["conv1.weight"].numpy().tobytes()
    content[content.index(weights) + len(weights) // 2] ^= 1
    file.write_bytes(content)
    assert "damaged" in refusal_of(file)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("recipe", lambda recipe: {**recipe, "lr": 0.2}),
        ("epoch", lambda epoch: epoch + 1),
        ("optimizer", lambda optimizer: {**optimizer, "param_groups": []}),
        ("rng", lambda rng: {"cpu": rng["cpu"] ^ 1}),
        ("best", lambda best: {**best, "top1": 99.0}),
        ("metrics", lambda metrics: {1, 2}),  # a value that is never written
        ("data", lambda data: "sha256:other"),
        ("state_dict", lambda tensors: {**tensors, "conv1.weight": tensors["conv1.weight"] + 1}),
    ],
)
def test_the_digest_covers_every_field(name: str, change: Callable[[Any], Any], file: Path) -> None:
    content = torch.load(file, weights_only=True)
    torch.save({**content, name: change(content[name])}, file)
    assert "does not match its digest" in refusal_of(file)


@pytest.mark.parametrize("missing", ["digest", "version", "optimizer"])
def test_a_file_of_ours_that_lacks_something_is_refused(file: Path, missing: str) -> None:
    content = torch.load(file, weights_only=True)
    del content[missing]
    torch.save(content, file)
    refusal_of(file)


def test_no_damage_escapes_as_another_error(tmp_path: Path) -> None:
    """Bytes changed at random, in files of ours, of older torch, of pickle: read or refused."""
    path = tmp_path / "x.ckpt"
    save(path, Checkpoint({"w": torch.ones(50)}))
    old, weights = tmp_path / "old", {"state_dict": {"w": torch.ones(3)}}
    torch.save(weights, old, _use_new_zipfile_serialization=False)
    plain = pickle.dumps({"state_dict": {"w": [1, 2.5, "x"]}}, 2)
    starts = [path.read_bytes(), old.read_bytes(), plain]
    rng = random.Random(1)
    num_refused = 0
    for number in range(1500):
        damaged = bytearray(starts[number % 3])
        for _ in range(3):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        path.write_bytes(damaged)
        try:
            load(path)
        except CheckpointError as error:
            assert "\n" not in str(error)
            num_refused += 1
    assert num_refused > 1000


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.mark}",)


def with_pickle(content: Any, path: Path) -> None:
    path.write_bytes(pickle.dumps(content))


@pytest.mark.parametrize(
    ("write", "reason"),
    [(torch.save, "holds a (posix|nt).system, and only tensors"), (with_pickle, "cannot be read")],
)
def test_code_in_a_file_is_refused_and_not_run(
    write: Callable[[Any, Path], None], reason: str, tmp_path: Path
) -> None:
    mark, path = tmp_path / "ran", tmp_path / "evil.ckpt"
    write({"state_dict": {"w": torch.ones(1)}, "more": Payload(mark)}, path)
    assert re.search(reason, refusal_of(path)) and not mark.exists()
    pickle.loads(pickle.dumps(Payload(mark)))
    assert mark.exists()  # the payload works where it is let


def test_another_version_is_named(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "READABLE", (3, 4))
    assert refusal_of(file).endswith("has format version 2, this program reads 3 and 4")


@pytest.mark.parametrize(
    "content",
    [[1, 2], {"weights": {}}, {"state_dict": 3}, {"state_dict": {"w": [1.0]}}, torch.ones(2)],
    ids=repr,
)
def test_a_file_without_weights_is_refused(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "x.ckpt")
    assert "holds no 'state_dict'" in refusal_of(tmp_path / "x.ckpt")


def test_equal_networks_have_equal_digests_only(network: nn.Module) -> None:
    other = build("resnet20_1w1a", "digits")
    assert state_digest(other) != state_digest(network)
    other.load_state_dict(network.state_dict())
    assert state_digest(other) == state_digest(network)
    first = next(iter(other.buffers()))
    first.view(-1)[0] = torch.nextafter(first.view(-1)[0], torch.tensor(9.0))
    assert state_digest(other) != state_digest(network)


def test_a_digest_tells_shapes_types_and_nesting_apart() -> None:
    flat = torch.arange(6.0)
    contents: list[Any] = [flat, flat.view(2, 3), flat.view(torch.int32), [flat]]
    contents += [{"a": flat}, {"b": flat}, {"a": {}}, {"a": []}, {"a": None}, {"ab": 1}]
    contents += [[1, [2]], [1, 2], ["1", 2], [[1], 2]]
    assert len({checkpoint.digest_of(content) for content in contents}) == len(contents)
