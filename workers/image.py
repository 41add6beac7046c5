"""What do the heads do on a picture that a person dropped? All that is known of an image of a study, for one more.

It becomes a private study: the published one and the picture, after its last image. What is computed of it comes from
the functions that computed the study; its places are found in the study's layouts, which stay as they are.
"""

import shutil
import time
from collections.abc import Callable
from dataclasses import replace
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
from precompute import analysis
from precompute.base import base_pass
from precompute.model import ViT
from precompute.preprocess import seen_by
from precompute.unit import Unit
from store import paths, pictures
from store.append import Appended
from store.errors import DamagedError, StudyNotFoundError
from store.manifest import Manifest
from store.schema import SCHEMA
from store.study import Study
from workers import decode
from workers.after import after, rows_of_one_more
from workers.cache import device
from workers.decode import Quarantined
from workers.derived import prove, published
from workers.images import Entry, fingerprint
from workers.prepare import versions
from workers.runner import MistakeError, Work
from workers.study import where_nonfinite
from workers.study_model import StudyModelError, cached_model_of

Arrays = dict[str, np.ndarray]

STEPS = ("picture", "model", "heads", "analyses", "study")


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
        vit = cached_model_of(parent, work.settings, device())
        with analysis.exact_float32():
            prove(parent, [0], base_pass(vit, torch.from_numpy(parent.read("pixels", [0]))).logits)
    except StudyModelError as error:
        raise MistakeError(str(error)) from error
    try:
        began = time.perf_counter()
        made = Appended(parent, folder, work.check)
        step("heads")
        pixels, nobody_knows = seen_by(vit)(picture)[None], np.full(1, -1, np.int32)
        arrays, _ = analysis.of_images(
            vit, pixels, nobody_knows, analysis.batch_for(vit), parent.arrays, check=work.check
        )
        arrays |= _inputs(image, kept.sha256)
        made.write(_wanted(parent, arrays))
        step("analyses")
        arrays = of_analyses(made, parent, vit, arrays, work.check)
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
        made.publish(target, _attrs(parent, image, kept.sha256, arrays), run, work.hold)
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


def _inputs(image: str, sha256: str) -> Arrays:
    """The arrays that need no computing: nobody knows the picture's class."""
    words = {"image": image, "image_sha256": sha256}
    return {name: np.array([word], dtype=object) for name, word in words.items()} | {"label": np.full(1, -1, np.int32)}


def _wanted(study: Study, arrays: Arrays) -> Arrays:
    """Those of images that the study has too."""
    return {name: array for name, array in arrays.items() if name in study and SCHEMA[name].image_axis is not None}


def of_analyses(made: Appended, parent: Study, vit: ViT, arrays: Arrays, check: Callable[[], None]) -> Arrays:
    """The image's part of what is computed once all images are, as far as the study has it, written as it comes.

    No mask says where its object is, so of objects it has NaN.

    Args:
        arrays: What is known of the image.
    """
    seed, found = parent.attrs["settings"]["seed"], dict(arrays)
    layers = range(parent.sizes["layer"])
    whole = Unit(parent, range(parent.sizes["image"]), layers, seed, vit.device, lambda: vit, check=check)
    for each in after():
        wanted = [name for name in each.arrays if name in parent and SCHEMA[name].image_axis is not None]
        if not wanted:
            continue
        check()
        one = replace(whole, study=made.so_far(parent.attrs), images=range(len(whole.images), len(whole.images) + 1))
        rows = rows_of_one_more(each, wanted, whole, one, found, made.shape_of_one)
        made.write(rows)
        found |= rows
    return found


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
    of_model = {name: array for name, array in arrays.items() if SCHEMA[name].written in ("unit", "gathered")}
    if found := where_nonfinite(of_model, range(number, number + 1)):
        values = {name: bad["values"].get(name, 0) + (name in found) for name in {**bad["values"], **found}}
        attrs["nonfinite"] = {"images": [*bad["images"], number], "values": dict(sorted(values.items()))}
    return attrs
