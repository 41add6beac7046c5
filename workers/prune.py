"""What if parts of some heads were off? One unit of a pruning: some images of a published study, all sets of regions.

What the study knows is read from it: the model with nothing pruned, and a single head pruned whole, so that a page
never shows two numbers for one thing. The rest is computed from the pixels that the model saw, by the very model that
made the study.
"""

import math
import re
import time
from collections.abc import Callable, Hashable, Sequence
from functools import cache, cached_property, partial
from typing import Any

import numpy as np
import torch
from cachetools import LRUCache

from analyses.vocabulary import METRICS, Regions
from jobs.requests import SUM_UP, ImageRequest, PruneRequest, from_json
from jobs.work import Lease
from precompute.analysis import batch_for, exact_float32, unless_out_of_memory
from precompute.base import Base, base_pass
from precompute.importance import TOP
from precompute.metrics import probabilities
from precompute.model import ViT
from precompute.pruning import Pruned, is_defined, prune
from store import paths
from store.errors import StoreError
from store.settings import Settings
from store.study import Study, open_published
from workers.cache import device, memory_cache
from workers.runner import MistakeError, Work
from workers.study_model import StudyModelError, cached_model_of

Plain = dict[str, Any]
Array = np.ndarray

# Parts of a result with an entry for each image, and those with a row of them for each set of regions.
BY_IMAGE = ("images", "target", "label", "top_before")
BY_REGIONS = ("probability", "pruned_probability", "jsd", "cls_distance", "patch_distance", "top_after")

# Largest difference of a logit from the study's, as a share of the largest: as in the study's own certificate.
TOLERANCE = 1e-3

# An image of ViT-B has 15 MB of stream and z: these are the last 130 images that people looked at.
BASE_BYTES = 2_000_000_000
BASE_SHARE = 1 / 8
_studies: LRUCache[Hashable, Study] = LRUCache(4)


def base_bytes(base: Base) -> int:
    """Bytes of its stream and z."""
    return sum(each.nbytes for each in (*base.resid, *base.z))


@cache
def base_cache() -> LRUCache[Hashable, Base]:
    """Unpruned passes over one image each, of the last images that were asked about."""
    return memory_cache(base_bytes, BASE_BYTES, BASE_SHARE)


def do(lease: Lease, work: Work) -> None:
    """One unit: the images that its name counts, or all of them summed up."""
    request = from_json(lease.kind, lease.request)
    assert isinstance(request, PruneRequest)
    if lease.step.name == SUM_UP:
        work.finish(result=summed_up(work.ledger.unit_facts(lease.job, 0)))
        return
    first, last = map(int, re.findall(r"\d+", lease.step.name))
    images = request.images[first : last + 1]

    def progress(done: int) -> None:
        work.progress(done, len(images), "images")

    try:
        found = effects(request, images, work.settings, work.check, progress)
    except (StudyModelError, StoreError) as error:
        raise MistakeError(str(error)) from error
    if len(request.images) == len(images):
        work.finish(result=found)
    else:
        work.finish(facts=found)


def effects(
    request: PruneRequest,
    images: Sequence[str],
    settings: Settings,
    check: Callable[[], None],
    progress: Callable[[int], None],
) -> Plain:
    """What the pruning changes on some of its images, in plain JSON; NaN and Inf are null.

    Args:
        check: Called between batches; it may raise, to stop.
        progress: Called with the images done.
    Raises:
        MistakeError: The study was computed anew, or has no such image or head.
        StudyModelError: Its model is not here.
        StoreError: It is damaged.
    """
    began = time.perf_counter()
    study = published(request, settings)
    indices = _indices(study, images)
    _refuse_heads(study, request.heads)
    found = _Found(study, indices, request)
    to_compute = []
    for row, regions in enumerate(map(Regions, request.regions)):
        if not is_defined(regions, has_cls=study.attrs["model"]["has_cls"]):
            continue
        if not regions:
            found.read_unpruned(row)
        elif regions == Regions.ALL and len(request.heads) == 1:
            found.read_whole_head(row, *request.heads[0])
        else:
            to_compute.append(row)
    if to_compute:
        _compute(found, to_compute, settings, check, progress)
    progress(len(indices))
    return found.plain() | {"seconds": round(time.perf_counter() - began, 4)}


