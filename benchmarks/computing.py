"""How much faster are importance, pruning on demand and capture than forward passes of the model itself?"""

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import timm
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from analyses.registry import ARRAYS
from analyses.vocabulary import MODES, Regions
from benchmarks.measuring import Table, Timed, paired, ratio
from precompute.analysis import batch_for, of_batch
from precompute.base import Base, base_pass
from precompute.importance import importance
from precompute.metrics import jensen_shannon, probabilities
from precompute.model import Layer, ViT
from precompute.patterns import cls_vector, packed, top_mask
from precompute.pruning import prune
from precompute.strength import hop_entropy, hop_strength
from workers.memory import keep_freed_memory
from workers.prepare import unit_size

# Side of the square product that stands for what the machine can do at best.
SQUARE = 2048
REPEATS = 4
CHUNKS = (1, 4, 12, 24, 48)


def importance_table(models: list[str], rounds: int) -> Table:
    """All heads of a batch, exact float32, four metrics; against one forward pass a head, for two of them."""
    table = Table(
        "Importance of all heads",
        ("model, images", "hook loop, s/image", "Headscope, s/image", "times faster", "in CPU time", "fewer FLOP",
         "TFLOP/image", "GFLOP/s", "of the GEMM rate"),
        notes=[
            "Target: ≥ 2.2 times faster, ≥ 75 % of the GEMM rate.",
            "Hook loop: one fused forward of the batch for each head, a hook zeroes the head's slice before W_O; it "
            "gives Eq. 3 and 4. One head of each layer is timed, times the number of heads.",
            "Headscope: base pass and all four metrics of all heads. FLOP: of the products and convolutions that "
            "torch.utils.flop_counter saw executed.",
            f"GEMM rate: the faster of {SQUARE}³ and the model's MLP product at the chunk's rows, in the same rounds.",
        ],
    )  # fmt: skip
    for name in models:
        table.rows.append(_importance_row(_random_model(name), rounds))
    return table


def _importance_row(vit: ViT, rounds: int) -> tuple[str, ...]:
    batch = batch_for(vit)
    pixels, target = _pixels(vit, batch.images), torch.zeros(batch.images, dtype=torch.long)
    images = vit.normalised(pixels)
    before = probabilities(_forward(vit, images))
    square_flop, square = _products(SQUARE, SQUARE, SQUARE)
    mlp_flop, mlp = _products(batch.chunk * vit.num_tokens, vit.embed_dim, 4 * vit.embed_dim)

    def ours() -> object:
        return importance(vit, base_pass(vit, pixels), target, batch.chunk)

    timed = paired(
        {"loop": lambda: one_head_a_layer(vit, images, before), "ours": ours, "square": square, "mlp": mlp}, rounds
    )
    flop = _flop(ours)
    fewer = _flop(lambda: _forward(vit, images)) * vit.num_layers * vit.num_heads / flop
    rate = flop / timed["ours"].seconds
    best = max(square_flop / timed["square"].seconds, mlp_flop / timed["mlp"].seconds)
    faster, in_cpu_time = (ratio(timed["loop"], timed["ours"], clock) * vit.num_heads for clock in ("wall", "cpu"))
    return (
        f"{vit.name}, {batch.images}",
        f"{timed['loop'].seconds * vit.num_heads / batch.images:.2f}",
        f"{timed['ours'].seconds / batch.images:.2f}",
        f"**{faster:.2f}**",
        f"{in_cpu_time:.2f}",
        f"{fewer:.2f}",
        f"{flop / batch.images / 1e12:.3f}",
        f"{rate / 1e9:.0f}",
        f"**{rate / best:.0%}** of {best / 1e9:.0f}",
    )


