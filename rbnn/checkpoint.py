"""Checkpoints: everything a bit-exact continuation needs, in one file that is written atomically
and read without executing it.

A file is what torch.save writes of a plain dict, so torch.load(file, weights_only=True) opens it
anywhere. `state_dict` is the network's (names as in the authors' files); `digest` is over
everything else in the file and checked on reading.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from rbnn.errors import CheckpointError
from rbnn.files import replacing
from rbnn.signatures import is_packed, kind_of
from rbnn.weight_names import in_own_names

FORMAT = "rbnn-checkpoint"
VERSION = 2
READABLE = (1, 2)  # 1 has no `step` and `partial`: it was written between epochs only


@dataclass
class Checkpoint:
    """The state of a run after `epoch` completed epochs and `step` training steps of the next.

    recipe: the resolved recipe's fields ({} in the authors' files). optimizer: SGD's state dict.
    rng: generator states by device. best: {"top1": percent, "epoch": 0-based}. metrics: the last
    epoch's. data: the data's fingerprint. partial: what the epoch in progress counted so far, {}
    between epochs.
    """

    state_dict: dict[str, Tensor]
    recipe: dict[str, Any] = field(default_factory=dict)
    epoch: int = 0
    optimizer: dict[str, Any] = field(default_factory=dict)
    rng: dict[str, Any] = field(default_factory=dict)
    best: dict[str, float] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    data: str = ""
    step: int = 0
    partial: dict[str, Any] = field(default_factory=dict)


def save(path: str | Path, checkpoint: Checkpoint) -> None:
    """Write the file completely, or leave what was there: a kill in the middle costs nothing."""
    with writing(path, checkpoint):
        pass


@contextmanager
def writing(path: str | Path, checkpoint: Checkpoint) -> Iterator[Path]:
    """`save` in two steps: within, the complete file is on disk under the name given; it takes its
    place at the end.
    """
    path = Path(path)
    content = {"format": FORMAT, "version": VERSION, **asdict_shallow(on_host(checkpoint)())}
    content["digest"] = digest_of(content)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        with partial.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        yield partial


def link(source: Path, target: Path) -> None:
    """Give the content of `source` a second name, replacing what was there; a copy where the file
    system has no links.
    """
    with replacing(target) as partial:
        partial.unlink(missing_ok=True)
        try:
            partial.hardlink_to(source)
        except OSError:
            shutil.copyfile(source, partial)


def load(path: str | Path) -> Checkpoint:
    """Read a checkpoint of ours, or the authors' (a dict with `state_dict`), on the CPU.

    Weights only: nothing in the file is executed. Raises CheckpointError, one line, for a file that
    is missing, truncated, damaged, of a later version, not a checkpoint, or that holds other
    objects than tensors and plain values.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", UserWarning
            )  # torch's about other pickle protocols, on files that it then refuses
            content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(
            f"checkpoint '{path}' does not exist; give the path of a .ckpt file"
        ) from None
    except (PermissionError, IsADirectoryError) as error:
        raise CheckpointError(f"checkpoint '{path}' cannot be read: {error.strerror}") from None
    # Damaged bytes make torch raise nearly anything: AssertionError, TypeError, struct.error, ...
    except Exception as error:
        raise CheckpointError(f"checkpoint '{path}' {_reason(path, error)}") from None
    weights = content.get("state_dict") if isinstance(content, dict) else None
    if not isinstance(weights, Mapping) or not all(
        isinstance(value, Tensor) for value in weights.values()
    ):
        raise CheckpointError(
            f"checkpoint '{path}' holds no 'state_dict' of tensors; give a file of rbnn train or "
            "of the authors' code"
        )
    if content.get("format") != FORMAT:
        epoch = content.get("epoch", 0)
        named = {str(name): tensor for name, tensor in weights.items()}
        return Checkpoint(named, epoch=epoch if isinstance(epoch, int) else 0)
    if content.get("version") not in READABLE:
        known = " and ".join(map(str, READABLE))
        raise CheckpointError(
            f"checkpoint '{path}' has format version {content.get('version')}, this program reads "
            f"{known}"
        )
    if not _is_whole(content):
        raise CheckpointError(
            f"checkpoint '{path}' is damaged: its content does not match its digest; use another "
            "file"
        )
    del content["format"], content["version"]
    return Checkpoint(**content)


def _reason(path: str | Path, error: Exception) -> str:
    """Why torch could not read a file, and what to do."""
    refused = re.search(r"nsupported (?:global: )?GLOBAL (\w+(?:\.\w+)+)", str(error))
    if refused:
        return (
            f"holds a {refused[1]}, and only tensors and plain values are read from a file; save "
            "its state_dict alone: torch.save({'state_dict': weights}, FILE)"
        )
    kind = kind_of(path)
    remedy = "unpack it first" if is_packed(kind) else "use another (last.ckpt, best.ckpt)"
    return f"cannot be read: it is {kind or 'truncated, damaged or no checkpoint'}; {remedy}"