def summed_up(parts: Sequence[Plain]) -> Plain:
    """The result of all images from those of the units, in their order."""

    def joined(pieces: list[Any], by_row: bool) -> Any:
        if pieces[0] is None:
            return None
        if isinstance(pieces[0], dict):
            return {layer: joined([piece[layer] for piece in pieces], by_row) for layer in pieces[0]}
        if by_row:
            return [joined(list(rows), False) for rows in zip(*pieces, strict=True)]
        return [of_image for piece in pieces for of_image in piece]

    whole = {key: joined([part[key] for part in parts], key in BY_REGIONS) for key in (*BY_IMAGE, *BY_REGIONS)}
    return parts[0] | whole | {"seconds": round(sum(part["seconds"] for part in parts), 4)}


class _Found:
    """What is known so far of some images: arrays (regions, image), one a kind of effect, NaN until it is known."""

    def __init__(self, study: Study, indices: list[int], request: PruneRequest) -> None:
        self.study = study
        self.indices = indices
        self.request = request
        self.layers = sorted({layer for layer, _ in request.heads})
        self.target = study.read("target", indices).astype(np.int64) if "target" in study else None
        shape = (len(request.regions), len(indices))
        self.of_class = {name: np.full(shape, np.nan) for name in ("probability", "pruned_probability", "jsd")}
        self.distance = {
            name: {layer: np.full(shape, np.nan) for layer in self.layers}
            for name in ("cls_distance", "patch_distance")
            if name in study.metrics
        }
        ranks = () if self.target is None else (min(TOP, study.sizes["class"]),)
        self.top_class = np.zeros((*shape, *ranks), np.int64)
        self.top_probability = np.full((*shape, *ranks), np.nan)

    @cached_property
    def before(self) -> Array:
        """Probabilities with nothing pruned, (image, class)."""
        return self.study.read("probability", self.indices)

    def read_unpruned(self, row: int) -> None:
        """Nothing is switched off: the study's own predictions, and no effect."""
        for layers in self.distance.values():
            for values in layers.values():
                values[row] = 0
        if self.target is not None:
            self.of_class["probability"][row] = self.of_class["jsd"][row] = 0
            self.of_class["pruned_probability"][row] = np.take_along_axis(self.before, self.target[:, None], 1)[:, 0]
            self.top_class[row], self.top_probability[row] = _likeliest(self.before)

    def read_whole_head(self, row: int, layer: int, head: int) -> None:
        """One head is switched off whole: that is its importance, which the study has."""
        of_head = (self.indices, layer, head)
        for metric, values in zip(
            self.study.metrics, self.study.read("importance", slice(None), *of_head), strict=True
        ):
            (self.distance[metric][layer] if metric in self.distance else self.of_class[metric])[row] = values
        if self.target is not None:
            self.of_class["pruned_probability"][row] = self.study.read("pruned_probability", *of_head)
            self.top_class[row] = self.study.read("pruned_top_class", *of_head)
            self.top_probability[row] = self.study.read("pruned_top_probability", *of_head)

    def take(self, rows: Sequence[int], images: slice, pruned: Pruned, base: Base) -> None:
        """What was computed for these sets of regions on these images."""
        at = (np.array(rows)[:, None], np.arange(len(self.indices))[images])
        for layer, distance in pruned.distance.items():
            self.distance["patch_distance"][layer][at] = distance.patch.cpu()
            if distance.cls is not None:
                self.distance["cls_distance"][layer][at] = distance.cls.cpu()
        if self.target is None or pruned.jsd is None:
            return
        target = torch.from_numpy(self.target[images]).to(base.logits.device)[:, None]
        before, after = probabilities(base.logits), probabilities(pruned.logits)
        p_after = after.gather(-1, target.expand(len(rows), -1, 1))[..., 0]
        self.of_class["probability"][at] = (before.gather(-1, target)[:, 0] - p_after).cpu()
        self.of_class["pruned_probability"][at] = p_after.cpu()
        self.of_class["jsd"][at] = pruned.jsd.cpu()
        self.top_class[at], self.top_probability[at] = _likeliest(after.cpu().numpy())

    def plain(self) -> Plain:
        """All of it in plain JSON; NaN and Inf are null."""
        study, request = self.study, self.request
        label = study.read("label", self.indices).tolist()
        nobody = [None] * len(self.indices)
        top_before = nobody if self.target is None else _pairs(*_likeliest(self.before))
        of_classes = self.target is not None
        left_out = study.attrs["left_out"]
        return {
            "study": study.name,
            "content": study.manifest.content,
            "images": [study.image_ids[index] for index in self.indices],
            "heads": [list(head) for head in request.heads],
            "regions": list(request.regions),
            "layers": self.layers,
            "target": nobody if self.target is None else self.target.tolist(),
            "label": [None if index < 0 else index for index in label],
            **{name: _rows(values) for name, values in self.of_class.items()},
            **{
                name: {str(layer): _rows(values) for layer, values in self.distance[name].items()}
                if name in self.distance
                else None
                for name in ("cls_distance", "patch_distance")
            },
            "top_before": top_before,
            "top_after": [
                _pairs(self.top_class[row], self.top_probability[row]) if of_classes else nobody
                for row in range(len(request.regions))
            ],
            "undefined": {
                str(bits): left_out["cls_distance"]
                for bits in request.regions
                if not is_defined(Regions(bits), has_cls=study.attrs["model"]["has_cls"])
            },
            "left_out": {name: left_out[name] for name in METRICS if name in left_out},
        }


