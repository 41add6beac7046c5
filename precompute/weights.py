"""Which model is it, and whose weights? From a timm name, with weights from the hub, from a file, or random."""

import hashlib
import socket
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from huggingface_hub import constants as hub
from torch import Tensor, nn

from precompute.checkpoint import read_checkpoint
from precompute.errors import ModelError
from precompute.model import ViT
from precompute.names import check_name as check_name
from precompute.state_dict import load_state

HUB_TIMEOUT = 5  # seconds


@dataclass(frozen=True)
class Weights:
    """Where the weights came from. `sha256` is over every tensor's name, dtype, shape and bytes, in order of names.

    Attributes:
        part, prefix: Of the checkpoint's: under which keys the weights lay, and what stood before their names.
        passed_over: Names of its tensors that the model has no place for and that only training reads.
    """

    kind: str  # pretrained, checkpoint or random
    file: str | None
    sha256: str
    part: str | None = None
    prefix: str = ""
    passed_over: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """For JSON, where a tuple is a list. What says nothing is left out, as studies did that knew only the first."""
        more = {"part": self.part, "prefix": self.prefix, "passed_over": list(self.passed_over)}
        told = {key: value for key, value in more.items() if value}
        return {"kind": self.kind, "file": self.file, "sha256": self.sha256, **told}


def open_model(
    name: str,
    *,
    checkpoint: Path | None = None,
    weights: str = "auto",
    random_seed: int | None = None,
    image_size: tuple[int, int] | None = None,
    device: str = "cpu",
    fetch: bool = True,
) -> tuple[ViT, Weights]:
    """The model of a timm name in float32 and eval mode, opened, and where its weights came from.

    Args:
        name: timm's name, with or without a tag (`vit_base_patch16_224.augreg_in1k`).
        checkpoint: A .safetensors or .pth file of this architecture; its classifier decides the number of classes.
        weights: Which of the checkpoint's, as `read_checkpoint` takes it: "auto", "ema" or "plain".
        random_seed: Random weights of this seed instead of trained ones.
        image_size: Pixels as (height, width), if not the model's own; position embeddings are resampled.
        fetch: Whether trained weights that are not on this machine may be fetched from the hub.
    Raises:
        ModelError: the name is unknown, the weights cannot be had, or they do not fit; says which and what to do.
        UnsupportedModelError: the architecture is not a plain ViT.
    """
    check_name(name)
    if checkpoint is not None:
        read = read_checkpoint(checkpoint, weights)
        model = _create(name, num_classes=_classes_of(read.tensors))
        unused = load_state(model, read, name, checkpoint)
        passed_over = (*read.beside, *unused)
        found = Weights("checkpoint", checkpoint.name, _sha256(model), read.part, read.prefix, passed_over)
    elif random_seed is not None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(random_seed)
            model = _create(name)
        found = Weights("random", None, _sha256(model))
    else:
        model = _from_hub(name, fetch=fetch)
        found = Weights("pretrained", None, _sha256(model))
    model = model.float().eval().requires_grad_(False)
    if image_size is not None:
        _resize(ViT(model, name), image_size)
    return ViT(model.to(device), name), found


def _classes_of(state: dict[str, Tensor]) -> int | None:
    """Rows of the checkpoint's classifier; None leaves the architecture's own number."""
    head = state.get("head.weight")
    return None if head is None else len(head)


def _create(name: str, num_classes: int | None = None) -> nn.Module:
    changes = {} if num_classes is None else {"num_classes": num_classes}
    model: nn.Module = timm.create_model(name, pretrained=False, **changes)
    return model


def _from_hub(name: str, *, fetch: bool) -> nn.Module:
    if not timm.is_model_pretrained(name):
        raise ModelError(f"timm has no trained weights for {name}; give --checkpoint FILE, or ask for --random-weights")
    if not fetch and not _is_cached_or_of_the_hub(name):
        raise ModelError(f"the weights of {name} are not in {hub_cache()}")
    try:
        with _cache_only_when_unreachable(fetch=fetch):
            model: nn.Module = timm.create_model(name, pretrained=True)
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


def _resize(vit: ViT, image_size: tuple[int, int]) -> None:
    height, width = vit.patch_size
    if image_size[0] % height or image_size[1] % width or 0 in image_size:
        raise ModelError(
            f"--image-size {image_size[0]}x{image_size[1]} is not a multiple of {vit.name}'s patches, {height}x{width}"
        )
    vit.model.set_input_size(img_size=image_size)


def _sha256(model: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().view(torch.uint8).numpy() if tensor.dim() else str(tensor.item()).encode())
    return digest.hexdigest()