@torch.inference_mode()
def one_head_a_layer(vit: ViT, images: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
    """Probabilities and divergences with the first head of every layer pruned in turn, the plain way."""
    after = []
    for block in vit.model.blocks:
        handle = block.attn.proj.register_forward_pre_hook(_zero_first_head(vit.head_dim))
        after.append(probabilities(vit.model(images)))
        handle.remove()
    pruned = torch.stack(after, dim=1)
    return pruned, jensen_shannon(before[:, None], pruned)


def _zero_first_head(head_dim: int) -> Callable[[object, tuple[Tensor]], tuple[Tensor]]:
    def hook(module: object, args: tuple[Tensor]) -> tuple[Tensor]:
        contexts = args[0].clone()
        contexts[..., :head_dim] = 0
        return (contexts,)

    return hook


def chunk_table(models: list[str], rounds: int) -> Table:
    """Importance with more and fewer pruned copies going through the model at a time."""
    table = Table(
        "How many pruned copies at a time",
        ("model, images", *(f"{chunk}" for chunk in CHUNKS)),
        notes=["Seconds an image, importance of all heads. `precompute.analysis.batch_for` takes 12 at 197 tokens."],
    )
    for name in models:
        vit = _random_model(name)
        images = batch_for(vit).images
        pixels, target = _pixels(vit, images), torch.zeros(images, dtype=torch.long)
        base = base_pass(vit, pixels)
        timed = paired({f"{chunk}": partial(importance, vit, base, target, chunk) for chunk in CHUNKS}, rounds)
        table.rows.append((f"{name}, {images}", *(f"{took.seconds / images:.3f}" for took in timed.values())))
    return table


def memory_table(models: list[str]) -> Table:
    """What a unit is, and what memory its process needs at most."""
    table = Table(
        "Units and memory",
        ("model", "images a batch", "copies a chunk", "images a unit", "GB before", "GB at most"),
        notes=[
            "A batch goes through the model at once, and of its pruned copies a chunk. Memory: resident, of a process "
            "that computes all arrays of one batch, attention included; before, it holds the model alone.",
        ],
    )
    for name in models:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), keep_freed_memory) as process:
            table.rows.append(process.submit(_batch_alone, name).result())
    return table


def _batch_alone(name: str) -> tuple[str, ...]:
    vit = _random_model(name)
    batch = batch_for(vit)
    before = _peak_bytes()
    of_batch(vit, _pixels(vit, batch.images).numpy(), np.full(batch.images, -1), batch.chunk, ARRAYS)
    peaks = (f"{peak / 1e9:.2f}" for peak in (before, _peak_bytes()))
    return name, f"{batch.images}", f"{batch.chunk}", f"{unit_size(vit, batch)}", *peaks