def _compute(
    found: _Found, rows: Sequence[int], settings: Settings, check: Callable[[], None], progress: Callable[[int], None]
) -> None:
    """Take into `found` what the model gives for the sets of regions of `rows`, batch by batch.

    The batch is halved when memory runs out, down to one image and one set of regions.
    """
    vit = cached_model_of(found.study, settings, device())
    batch, start = batch_for(vit), 0
    while start < len(found.indices):
        several = max(1, min(batch.images, batch.chunk // len(rows)))
        images = slice(start, start + several)
        check()
        compute = partial(_compute_batch, vit, found, rows, images, batch.chunk // several or 1, check)
        if unless_out_of_memory(vit.device, compute):
            start += several
            progress(min(start, len(found.indices)))
        elif batch == batch.halved():
            raise MemoryError(
                f"one image of {vit.name} does not fit in the memory of {vit.device} with parts of it pruned; use a "
                "device with more memory"
            )
        else:
            base_cache().clear()
            batch = batch.halved()


def _compute_batch(
    vit: ViT, found: _Found, rows: Sequence[int], images: slice, variants: int, check: Callable[[], None]
) -> bool:
    """Take into `found` what the model gives for some images; True, once it has."""
    with exact_float32():
        base = _base(vit, found.study, found.indices[images])
        for first in range(0, len(rows), variants):
            check()
            several = rows[first : first + variants]
            regions = [Regions(found.request.regions[row]) for row in several]
            found.take(several, images, prune(vit, base, found.request.heads, regions), base)
    return True


def _base(vit: ViT, study: Study, indices: list[int]) -> Base:
    """The unpruned pass over some images of the study: kept from an earlier time, or made and kept."""
    keys = {index: (study.manifest.content, index, vit.device) for index in indices}
    known = {index: base for index in indices if (base := base_cache().get(keys[index])) is not None}
    new = [index for index in indices if index not in known]
    if new:
        made = base_pass(vit, torch.from_numpy(study.read("pixels", new)))
        prove(study, new, made.logits)
        for at, index in enumerate(new):
            # Of its own memory, and without the contexts, which pruning makes anew for its heads.
            resid, z = ([each[at : at + 1].clone() for each in layers] for layers in (made.resid, made.z))
            known[index] = Base(resid, [], z, made.logits[at : at + 1].clone())
            base_cache()[keys[index]] = known[index]
    bases = [known[index] for index in indices]
    if len(bases) == 1:
        return bases[0]
    resid, z = (
        [torch.cat(layer) for layer in zip(*layers, strict=True)]
        for layers in ([base.resid for base in bases], [base.z for base in bases])
    )
    return Base(resid, [], z, torch.cat([base.logits for base in bases]))


def prove(study: Study, indices: list[int], logits: torch.Tensor) -> None:
    """Refuse a model that no longer says what the study says of these images, equal weights or not.

    Raises:
        StudyModelError
    """
    if "logits" not in study:
        return
    known = study.read("logits", indices)
    difference = np.abs(logits.cpu().numpy() - known)
    finite = np.isfinite(difference)
    error = float(difference[finite].max(initial=0) / np.abs(known[finite]).max(initial=1e-30))
    if error > TOLERANCE:
        raise StudyModelError(
            f"the model with these very weights no longer gives what study {study.name} has: a logit differs by "
            f"{error:.1e} of the largest; the study was made with {_packages(study.manifest.packages)}: install "
            "these, or compute it anew"
        )


def _packages(packages: dict[str, str]) -> str:
    return ", ".join(f"{name} {packages[name]}" for name in ("torch", "timm") if name in packages)


def published(request: PruneRequest | ImageRequest, settings: Settings) -> Study:
    """The study, with the content that the request is about.

    Raises:
        MistakeError: It is gone, or was computed anew.
    """
    folder = paths.study_path(settings.studies, request.study)
    try:
        stamp = paths.manifest_path(folder).stat()
    except FileNotFoundError:
        raise MistakeError(f"study {request.study} is gone; open one that is there") from None
    key = (folder, stamp.st_ino, stamp.st_mtime_ns, stamp.st_size)
    study = _studies.get(key)
    if study is None:
        study = _studies[key] = open_published(folder)
    if study.manifest.content != request.content:
        raise MistakeError(f"study {request.study} was computed anew; open it again, and ask again")
    return study


def _indices(study: Study, images: Sequence[str]) -> list[int]:
    try:
        return [study.image_index(image) for image in images]
    except KeyError as error:
        raise MistakeError(error.args[0], "images") from None


def _refuse_heads(study: Study, heads: Sequence[tuple[int, int]]) -> None:
    layers, in_layer = study.sizes["layer"], study.sizes["head"]
    for layer, head in heads:
        if not (0 <= layer < layers and 0 <= head < in_layer):
            raise MistakeError(
                f"head ({layer}, {head}) is not in {study.attrs['model']['name']}, which has layers 0 to {layers - 1} "
                f"and heads 0 to {in_layer - 1}",
                "heads",
            )


def _likeliest(probability: Array) -> tuple[Array, Array]:
    """The likeliest classes and their probabilities, (…, rank)."""
    order = np.argsort(-probability, axis=-1, kind="stable")[..., :TOP]
    return order, np.take_along_axis(probability, order, -1)


def _rows(values: Array) -> list[Any]:
    return [[value if math.isfinite(value) else None for value in row] for row in values.tolist()]


def _pairs(classes: Array, probability: Array) -> list[Any]:
    """The likeliest classes of each image as [class, probability]; null where they are not known."""
    return [
        [[each, p] for each, p in zip(c, q, strict=True)] if np.isfinite(q).all() else None
        for c, q in zip(classes.tolist(), probability.tolist(), strict=True)
    ]