def _is_whole(content: dict[str, Any]) -> bool:
    """Whether the digest, which is taken out, is that of the rest."""
    try:
        return bool(content.pop("digest", None) == digest_of(content))
    except TypeError:  # a value that we never write
        return False


def load_weights(model: nn.Module, checkpoint: Checkpoint, path: str | Path) -> None:
    """Put a checkpoint's weights into `model`, whatever wrappers its names tell of.

    Raises CheckpointError, one line, where names or shapes are another network's, or values are
    not finite.
    """
    own = model.state_dict()
    given = in_own_names(checkpoint.state_dict, own)
    wrong = sorted(set(own) ^ set(given)) or [
        name for name in own if own[name].shape != given[name].shape
    ]
    if wrong:
        raise CheckpointError(
            f"checkpoint '{path}' is of another network: '{wrong[0]}' and {len(wrong) - 1} more "
            "entries differ; "
            "pass the model and dataset it was trained with"
        )
    broken = {name: num for name in given if (num := int((~given[name].isfinite()).sum()))}
    if broken:
        raise CheckpointError(
            f"checkpoint '{path}' holds {sum(broken.values()):,} values that are not finite, in "
            f"'{next(iter(broken))}' and {len(broken) - 1} more entries: its training had "
            "diverged; use an earlier one"
        )
    model.load_state_dict(given)


def state_digest(model: nn.Module) -> str:
    """16 hex digits over the names and bits of all weights, rotations and buffers: equal for equal
    networks, only.
    """
    return digest_of(model.state_dict())[:16]


def rng_state(device: torch.device) -> dict[str, Tensor]:
    """The states of torch's global generators that a run on `device` uses."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def set_rng_state(states: Mapping[str, Tensor], device: torch.device) -> None:
    """Undo what happened to the generators since `rng_state`."""
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)


def asdict_shallow(checkpoint: Checkpoint) -> dict[str, Any]:
    """The fields by name, tensors shared and not copied."""
    return {name: getattr(checkpoint, name) for name in Checkpoint.__dataclass_fields__}


def on_host(checkpoint: Checkpoint) -> Callable[[], Checkpoint]:
    """Begin to copy a checkpoint to the host; what is returned waits for the copy and gives it.

    The device may change its own meanwhile. Nothing is copied that lies on the host already.
    """
    copied = _on_host(asdict_shallow(checkpoint))
    return lambda: Checkpoint(**copied())


def _on_host(content: Any) -> Callable[[], Any]:
    """`on_host` of any nest: a device's tensors come over in one copy, through pinned memory."""
    leaves, spec = tree_flatten(content)
    there = [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_cuda]
    if not there:
        return lambda: content
    there.sort(key=Tensor.element_size, reverse=True)  # each then begins at a multiple of its size
    flat = torch.cat([tensor.detach().reshape(-1).view(torch.uint8) for tensor in there])
    host = torch.empty(flat.shape, dtype=torch.uint8, pin_memory=True)
    host.copy_(flat, non_blocking=True)
    copied = torch.cuda.Event()
    copied.record()

    def arrived() -> Any:
        copied.synchronize()
        parts = host.split([tensor.nbytes for tensor in there])
        # Clones, as a file cannot hold tensors of several dtypes in one memory.
        mine = {
            id(tensor): part.view(tensor.dtype).view(tensor.shape).clone()
            for tensor, part in zip(there, parts, strict=True)
        }
        return tree_unflatten([mine.get(id(leaf), leaf) for leaf in leaves], spec)

    return arrived


def digest_of(content: Any) -> str:
    """sha256 (hex) over a nest of dicts, lists, tensors and plain values: names, shapes, dtypes,
    bits.
    """
    digest = hashlib.sha256()
    for part in _parts(_on_host(content)()):
        digest.update(part)
    return digest.hexdigest()


def _parts(content: Any) -> Iterator[bytes | memoryview]:
    if isinstance(content, Tensor):
        tensor = content.detach().contiguous()
        yield f"{tensor.dtype}{tuple(tensor.shape)}".encode()
        yield tensor.reshape(-1).view(torch.uint8).numpy().data
    elif isinstance(content, Mapping):
        for key, value in content.items():
            yield f"{key!r}:".encode()
            yield from _parts(value)
    elif isinstance(content, (list, tuple)):
        yield f"[{len(content)}".encode()
        for value in content:
            yield from _parts(value)
    else:
        yield json.dumps(content).encode()