def _peak_bytes() -> int:
    """What was resident of this process at most. getrusage would count the process that started it, too."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def modes_table(models: list[str], rounds: int) -> Table:
    """The six modes of one head on one image, on demand; against six forward passes."""
    table = Table(
        "Six pruning modes of one head, one image",
        ("model, layer", "6 forwards, ms", "5 variants, ms", "times faster", "4 variants, ms", "times faster"),
        notes=[
            "Target: all layers together ≥ 3 times faster, the last layer ≥ 100 times.",
            "Mode 0 is the unpruned model and costs nothing. 5 variants: modes 1 to 5 computed. 4 variants: modes 2 to "
            "5, and mode 1, the whole head, taken from the study's table, where its prediction and metrics stand.",
            "The base pass of the image is there already; where it is not, it adds about one forward, once an image.",
        ],
    )
    for name in models:
        vit = _random_model(name)
        pixels = _pixels(vit, 1)
        images, base = vit.normalised(pixels), base_pass(vit, pixels)
        by_layer = [_modes(vit, images, base, layer, rounds) for layer in range(vit.num_layers)]
        table.rows += [_modes_row(f"{name}, {layer}", timed) for layer, timed in enumerate(by_layer)]
        together = {variant: _sum([timed[variant] for timed in by_layer]) for variant in by_layer[0]}
        table.rows.append(_modes_row(f"**{name}, all layers**", together))
    return table


def _modes(vit: ViT, images: Tensor, base: Base, layer: int, rounds: int) -> dict[str, Timed]:
    modes = [Regions(each) for each in MODES]
    return paired(
        {
            "forwards": lambda: [_forward(vit, images) for _ in modes],
            "five": lambda: prune(vit, base, [(layer, 0)], modes[1:]),
            "four": lambda: prune(vit, base, [(layer, 0)], modes[2:]),
        },
        rounds,
    )


def _modes_row(title: str, timed: dict[str, Timed]) -> tuple[str, ...]:
    five, four = (ratio(timed["forwards"], timed[v]) for v in ("five", "four"))
    return (title, _ms(timed["forwards"]), _ms(timed["five"]), f"{five:.1f}", _ms(timed["four"]), f"{four:.1f}")


def _sum(several: list[Timed]) -> Timed:
    """Round by round."""
    return Timed(
        [sum(walls) for walls in zip(*(t.wall for t in several), strict=True)],
        [sum(cpus) for cpus in zip(*(t.cpu for t in several), strict=True)],
    )


def capture_table(models: list[str], rounds: int) -> Table:
    """A forward pass that keeps every layer's attention; against the fused one that keeps nothing."""
    table = Table(
        "Capture of all attention",
        ("model, images", "fused forward, s", "kept in float16", "with strength, entropy, masks, CLS vectors"),
        notes=["Target: kept in float16 ≤ 1.10 times the fused forward."],
    )
    for name in models:
        table.rows.append(_capture_row(_random_model(name), rounds))
    return table


def _capture_row(vit: ViT, rounds: int) -> tuple[str, ...]:
    pixels = _pixels(vit, batch_for(vit).images)
    images = vit.normalised(pixels)
    timed = paired(
        {
            "plain": lambda: _forward(vit, images),
            "kept": lambda: _captured(vit, pixels, lambda layer: layer.attn.half()),
            "all": lambda: _captured(vit, pixels, partial(_kept, vit)),
        },
        rounds,
    )
    kept, everything = (ratio(timed[variant], timed["plain"]) for variant in ("kept", "all"))
    plain = f"{timed['plain'].seconds:.3f}"
    return f"{vit.name}, {len(pixels)}", plain, f"**{kept:.2f}** times", f"{everything:.2f} times"


def _captured(vit: ViT, pixels: Tensor, keep: Callable[[Layer], object]) -> tuple[Base, list[object]]:
    kept: list[object] = []
    return base_pass(vit, pixels, lambda layer: kept.append(keep(layer))), kept


def _kept(vit: ViT, layer: Layer) -> tuple[Tensor, ...]:
    """What a study keeps of a layer's attention."""
    patches = slice(vit.num_prefix_tokens, None)
    between = layer.attn[..., patches, patches]
    strength = hop_strength(between, vit.grid)
    return (
        layer.attn.half(),
        strength,
        hop_entropy(strength),
        packed(top_mask(between)),
        cls_vector(layer.attn, vit.num_prefix_tokens),
    )


@torch.inference_mode()
def _forward(vit: ViT, images: Tensor) -> Tensor:
    return vit.model(images)


def _products(rows: int, inner: int, columns: int) -> tuple[float, Callable[[], list[Tensor]]]:
    """FLOP of a few products of these sizes, and the function that runs them."""
    a, b = torch.randn(rows, inner), torch.randn(inner, columns)
    return REPEATS * 2.0 * rows * inner * columns, lambda: [a @ b for _ in range(REPEATS)]


def _flop(call: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def _random_model(name: str) -> ViT:
    """Time does not depend on the weights."""
    torch.manual_seed(0)
    return ViT(timm.create_model(name).eval(), name)


def _pixels(vit: ViT, images: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (images, *vit.input_size, 3), dtype=torch.uint8, generator=generator)


def _ms(timed: Timed) -> str:
    return f"{timed.seconds * 1e3:.0f}" if timed.seconds >= 0.02 else f"{timed.seconds * 1e3:.1f}"
