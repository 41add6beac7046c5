"""How true is attention out of the store, and how true is importance in fewer bits? On a trained model, with photos."""

import copy
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy.stats import spearmanr
from torch import Tensor

from benchmarks.measuring import Table
from benchmarks.studies import DEIT_TINY, PHOTOS, VARIABLE, photo_study, real_folder, real_photos
from precompute.base import base_pass
from precompute.importance import Importance, importance
from precompute.model import Layer, ViT
from precompute.patterns import top_mask
from precompute.preprocess import seen_by
from precompute.weights import open_model
from store.study import Study

# Below this a probability is as good as 0, and its relative error says nothing.
SMALL = 1e-5
SKIPPED = f"**Skipped**: {VARIABLE} names no folder with weights and photos."
# Photos on which importance is computed in float64, too.
FEW = 6


def trained_model(real: Path) -> ViT:
    """DeiT-tiny with the weights of the folder of real material."""
    return open_model(DEIT_TINY, checkpoint=real / "weights" / f"{DEIT_TINY}.safetensors")[0]


def photo_pixels(vit: ViT, real: Path, count: int) -> Tensor:
    """What the model sees of the first photos, uint8 (image, y, x, rgb)."""
    pictures = [Image.open(photo).convert("RGB") for photo in real_photos(real, count)]
    return torch.from_numpy(np.stack([seen_by(vit)(picture) for picture in pictures]))


def importance_of(vit: ViT, pixels: Tensor, target: Tensor) -> Importance:
    return importance(vit, base_pass(vit, pixels), target, chunk=12)


@dataclass(frozen=True)
class LayerError:
    """How far attention out of a study is from the model's, over all images and heads of one layer.

    max_abs:  largest absolute error
    max_rel:  largest relative error where the model's value is above `SMALL`
    overlap:  share of the strongest 1 % between patches that is the same; `least_overlap` of the worst head
    """

    max_abs: float
    max_rel: float
    overlap: float
    least_overlap: float


@torch.inference_mode()
def layer_errors(vit: ViT, study: Study) -> list[LayerError]:
    """By layer: what the study gives, against a forward pass of the float32 model over the study's own pixels."""
    found: list[LayerError] = []
    pixels = torch.from_numpy(study.read("pixels"))

    def compare(layer: Layer) -> None:
        heads = [[study.attention(i, layer.index, h) for h in range(vit.num_heads)] for i in range(len(pixels))]
        mine, truth = torch.from_numpy(np.array(heads)), layer.attn
        error = (mine - truth).abs()
        patches = slice(vit.num_prefix_tokens, None)
        ours, theirs = (top_mask(a[..., patches, patches]) for a in (mine, truth))
        overlap = (ours & theirs).sum(dim=(-2, -1)) / theirs.sum(dim=(-2, -1))
        relative = (error / truth)[truth > SMALL]
        found.append(LayerError(*(float(x) for x in (error.max(), relative.max(), overlap.mean(), overlap.min()))))

    base_pass(vit, pixels, compare)
    return found


def accuracy_table() -> Table:
    """What is stored and rebuilt, layer by layer, on real photos; a measurement of error, not of time."""
    kinds = ("max abs", "max rel", "top 1 %", "worst head")
    errors = [f"{kind}, {source}" for source in ("rebuilt", "stored") for kind in kinds]
    table = Table("Attention out of the store against the model, DeiT-tiny, trained", ("layer", *errors))
    real = real_folder()
    if real is None:
        table.notes.append(SKIPPED)
        return table
    vit = trained_model(real)
    with tempfile.TemporaryDirectory() as scratch:
        photos = real_photos(real, PHOTOS)
        by_source = [
            layer_errors(vit, photo_study(real, photos, source, Path(scratch))) for source in ("rebuilt", "stored")
        ]
    for layer, sources in enumerate(zip(*by_source, strict=True)):
        table.rows.append((str(layer), *(text for error in sources for text in _error_texts(error))))
    table.notes += [
        f"{PHOTOS} photos, all heads, against a fresh float32 pass. Max rel: where the attention is above {SMALL:g}. "
        "Top 1 %: mean share of the strongest 1 % between patches that is the same (target ≥ 0.999); then that of the "
        "worst head.",
        "The masks of a study are not taken from these values: they are made at capture, in full precision.",
    ]
    return table


def _error_texts(error: LayerError) -> tuple[str, ...]:
    return f"{error.max_abs:.1e}", f"{error.max_rel:.1e}", f"{error.overlap:.4f}", f"{error.least_overlap:.4f}"


def precision_table() -> Table:
    """Importance of all heads in float32, and in bfloat16 twice, against float64."""
    table = Table(
        "Importance in fewer bits against float64, DeiT-tiny, trained",
        ("arithmetic", "probability, max abs", "median rel", "JSD, max abs", "median rel", "rank correlation"),
        notes=[
            f"{FEW} photos, all heads, the predicted class. Median rel: of each head's own value. Rank correlation: "
            "Spearman's, of the heads by JSD, mean over photos. Autocast: float32 weights and stream, bfloat16 GEMM."
        ],
    )
    real = real_folder()
    if real is None:
        return Table(table.title, table.columns, notes=[SKIPPED])
    vit = trained_model(real)
    pixels = photo_pixels(vit, real, FEW)
    target = base_pass(vit, pixels).logits.argmax(dim=-1)

    def in_type(dtype: torch.dtype) -> Importance:
        return importance_of(ViT(copy.deepcopy(vit.model).to(dtype), vit.name), pixels, target)

    def under_autocast() -> Importance:
        with torch.autocast("cpu", torch.bfloat16):
            return importance_of(vit, pixels, target)

    truth = in_type(torch.float64)
    arithmetics: dict[str, Callable[[], Importance]] = {
        "float32": lambda: in_type(torch.float32),
        "bfloat16 autocast": under_autocast,
        "bfloat16 model": lambda: in_type(torch.bfloat16),
    }
    for name, compute in arithmetics.items():
        found = compute()
        pairs = zip(found.jsd.flatten(1), truth.jsd.flatten(1), strict=True)
        correlation = np.mean([spearmanr(mine, exact).statistic for mine, exact in pairs])
        errors = (text for metric in ("probability", "jsd") for text in _errors(found, truth, metric))
        table.rows.append((name, *errors, f"{correlation:.5f}"))
    return table


def _errors(found: Importance, truth: Importance, metric: str) -> tuple[str, str]:
    mine, exact = getattr(found, metric).double(), getattr(truth, metric)
    error = (mine - exact).abs()
    return f"{error.max():.1e}", f"{(error / exact.abs()).median():.1e}"
