"""What do the heads do on a picture that a person dropped? All that is known of an image of a study, for one more.

It becomes a private study: the published one and the picture, after its last image. What is computed of it comes from
the functions that computed the study; its places are found in the study's layouts, which stay as they are.
"""

import shutil
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch

from jobs import uploads
from jobs.requests import ImageRequest, from_json
from jobs.uploads import Upload
from jobs.work import CancelledError, Lease
from precompute import analysis, autoencoder, pattern_names
from precompute.base import base_pass
from precompute.layout import place
from precompute.model import ViT
from precompute.preprocess import seen_by, thumbnail, thumbnail_size
from precompute.reduction import pooled, principal_axes
from store import paths, pictures
from store.append import Appended
from store.errors import DamagedError, StudyNotFoundError
from store.manifest import Manifest
from store.schema import SCHEMA
from store.study import Study
from workers import decode
from workers.decode import Quarantined
from workers.derived import prove, published
from workers.images import Entry, fingerprint
from workers.kept import device
from workers.prepare import versions
from workers.runner import MistakeError, Work
from workers.stages import CLS_COMPONENTS, POOLED_COMPONENTS
from workers.study import where_nonfinite
from workers.study_model import StudyModelError, kept_model_of

Arrays = dict[str, np.ndarray]

STEPS = ("picture", "model", "heads", "patterns", "places", "study")

OF_MASKS = ("object", "object_auc", "cls_object_auc")  # nobody has drawn one of the picture

# Heads of images among which a map's points are placed; of more, those of some images drawn by the study's seed. Masks
# are read for it, and 2,500 numbers a head go into the axes: of so few that takes seconds.
AMONG = {"cls": 50_000, "patch": 200_000, "pooled": 10_000}


def do(lease: Lease, work: Work) -> None:
    """The one unit of a picture."""
    request = from_json(lease.kind, lease.request)
    assert isinstance(request, ImageRequest)
    made = paths.study_path(work.settings.studies, pictures.study_name(request.upload))
    upload = uploads.find(work.settings.pictures, request.upload)
    try:
        image = _image_of(made)
        if image is None:
            if upload is None:
                raise MistakeError(f"the picture {request.name} was removed; send it again")
            image = _compute(request, upload, lease.fence, work)
        work.finish(result={"study": made.name, "image": image})
    except (MistakeError, CancelledError):
        if upload is not None:
            uploads.remove(upload)
        raise
    if upload is not None:
        uploads.remove(upload)


def _image_of(made: Path) -> str | None:
    """Id of the picture, if its study is published: by a process that died since."""
    try:
        said = pictures.private(Manifest.load(made))
    except StudyNotFoundError:
        return None
    return None if said is None else said.image


