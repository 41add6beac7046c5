"""Which model is it, and whose weights? From a timm name, with weights from the hub, from a file, or random."""

import hashlib
import socket
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import timm
import torch
from huggingface_hub import constants as hub
from torch import nn

from precompute.checkpoint import read_checkpoint
from precompute.errors import ModelError
from precompute.model import ViT
from precompute.names import check_name
from precompute.outputs import Outputs
from precompute.provenance import Choices, OfFile, Provenance, of_timms_weights, pool_arguments
from precompute.state_dict import load_state

HUB_TIMEOUT = 5  # seconds


@dataclass(frozen=True)
class Weights:
    """Where the weights came from, and what is known of them that no tensor says.

    kind:        "pretrained", "checkpoint" or "random"
    sha256:      over every tensor's name, dtype, shape and bytes, in order of names
    part:        dotted keys under which they lay in the file; None where the file is nothing but weights
    parts:       all such keys of the file
    prefix:      what stood before each name, and was dropped
    passed_over: names of tensors in the file that the model does not have, as timm passes over them
    """

    kind: str
    file: str | None
    sha256: str
    part: str | None = None
    parts: tuple[str, ...] = ()
    prefix: str = ""
    passed_over: tuple[str, ...] = ()
    provenance: Provenance = field(default_factory=Provenance, compare=False)

    def identity(self) -> dict[str, str | None]:
        """What makes them the same weights, in plain JSON."""
        return {"kind": self.kind, "file": self.file, "sha256": self.sha256}


def open_model(
    name: str,
    *,
    checkpoint: Path | None = None,
    random_seed: int | None = None,
    image_size: tuple[int, int] | None = None,
    device: str = "cpu",
    fetch: bool = True,
    choices: Choices | None = None,
) -> tuple[ViT, Weights]:
    """The model of a timm name in float32 and eval mode, opened, and where its weights came from.

    Args:
        name: timm's name, with or without a tag (`vit_base_patch16_224.augreg_in1k`). With a tag, a checkpoint is said
            to be those weights of timm's.
        checkpoint: A .safetensors or .pth file of this architecture; its classifier decides the number of classes.
        random_seed: Random weights of this seed instead of trained ones.
        image_size: Pixels as (height, width), if not the model's own. Position embeddings of that size are taken as
            they are; others are resampled.
        fetch: Whether trained weights that are not on this machine may be fetched from the hub.
        choices: What a person says of the model, where no file does.
    Raises:
        ModelError: the name is unknown, the weights cannot be had, or they do not fit; says which and what to do.
        UnsupportedModelError: the architecture is not a plain ViT.
    """
    check_name(name)
    choices = choices or Choices()
    if checkpoint is not None:
        opened = _from_file(name, checkpoint, image_size, choices)
    elif random_seed is not None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(random_seed)
            model = _create(name, **pool_arguments(name, choices.pool))
        opened = model, *_timms(name, model, choices, "random")
    else:
        model = _from_hub(name, fetch=fetch, **pool_arguments(name, choices.pool))
        opened = model, *_timms(name, model, choices, "pretrained")
    model, outputs, weights = opened
    model = model.float().eval().requires_grad_(False)
    resized = ViT(model, name)
    if image_size is not None and image_size != resized.input_size:
        _check_size(name, resized.patch_size, image_size)
        own = "×".join(map(str, resized.grid))
        resized.model.set_input_size(img_size=image_size)
        weights.provenance.sources["positions"] = f"resampled from {own} patches to {'×'.join(map(str, resized.grid))}"
    return ViT(model.to(device), name, outputs, weights.provenance.preprocessing), weights


def _timms(name: str, model: nn.Module, choices: Choices, kind: str) -> tuple[Outputs, Weights]:
    """What the outputs are of timm's own weights, or of random ones, and where they came from."""
    outputs, provenance = of_timms_weights(name, model, choices, trained=kind == "pretrained")
    return outputs, Weights(kind, None, _sha256(model), provenance=provenance)


def _from_file(
    name: str, file: Path, image_size: tuple[int, int] | None, choices: Choices
) -> tuple[nn.Module, Outputs, Weights]:
    """A model with the weights of a file, made at the size that they were trained at."""
    read = read_checkpoint(file, choices.weights)
    found = OfFile(name, read.tensors, file, choices)
    arguments = found.arguments()
    if image_size is not None:
        _check_size(name, found.own.patch_embed.patch_size, image_size)
    if (trained_at := found.image_size(image_size)) is not None:
        arguments["img_size"] = trained_at
    model = _create(name, **arguments)
    passed_over = load_state(model, read, name, file)
    outputs, provenance = found.provenance(model)
    weights = Weights(
        "checkpoint",
        file.name,
        _sha256(model),
        read.part,
        read.parts,
        read.prefix,
        (*read.beside, *passed_over),
        provenance,
    )
    return model, outputs, weights


def _create(name: str, **arguments: Any) -> nn.Module:
    model: nn.Module = timm.create_model(name, pretrained=False, **arguments)
    return model


def _from_hub(name: str, *, fetch: bool, **arguments: Any) -> nn.Module:
    if not timm.is_model_pretrained(name):
        raise ModelError(f"timm has no trained weights for {name}; give --checkpoint FILE, or ask for --random-weights")
    if not fetch and not _is_cached_or_of_the_hub(name):
        raise ModelError(f"the weights of {name} are not in {hub_cache()}")
    try:
        with _cache_only_when_unreachable(fetch=fetch):
            model: nn.Module = timm.create_model(name, pretrained=True, **arguments)
    except Exception as error:  # the hub client raises its own and httpx's types
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if not fetch:
            raise ModelError(f"the weights of {name} are not in {hub_cache()} ({reason[:160]})") from error
        raise ModelError(
            f"the weights of {name} could not be fetched from the hub ({reason[:160]}). Download its .safetensors file "
            "elsewhere and give --checkpoint FILE, or ask for --random-weights to try things out"
        ) from error
    return model


def hub_cache() -> Path:
    """The folder in which the hub's client keeps what it fetched."""
    return Path(hub.HF_HUB_CACHE)


def _is_cached_or_of_the_hub(name: str) -> bool:
    """False only for the few weights that timm fetches from a URL of their own, and that were not fetched yet."""
    config = timm.get_pretrained_cfg(name)
    if config is None or config.hf_hub_id or not config.url:
        return True
    return (Path(torch.hub.get_dir()) / "checkpoints" / config.url.rsplit("/", 1)[-1]).is_file()


@contextmanager
def _cache_only_when_unreachable(*, fetch: bool) -> Iterator[None]:
    """Look only in the local cache when the hub does not answer: its client would try again for a minute."""
    before = hub.HF_HUB_OFFLINE
    host = urllib.parse.urlsplit(hub.ENDPOINT).hostname
    if not fetch:
        hub.HF_HUB_OFFLINE = True
    elif not urllib.request.getproxies():
        try:
            socket.create_connection((host, 443), timeout=HUB_TIMEOUT).close()
        except OSError:
            hub.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        hub.HF_HUB_OFFLINE = before


def _check_size(name: str, patch_size: tuple[int, int], image_size: tuple[int, int]) -> None:
    """Refuse a size in pixels (height, width) that patches do not fill."""
    height, width = patch_size
    if image_size[0] % height or image_size[1] % width or 0 in image_size:
        raise ModelError(
            f"--image-size {image_size[0]}x{image_size[1]} is not a multiple of {name}'s patches, {height}x{width}"
        )


def _sha256(model: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().view(torch.uint8).numpy() if tensor.dim() else str(tensor.item()).encode())
    return digest.hexdigest()
