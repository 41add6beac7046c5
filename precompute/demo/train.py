"""How were the demo's weights made? By `python -m precompute.demo.train`, from nothing and one seed.

Every training picture is drawn anew and seen once, so there is nothing to memorise and no augmentation; the
held-out pictures come from another seed. On one machine two runs give the same weights bit for bit.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from precompute.demo.model import WEIGHTS
from precompute.demo.pictures import CLASSES, picture

TRAIN_SEED, HELD_OUT_SEED = 1, 2  # neither is pictures.SEED, so the set a user sees is unseen too
BATCH = 48  # four pictures of each class
STEPS = 4500  # 216,000 pictures: what 45 minutes on one thread hold
EPOCH = 150  # steps between two lines of the log
# Muon for the matrices inside the blocks, AdamW for the rest. AdamW alone, at 7e-4, was after 86,000 pictures
# where Muon is after 22,000.
MUON_RATE, ADAMW_RATE = 2e-3, 7e-4
WARM_UP = 100  # steps
WEIGHT_DECAY = 0.05  # usual for a ViT
SMOOTHING = 0.05  # of the labels: keeps probabilities away from 1, so that importance has room to show
HELD_OUT, HELD_OUT_AT_END = 600, 2400  # pictures, after every epoch and at the end


def pictures(seed: int, first: int, count: int) -> tuple[Tensor, Tensor]:
    """Pictures `first` to `first + count` of the stream of that seed, classes taking turns.

    Returns:
        Pixels scaled as the model expects them, (image, channel, y, x), -1 to 1; labels, (image,).
    """
    labels = [number % len(CLASSES) for number in range(first, first + count)]
    drawn = [picture(seed, label, (first + i) // len(CLASSES))[0] for i, label in enumerate(labels)]
    pixels = torch.from_numpy(np.stack(drawn)).permute(0, 3, 1, 2).float()
    return pixels / 127.5 - 1, torch.tensor(labels)


def rate_share(step: int, steps: int) -> float:
    """Share of the learning rate at a step: a linear warm-up, then half a cosine down to 0."""
    warm_up = min(WARM_UP, steps // 10)
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / (steps - warm_up)))


def confusion(model: nn.Module, seed: int, count: int) -> Tensor:
    """How often each class is taken for each, (true, predicted), in `count` pictures of that seed."""
    table = torch.zeros(len(CLASSES), len(CLASSES), dtype=torch.int64)
    training = model.training
    model.eval()
    with torch.inference_mode():
        for first in range(0, count, 200):
            pixels, labels = pictures(seed, first, min(200, count - first))
            table.index_put_((labels, model(pixels).argmax(1)), torch.tensor(1), accumulate=True)
    model.train(training)
    return table


def accuracy(table: Tensor) -> float:
    """Share of a confusion table's pictures that are taken for what they are."""
    return float(table.diagonal().sum() / table.sum())


def mistakes(table: Tensor) -> list[tuple[str, str, int]]:
    """(true class, predicted class, how often) of every mistake made, most frequent first."""
    found = [
        (CLASSES[true], CLASSES[taken], int(table[true, taken]))
        for true, taken in table.nonzero().tolist()
        if true != taken
    ]
    return sorted(found, key=lambda mistake: -mistake[2])


def optimizers(model: nn.Module) -> list[torch.optim.Optimizer]:
    """Muon (Jordan et al. 2024) for the blocks' matrices, AdamW for all other parameters."""
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        (matrices if name.startswith("blocks.") and parameter.ndim == 2 else others).append(parameter)
    return [
        torch.optim.Muon(matrices, lr=MUON_RATE, weight_decay=WEIGHT_DECAY, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=ADAMW_RATE, weight_decay=0.0),
    ]


def train(model: nn.Module, steps: int, batch: int) -> Iterator[tuple[int, float]]:
    """Train `model` in place; after every step, yields the steps done and that step's loss."""
    both = optimizers(model)
    schedules = [torch.optim.lr_scheduler.LambdaLR(each, lambda step: rate_share(step, steps)) for each in both]
    model.train()
    for step in range(steps):
        pixels, labels = pictures(TRAIN_SEED, step * batch, batch)
        loss = F.cross_entropy(model(pixels), labels, label_smoothing=SMOOTHING)
        model.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, schedule in zip(both, schedules, strict=True):
            optimizer.step()
            schedule.step()
        yield step + 1, loss.item()


@contextmanager
def reproducible(seed: int, threads: int) -> Iterator[None]:
    """Seeded, deterministic, on so many threads; torch's settings are afterwards as they were before."""
    were_threads, was_strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        torch.set_num_threads(threads)  # sums are cut by thread, so their number is part of the recipe
        torch.use_deterministic_algorithms(True)
        try:
            yield
        finally:
            torch.set_num_threads(were_threads)
            torch.use_deterministic_algorithms(was_strict)


def write(model: nn.Module, log: dict[str, object], out: Path) -> None:
    """Weights at `out` and the log beside it, each replaced whole."""
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(f"{out.name}.{os.getpid()}.part")
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, part)
    part.replace(out)
    part.write_text(json.dumps(log, indent=1) + "\n")
    part.replace(out.with_suffix(".json"))


def main(argv: Sequence[str] | None = None) -> None:
    """Train, print a line an epoch, and write weights and log."""
    parser = argparse.ArgumentParser(prog="python -m precompute.demo.train", description=__doc__)
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="weights; the log goes beside them")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--batch", type=int, default=BATCH)
    parser.add_argument("--seed", type=int, default=0, help="of the weights that training starts from")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--held-out", type=int, default=HELD_OUT_AT_END, help="pictures to judge it by")
    chosen = parser.parse_args(argv)
    if min(chosen.steps, chosen.batch, chosen.threads, chosen.held_out) < 1:
        parser.error("--steps, --batch, --threads and --held-out count from 1")

    with reproducible(chosen.seed, chosen.threads):
        model = timm.create_model("headscope_demo")
        began, lines, losses = time.perf_counter(), [], []
        for step, loss in train(model, chosen.steps, chosen.batch):
            losses.append(loss)
            if step % EPOCH == 0:
                line = {
                    "step": step,
                    "pictures": step * chosen.batch,
                    "loss": round(sum(losses) / len(losses), 4),
                    "held_out_accuracy": round(accuracy(confusion(model, HELD_OUT_SEED, HELD_OUT)), 4),
                    "seconds": round(time.perf_counter() - began),
                }
                print(json.dumps(line), flush=True)
                lines.append(line)
                losses.clear()
        table = confusion(model, HELD_OUT_SEED, chosen.held_out)
        log = {
            "settings": {name: value for name, value in vars(chosen).items() if name != "out"},
            "epochs": lines,
            "seconds": round(time.perf_counter() - began),
            "held_out_pictures": chosen.held_out,
            "held_out_accuracy": round(accuracy(table), 4),
            "mistakes": mistakes(table),
        }
        write(model, log, chosen.out)
        print(f"{accuracy(table):.1%} of {chosen.held_out} held-out pictures right; weights in {chosen.out}")


if __name__ == "__main__":
    main()
