"""Which attention patterns are alike? An autoencoder of binary masks says each in 32 numbers (Sec. 5.4.1).

The paper gives two convolutions and one fully-connected layer, and a decoder symmetric to them. Decided where it is
silent: the first convolution reads squares side by side, so large that at most 50 × 50 remain (`square_size`); the
second halves them. A mask is padded with zeros to whole squares, and what the decoder says of the padding is cut off.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from precompute.patterns import TOP_SHARE, unpacked
from precompute.unit import Arrays, Attrs, Unit

# Size of the bottleneck, and channels after the first and the second convolution.
LATENT = 32
CHANNELS = (16, 32)
# Rows and columns of squares that the first convolution leaves at most.
SQUARES = 50

# Matrices in a training sample, over all heads, and the fewest images of one head.
SAMPLE = 2500
FEWEST_IMAGES = 16
# One image in so many of each head is held out, to stop by.
HELD_OUT = 8

# The policy of training, by experiment on DeiT-tiny. More steps say more of single pixels and separate heads less.
STEPS = 800
FEWEST_EPOCHS = 12
FEWEST_PATIENCE = 5
BATCH = 32
LEARNING_RATE = 1e-3
DROPPED = 0.8

# Masks encoded at once: so many, or fewer, if their pixels would be more than 64 MiB in float32.
LARGEST_BATCH = 256
ENCODED = 1 << 24


class Autoencoder(nn.Module):
    """Encoder and decoder of masks (mask, patches, patches).

    The outer convolutions read and write squares that do not overlap, so each is one matrix product over squares.
    """

    def __init__(self, patches: int) -> None:
        super().__init__()
        size = square_size(patches)
        first, second = CHANNELS
        self.patches = patches
        self.squares = math.ceil(patches / size)  # along a side, after the first convolution
        self.coarse = math.ceil(self.squares / 2)  # and after the second
        self.conv1 = nn.Conv2d(1, first, size, stride=size)
        self.conv2 = nn.Conv2d(first, second, 3, stride=2, padding=1)
        self.encoded = nn.Linear(second * self.coarse**2, LATENT)
        self.decoded = nn.Linear(LATENT, second * self.coarse**2)
        self.deconv2 = nn.ConvTranspose2d(
            second, first, 3, stride=2, padding=1, output_padding=int(self.squares % 2 == 0)
        )
        self.deconv1 = nn.ConvTranspose2d(first, 1, size, stride=size)
        # Every pixel starts out as likely as it is on average; else the first epochs learn nothing but that.
        assert self.deconv1.bias is not None
        nn.init.constant_(self.deconv1.bias, math.log(TOP_SHARE / (1 - TOP_SHARE)))

    def encode(self, masks: Tensor) -> Tensor:
        """Latents (mask, latent) of masks 0 … 1, float32 (mask, patches, patches)."""
        size, side = self.conv1.kernel_size[0], self.squares
        padding = -self.patches % size
        x = F.pad(masks, (0, padding, 0, padding)).unflatten(2, (side, size)).unflatten(1, (side, size))
        x = x.transpose(2, 3).flatten(3)  # (mask, row, column, pixel of a square)
        x = F.linear(x, self.conv1.weight.flatten(1), self.conv1.bias).relu()
        # Channels last, which all that follows keeps: a third faster on a CPU.
        x = self.conv2(x.permute(0, 3, 1, 2)).relu()
        return self.encoded(x.permute(0, 2, 3, 1).flatten(1))

    def decode(self, latents: Tensor) -> Tensor:
        """Log-odds of every pixel, (mask, patches, patches), from (mask, latent)."""
        size, side = self.conv1.kernel_size[0], self.squares
        x = self.decoded(latents).relu().unflatten(1, (self.coarse, self.coarse, -1)).permute(0, 3, 1, 2)
        x = self.deconv2(x).relu().permute(0, 2, 3, 1)
        assert self.deconv1.bias is not None
        x = F.linear(x, self.deconv1.weight.flatten(1).T, self.deconv1.bias.expand(size**2))
        x = x.unflatten(3, (size, size)).transpose(2, 3).reshape(-1, side * size, side * size)
        return x[:, : self.patches, : self.patches]


@dataclass(frozen=True)
class Trained:
    """An autoencoder after training.

    parameters: flat, in the module's order, float32 (parameter,), of the epoch with the least held-out loss
    loss:       of every epoch that was run, "train" (with ones dropped) and "held_out" (with all; empty where nothing
                is held out): binary cross-entropy of a mask, summed over its pixels, in nats
    settings:   how it was trained, plain numbers
    """

    parameters: np.ndarray
    loss: dict[str, list[float]]
    settings: dict[str, Any]


def square_size(patches: int) -> int:
    """Side of the squares of a mask (patches, patches) that the first convolution reads: ⌈patches / 50⌉, at least 2.

    4 for 14 × 14 patches, 2 for 8 × 8, 28 for 37 × 37.
    """
    return max(2, math.ceil(patches / SQUARES))


def num_parameters(patches: int) -> int:
    """Number of parameters of the autoencoder of masks (patches, patches)."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in Autoencoder(patches).parameters())