def _compute(request: ImageRequest, upload: Upload, fence: int, work: Work) -> str:
    """Compute and publish the private study of a picture; its id there.

    Raises:
        MistakeError: The file is no picture, the study was computed anew, or its model is not here.
    """
    studies = work.settings.studies
    pictures.remove_staging(studies, upload.id)
    folder = pictures.staging(studies, upload.id, fence)

    def step(name: str) -> None:
        work.check()
        work.progress(STEPS.index(name), len(STEPS), name)

    step("picture")
    parent = published(request, work.settings)
    image = _free(PurePosixPath(upload.name.replace("\\", "/")).name or "picture", parent)
    read = decode.decode_apart(Entry(image, upload.archive, None))
    if isinstance(read, Quarantined):
        raise MistakeError(f"{image} cannot be used: {read.reason}")
    kept, picture = read
    step("model")
    try:
        vit = kept_model_of(parent, work.settings, device())
        with analysis.exact_float32():
            prove(parent, [0], base_pass(vit, torch.from_numpy(parent.read("pixels", [0]))).logits)
    except StudyModelError as error:
        raise MistakeError(str(error)) from error
    try:
        began = time.perf_counter()
        made = Appended(parent, folder, work.check)
        step("heads")
        arrays = of_model(vit, seen_by(vit)(picture), keep_attention="attention" in parent, check=work.check)
        arrays |= _told(image, kept.sha256)
        made.write(_wanted(parent, arrays))
        step("patterns")
        more = of_patterns(made.so_far(parent.attrs), parent, vit.device, work.check)
        made.write(_wanted(parent, more))
        step("places")
        places = of_places(parent, arrays | more, work.check)
        made.write(_wanted(parent, places))
        step("study")
        run = {
            "headscope": version("headscope"),
            "packages": versions(),
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": {"heads": round(time.perf_counter() - began, 3)},
            "device": vit.device.type,
        }
        until = time.time() + 3600 * work.settings.picture_hours
        run |= pictures.mark(pictures.Private(upload.owner, parent.name, image, until))
        if "checkpoint" in parent.manifest.run:  # where pruning on demand looks for the weights
            run["checkpoint"] = parent.manifest.run["checkpoint"]
        target = paths.study_path(studies, pictures.study_name(upload.id))
        made.publish(target, _attrs(parent, image, kept.sha256, arrays | more), run, work.hold)
    except DamagedError as error:
        published(request, work.settings)  # it may be gone, or another by now
        raise MistakeError(f"study {parent.name} is damaged: {error}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return image


def _free(name: str, study: Study) -> str:
    """An id for the picture that no image of the study has."""
    path, number = PurePosixPath(name), 2
    while name in study.image_ids:
        name, number = f"{path.stem} ({number}){path.suffix}", number + 1
    return name


def _told(image: str, sha256: str) -> Arrays:
    """The arrays that need no computing: nobody knows the picture's class."""
    words = {"image": image, "image_sha256": sha256}
    return {name: np.array([word], dtype=object) for name, word in words.items()} | {"label": np.full(1, -1, np.int32)}


def _wanted(study: Study, arrays: Arrays) -> Arrays:
    """Those of images that the study has too."""
    return {name: array for name, array in arrays.items() if name in study and SCHEMA[name].image_axis is not None}


def of_model(vit: ViT, pixels: np.ndarray, *, keep_attention: bool, check: Callable[[], None]) -> Arrays:
    """All that a unit of a study computes, of one image, by name.

    Args:
        pixels: What the model sees, uint8 (y, x, rgb).
    """
    label = np.full(1, -1, np.int32)
    batch = analysis.batch_for(vit)
    arrays, _ = analysis.analysis(vit, pixels[None], label, batch, keep_attention=keep_attention, check=check)
    return arrays | {"pixels": pixels[None], "thumbnail": thumbnail(pixels, thumbnail_size(vit))[None]}


def of_patterns(study: Study, parent: Study, where: torch.device, check: Callable[[], None]) -> Arrays:
    """Names and latents of the attention of the study's last image; nothing of what `parent` has not.

    No mask says where its object is, so of objects it has NaN.

    Args:
        study: The parent and the image, as far as that is written.
    """
    image, layers, heads = study.sizes["image"] - 1, study.sizes["layer"], study.sizes["head"]
    model = study.attrs["model"]
    grid, prefix = tuple(model["grid"]), model["num_prefix_tokens"]
    patches = grid[0] * grid[1]
    arrays: Arrays = {
        name: np.full([1, *parent[name].shape[1:]], np.nan, np.float32) for name in OF_MASKS if name in parent
    }
    if "patch_latent" in parent:
        packed = study.read("patch_mask", image).reshape(layers * heads, -1)
        found = autoencoder.encode(parent.read("autoencoder"), packed, patches, where)
        arrays["patch_latent"] = found.reshape(1, layers, heads, -1)
    if "pattern_score" not in parent:
        return arrays
    scores, cls_scores = [], []
    for layer in range(layers):
        check()
        attn = torch.from_numpy(study.layer_attention(image, layer))
        scores.append(pattern_names.patch_scores(attn[..., prefix:, prefix:], grid))
        if model["has_cls"]:
            cls_scores.append(pattern_names.cls_scores(attn, prefix))
    for kind, each in (("pattern", scores), ("cls_pattern", cls_scores)):
        if each:
            score = torch.stack(each)[None]
            arrays |= {f"{kind}_score": score.numpy(), f"{kind}_name": pattern_names.names(score).numpy()}
    return arrays


def of_places(parent: Study, arrays: Arrays, check: Callable[[], None]) -> Arrays:
    """Where the image is among the study's images, and its heads in the study's maps: as `arrays` has them."""
    layers, heads = parent.sizes["layer"], parent.sizes["head"]
    placed = []
    for number, vector in enumerate(parent.vectors):
        check()
        if vector == "pruned_probability":
            known, new = parent.read(vector), arrays[vector]
        else:
            metric = parent.metric_index(vector)
            known, new = parent.read("importance", metric), arrays["importance"][metric]
        method = parent.attrs["layouts"][vector]["method"]
        xy = parent.read("image_layout", number)
        placed.append(place(known.reshape(len(known), -1), xy, new.reshape(1, -1), method, check=check))
    found = {"image_layout": np.stack(placed)}
    for name, points in (("cls", _cls_points), ("patch", _latents), ("pooled", _pooled_points)):
        if f"{name}_layout" in parent:
            check()
            images = _drawn(parent, AMONG[name])
            known, new = points(parent, images, arrays)
            xy = parent.read(f"{name}_layout", images).reshape(-1, 2)
            method = parent.attrs["maps"][name]["method"]
            found[f"{name}_layout"] = place(known, xy, new, method, check=check).reshape(1, layers, heads, 2)
    return found


def _drawn(study: Study, most: int) -> list[int]:
    """Images of which no more than so many heads are looked at, ascending; all, if these are no more."""
    images = study.sizes["image"]
    wanted = max(1, most // (study.sizes["layer"] * study.sizes["head"]))
    if images <= wanted:
        return list(range(images))
    rng = np.random.default_rng(study.attrs["settings"]["seed"])
    return sorted(rng.choice(images, wanted, replace=False).tolist())


def _heads(array: np.ndarray) -> np.ndarray:
    """Something of (image, layer, head), head by head of each image."""
    return array.reshape(-1, *array.shape[3:])


def _cls_points(study: Study, images: list[int], arrays: Arrays) -> tuple[np.ndarray, np.ndarray]:
    """What the CLS map is laid out by: the first axes of the study's heads, and the picture's heads on them."""
    known = _heads(study.read("cls_vector", images))
    axes = principal_axes([known], CLS_COMPONENTS)
    return axes.project(known), axes.project(_heads(arrays["cls_vector"]))


def _latents(study: Study, images: list[int], arrays: Arrays) -> tuple[np.ndarray, np.ndarray]:
    """As `_cls_points`, of the map of patches."""
    return _heads(study.read("patch_latent", images)), _heads(arrays["patch_latent"])


def _pooled_points(study: Study, images: list[int], arrays: Arrays) -> tuple[np.ndarray, np.ndarray]:
    """As `_cls_points`, of the map without an autoencoder."""
    rows, columns = study.attrs["model"]["grid"]
    known = pooled(_heads(study.read("patch_mask", images)), rows * columns)
    axes = principal_axes([known], POOLED_COMPONENTS)
    return axes.project(known), axes.project(pooled(_heads(arrays["patch_mask"]), rows * columns))


def _attrs(parent: Study, image: str, sha256: str, arrays: Arrays) -> dict[str, Any]:
    """The root attributes: the study's, and one image more. What was told of all its images is told of those."""
    attrs = {key: value for key, value in parent.attrs.items() if key != "headscope"}
    told, bad = attrs["images"], attrs["nonfinite"]
    shas = [str(each) for each in parent.read("image_sha256")]
    attrs["images"] = told | {
        "found": told["found"] + 1,
        "kept": told["kept"] + 1,
        "fingerprint": fingerprint(zip([*parent.image_ids, image], [*shas, sha256], strict=True)),
    }
    number = parent.sizes["image"]
    known = {name: array for name, array in arrays.items() if name not in OF_MASKS}
    if found := where_nonfinite(known, range(number, number + 1)):
        values = {name: bad["values"].get(name, 0) + (name in found) for name in {**bad["values"], **found}}
        attrs["nonfinite"] = {"images": [*bad["images"], number], "values": dict(sorted(values.items()))}
    return attrs
