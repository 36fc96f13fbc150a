"""Under which names a network's weights may stand in a file."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

# What nn.DataParallel, torch.compile, FSDP and activation checkpointing put into names.
WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
UNUSED = "bn3"  # in the authors' ImageNet files, whose networks do not use it
COUNT = "num_batches_tracked"  # not in files of torch before 0.4.1, and used by nothing here


def in_own_names(given: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A file's weights by the names of the network `own`, as far as they are its weights.

    Wrappers go from anywhere in a name; so does what stands before all names, such as `model.`. An
    UNUSED entry that the network does not have is left out; a COUNT that the file does not have is
    the network's.
    """
    plain = {
        ".".join(part for part in name.split(".") if part not in WRAPPERS): tensor
        for name, tensor in given.items()
    }
    prefix = _common_prefix(plain, next(iter(own)))
    counts = {name: tensor for name, tensor in own.items() if name.endswith(COUNT)}
    return counts | {
        name: tensor
        for long, tensor in plain.items()
        if (name := long.removeprefix(prefix)) in own or UNUSED not in name.split(".")
    }


def _common_prefix(names: Mapping[str, Tensor], known: str) -> str:
    """What stands before every name, the network's `known` among them; "" for nothing."""
    found = [name for name in names if name == known or name.endswith(f".{known}")]
    prefix = min(found, key=len, default=known).removesuffix(known)
    return prefix if all(name.startswith(prefix) for name in names) else ""