def training_sample(images: int, layers: int, heads: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Which matrices to train on: as many images of every head, about 2,500 matrices, at least 16 images a head.

    Every head has images of its own drawing; all of them, if there are no more than its share.

    Returns:
        (image, layer, head) of each matrix in the order of the study, int64 (matrix, 3), and which are held out,
        bool (matrix,): an eighth of every head's, at least one where it has two.
    """
    rng = np.random.default_rng(seed)
    share = min(images, max(FEWEST_IMAGES, SAMPLE // (layers * heads)))
    held = math.ceil(share / HELD_OUT) if share > 1 else 0
    # 0 = not in the sample, 1 = to train on, 2 = held out
    ordered = np.zeros((layers * heads, images), dtype=np.int8)
    ordered[:, :share], ordered[:, :held] = 1, 2
    role = rng.permuted(ordered, axis=1).T.reshape(images, layers, heads)
    index = np.argwhere(role)
    return index, role[tuple(index.T)] == 2


@torch.enable_grad()
def train(
    packed: np.ndarray,
    held_out: np.ndarray,
    patches: int,
    seed: int,
    *,
    device: torch.device,
    progress: Callable[[int, int], None],
    check: Callable[[], None],
) -> Trained:
    """An autoencoder of masks, trained for about 800 steps or until the held-out loss falls no more.

    Adam on the binary cross-entropy, its rate up and down again in one cycle. Four in five ones of what the encoder is
    shown are dropped (the rest count five times), and the decoder has to say all of them: a single pixel is then worth
    less than the shape that it stands in. Masks without a one, which are of matrices with a NaN, are left out.

    The same arguments give the same bytes on one machine with the same number of threads. The global random state is
    as before afterwards.

    Args:
        packed: Masks, uint8 (mask, byte), as `training_sample` chose them.
        held_out: Which of them only watch, bool (mask,). Where none does, the loss of training itself is watched.
        progress: Called after each batch with the batches done and the most there can be.
        check: Called before each batch, and may raise, to stop.
    Raises:
        ValueError: no mask to train on has a one.
    """
    known = packed.any(axis=1)
    seen, watched = np.flatnonzero(known & ~held_out), np.flatnonzero(known & held_out)
    if not len(seen):
        raise ValueError(f"none of {int((~held_out).sum())} masks to train on has a one; is the attention all NaN?")
    batches = math.ceil(len(seen) / BATCH)
    epochs = max(FEWEST_EPOCHS, math.ceil(STEPS / batches))
    patience = max(FEWEST_PATIENCE, epochs // 4)
    loss: dict[str, list[float]] = {"train": [], "held_out": []}
    best, kept = 0, torch.zeros(0)
    with _seeded(seed, device):
        net = Autoencoder(patches).to(device)
        adam = torch.optim.Adam(net.parameters(), fused=True)
        cycle = torch.optim.lr_scheduler.OneCycleLR(adam, LEARNING_RATE, epochs * batches, pct_start=0.15)
        for epoch in range(epochs):
            summed = 0.0
            order = seen[torch.randperm(len(seen)).numpy()]
            for batch in range(batches):
                check()
                rows = order[batch * BATCH :][:BATCH]
                masks = _masks(packed[rows], patches, device)
                cross_entropy = _loss(net, _dropped(masks), masks)
                adam.zero_grad()
                (cross_entropy / len(rows)).backward()
                adam.step()
                cycle.step()
                summed += cross_entropy.item()
                progress(epoch * batches + batch + 1, epochs * batches)
            loss["train"].append(summed / len(seen))
            if len(watched):
                loss["held_out"].append(_mean_loss(net, packed[watched], patches, device, check))
            watch = loss["held_out"] or loss["train"]
            if watch[epoch] <= min(watch):
                best, kept = epoch, nn.utils.parameters_to_vector(net.parameters()).detach().cpu()
            if epoch - best == patience:
                progress(epochs * batches, epochs * batches)
                break
    settings = {
        "latent": LATENT,
        "channels": list(CHANNELS),
        "stride": square_size(patches),
        "parameters": len(kept),
        "samples": len(seen),
        "held_out": len(watched),
        "epochs": len(loss["train"]),
        "most_epochs": epochs,
        "patience": patience,
        "kept_epoch": best,
        "batch": BATCH,
        "learning_rate": LEARNING_RATE,
        "dropped_ones": DROPPED,
        "seed": seed,
    }
    return Trained(kept.numpy(), loss, settings)


@torch.inference_mode()
def encode(parameters: np.ndarray, packed: np.ndarray, patches: int, device: torch.device) -> np.ndarray:
    """Latents, float32 (mask, latent), of masks (mask, byte); NaN of those without a one.

    The bytes are the same however the masks are cut into calls: every batch is filled up to one size, so that the same
    kernels run.

    Raises:
        ValueError: the parameters are not those of an autoencoder of so many patches.
    """
    net = Autoencoder(patches)
    wanted = sum(parameter.numel() for parameter in net.parameters())
    if parameters.shape != (wanted,):
        raise ValueError(f"parameters are {parameters.shape}; the autoencoder of {patches} patches has {wanted}")
    nn.utils.vector_to_parameters(torch.tensor(parameters), net.parameters())
    net.to(device)
    batch = min(LARGEST_BATCH, max(1, ENCODED // patches**2))
    latents = np.empty((len(packed), LATENT), dtype=np.float32)
    for start in range(0, len(packed), batch):
        rows = packed[start : start + batch]
        filled = np.pad(rows, ((0, batch - len(rows)), (0, 0)))
        latents[start : start + batch] = net.encode(_masks(filled, patches, device))[: len(rows)].cpu().numpy()
    latents[~packed.any(axis=1)] = np.nan
    return latents


def train_on_study(unit: Unit) -> tuple[Arrays, Attrs]:
    """The autoencoder, trained on as many matrices of each head: its parameters, float32 (parameter,)."""
    sizes = unit.study.sizes
    sample, held_out = training_sample(sizes["image"], sizes["layer"], sizes["head"], unit.seed)
    masks = []
    for image in np.unique(sample[:, 0]):
        unit.check()
        _, layer, head = sample[sample[:, 0] == image].T
        masks.append(unit.study.read("patch_mask", int(image))[layer, head])
    trained = train(
        np.concatenate(masks),
        held_out,
        unit.num_patches,
        unit.seed,
        device=unit.device,
        progress=unit.progress,
        check=unit.check,
    )
    return {"autoencoder": trained.parameters}, {"autoencoder": {**trained.settings, "loss": trained.loss}}


def of_unit(unit: Unit) -> Arrays:
    """What the autoencoder makes of the heads of some images: patch_latent, float32 (image, layer, head, latent)."""
    parameters, layers = unit.study.read("autoencoder"), unit.study.sizes["layer"]
    latents = []
    for block in unit.blocks("patch_mask", 5 * unit.num_patches**2):
        latents.append(encode(parameters, block, unit.num_patches, device=unit.device))
        unit.progress(sum(map(len, latents)) // (layers * unit.heads), len(unit.images))
    return {"patch_latent": np.concatenate(latents).reshape(len(unit.images), layers, unit.heads, -1)}


def _masks(packed: np.ndarray, patches: int, device: torch.device) -> Tensor:
    """Masks as float32 0 or 1, (mask, patches, patches)."""
    return torch.from_numpy(unpacked(packed, patches)).to(device).float()


def _dropped(masks: Tensor) -> Tensor:
    """The masks without four in five of their ones, drawn one by one; the others count five times, as in dropout.

    Only the ones are drawn for: of a hundred pixels that is one.
    """
    shown = torch.zeros_like(masks)
    ones = masks.flatten().nonzero().squeeze(1)
    shown.view(-1)[ones] = F.dropout(torch.ones(len(ones), device=masks.device), DROPPED)
    return shown


def _loss(net: Autoencoder, shown: Tensor, masks: Tensor) -> Tensor:
    """Binary cross-entropy of masks given what the encoder is shown of them, summed, in nats."""
    log_odds = net.decode(net.encode(shown))
    return F.softplus(log_odds).sum() - (log_odds * masks).sum()


@torch.inference_mode()
def _mean_loss(
    net: Autoencoder, packed: np.ndarray, patches: int, device: torch.device, check: Callable[[], None]
) -> float:
    """Loss of one mask, all of it shown."""
    summed = 0.0
    for start in range(0, len(packed), BATCH):
        check()
        masks = _masks(packed[start : start + BATCH], patches, device)
        summed += _loss(net, masks, masks).item()
    return summed / len(packed)


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """The random state is the seed's, and of cuDNN only kernels run that give the same twice; both as before after."""
    cuda = [device] if device.type == "cuda" else []
    cudnn = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
    with torch.random.fork_rng(cuda), cudnn:
        torch.manual_seed(seed)
        yield
