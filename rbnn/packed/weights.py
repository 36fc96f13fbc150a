"""A package's weights and what they are: model.safetensors and config.json, written and read.

Reading executes nothing. The network's structure is made without memory for it (on torch's meta
device) from the names in config.json, and every tensor's name, kind and shape is compared with it
before one is read, so a file makes this allocate no more than its own size calls for.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rbnn.datasets import dataset_spec
from rbnn.errors import CheckpointError, RequestError
from rbnn.models import build, check_model
from rbnn.packed.extra import needed
from rbnn.packed.fold import fold
from rbnn.recipe import Recipe

CONFIG, WEIGHTS = "config.json", "model.safetensors"
FORMAT, VERSION = "rbnn-package", 2
MAX_CONFIG_BYTES = 1 << 16
MAX_HEADER_BYTES = 1 << 20
MAX_FILE_BYTES = 1 << 28  # 256 MiB; the float32 form of the largest network takes a third
EVALUATED = (
    "dataset", "data_path", "model", "a32", "semantics", "train_images", "val_fraction", "loader",
    "use_dali",
)  # fmt: skip
DTYPES = {"U8": torch.uint8, "F32": torch.float32, "F16": torch.float16}


@dataclass(frozen=True)
class Config:
    """What a package holds. recipe: the fields that evaluate it; half: first and last layer in
    float16; files: name -> {"bytes", "sha256"} of the others.
    """

    recipe: dict[str, Any]
    half: bool = False
    files: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def image_size(self) -> int:
        return dataset_spec(self.recipe["dataset"]).image_size

    @property
    def num_classes(self) -> int:
        return dataset_spec(self.recipe["dataset"]).num_classes


def load(folder: str | Path) -> nn.Module:
    """The packed network of a package, in evaluation mode: images (N, 3, S, S) float32, normalised
    -> logits (N, C).

    Raises CheckpointError, one line, where a file is missing, damaged or another network's.
    """
    folder = Path(folder)
    config = read_config(folder)
    model = structure(config)
    path = checked(folder, WEIGHTS, config)
    wanted = tensors_of(model, config)
    num_bytes = sum(tensor.nbytes for tensor in wanted.values())
    if not num_bytes < path.stat().st_size <= num_bytes + MAX_HEADER_BYTES:
        raise damaged(path, f"has {path.stat().st_size} bytes, where the network takes {num_bytes}")
    try:
        with needed("safetensors").safe_open(path, "pt") as file:
            _check_header(path, file, wanted)
            found = {name: file.get_tensor(name).clone() for name in wanted}
    except needed("safetensors").SafetensorError as error:
        raise damaged(path, f"is no safetensors file ({error})") from None
    for name, tensor in found.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise damaged(path, f"holds values in '{name}' that are not finite")
    floats = {name: t.float() if t.is_floating_point() else t for name, t in found.items()}
    model.load_state_dict(floats, assign=True)
    return model.eval().requires_grad_(False)


def save(folder: Path, model: nn.Module, config: Config) -> Path:
    """Write the tensors of a packed network; RequestError where one is not finite."""
    path = folder / WEIGHTS
    tensors = {name: tensor.contiguous() for name, tensor in tensors_of(model, config).items()}
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise RequestError(
                f"'{name}' has values that are not finite as {tensor.dtype}; package a run that "
                "did not diverge, or leave --half out"
            )
    path.write_bytes(needed("safetensors.torch").save(tensors, {"format": FORMAT}))
    return path


def tensors_of(model: nn.Module, config: Config) -> dict[str, Tensor]:
    """What the file holds of a packed network, by name; on the meta device kinds and shapes."""
    of_layers = {
        f"{name}.weight"
        for name, layer in model.named_modules()
        if isinstance(layer, (nn.Conv2d, nn.Linear))
    }
    return {
        name: tensor.half() if config.half and name in of_layers else tensor
        for name, tensor in model.state_dict().items()
    }


def structure(config: Config) -> nn.Module:
    """The packed network without its values, on the meta device."""
    recipe = Recipe(**config.recipe)
    with torch.device("meta"):
        return fold(build(recipe.model, recipe.dataset, recipe.a32))


def read_config(folder: Path) -> Config:
    """The package's config.json; CheckpointError where there is none, or it is not one of ours."""
    path = folder / CONFIG
    if not path.is_file():
        raise CheckpointError(f"'{folder}' is no package: it holds no {CONFIG}; see rbnn package")
    if path.stat().st_size > MAX_CONFIG_BYTES:
        raise damaged(path, f"has {path.stat().st_size} bytes, more than {MAX_CONFIG_BYTES}")
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        raise damaged(path, "is not JSON") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise damaged(path, f"is not of format {FORMAT}")
    if content.get("version") != VERSION:
        raise damaged(path, f"has version {content.get('version')!r}; this program reads {VERSION}")
    parts = {name: content.get(name) for name in ("recipe", "half", "files")}
    recipe, half, files = parts.values()
    if not isinstance(recipe, dict) or not isinstance(half, bool) or not isinstance(files, dict):
        raise damaged(path, "lacks its recipe, 'half' or 'files'")
    try:
        known = Recipe(**recipe)
        check_model(known.model, known.dataset)
    except (TypeError, RequestError) as error:
        raise damaged(path, f"holds no recipe that is known here ({error})") from None
    return Config(evaluated(known), half, files)


def evaluated(recipe: Recipe) -> dict[str, Any]:
    """The fields of a recipe that an evaluation asks for; the rest is about training."""
    return {name: getattr(recipe, name) for name in EVALUATED}


def write_config(folder: Path, config: Config, names: list[str]) -> None:
    """Write config.json, last of all, with the sizes and digests of the package's files."""
    files = {
        name: {"bytes": (folder / name).stat().st_size, "sha256": _sha256(folder / name)}
        for name in names
    }
    content = {"format": FORMAT, "version": VERSION, **asdict(config), "files": files}
    partial = folder / f".{CONFIG}.partial"
    partial.write_text(json.dumps(content, indent=2) + "\n")
    partial.replace(folder / CONFIG)


def checked(folder: Path, name: str, config: Config) -> Path:
    """The path of a package's file; CheckpointError where it is not the one config.json names."""
    path, noted = folder / name, config.files.get(name)
    if not path.is_file() or not isinstance(noted, dict):
        raise CheckpointError(f"package '{folder}' holds no {name}; make it again: rbnn package")
    num_bytes = path.stat().st_size
    if num_bytes != noted.get("bytes"):
        raise damaged(path, f"has {num_bytes} bytes, {CONFIG} says {noted.get('bytes')}")
    if num_bytes > MAX_FILE_BYTES:
        raise damaged(path, f"has {num_bytes} bytes, more than any network here takes")
    if _sha256(path) != noted.get("sha256"):
        raise damaged(path, f"does not match its digest in {CONFIG}")
    return path


def damaged(path: Path, why: str) -> CheckpointError:
    """The one line about a file that cannot be used."""
    return CheckpointError(f"'{path}' {why}; make the package again: rbnn package")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_header(path: Path, file: Any, wanted: dict[str, Tensor]) -> None:
    """That the file holds exactly these tensors."""
    differing = sorted(set(file.keys()) ^ set(wanted))
    for name in wanted.keys() - set(differing):
        given = file.get_slice(name)
        same_kind = DTYPES.get(given.get_dtype()) == wanted[name].dtype
        if not same_kind or list(given.get_shape()) != list(wanted[name].shape):
            differing.append(name)
    if differing:
        raise damaged(path, f"is of another network ('{differing[0]}')")
