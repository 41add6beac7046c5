"""Which studies are measured? Small ones that the pipeline itself makes: of real photos, and of noise."""

import os
import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from jobs.requests import StudyRequest
from store.settings import Settings
from store.study import Study, open_published
from workers.prepare import prepare
from workers.study import run

# A folder with weights/deit_tiny_patch16_224.safetensors and images/imagenet/<WordNet id>/<photo>.
VARIABLE = "HEADSCOPE_REAL"
DEIT_TINY = "deit_tiny_patch16_224"
# As ViT-B/16, and without a classifier, so that no forward pass behind a pruned head is paid for.
VIT_B = "vit_base_patch16_224.dino"
PHOTOS = 16
SKIP = frozenset({"patterns"})  # not what is measured here


def real_folder() -> Path | None:
    """The folder of real material, if the environment names one."""
    named = os.environ.get(VARIABLE)
    return Path(named) if named else None


def real_photos(folder: Path, count: int) -> list[Path]:
    """The first `count` photos, in order of their classes."""
    return sorted((folder / "images" / "imagenet").rglob("*.JPEG"))[:count]


def photo_study(folder: Path, photos: Iterable[Path], attention: str, data: Path) -> Study:
    """A study of DeiT-tiny, trained, on some photos; `attention` stored or rebuilt."""
    return _computed(photo_request(folder, photos, attention, data), data)


def photo_request(folder: Path, photos: Iterable[Path], attention: str, data: Path) -> StudyRequest:
    """What asks for `photo_study`, without names and maps; the photos are copied into the data folder."""
    pictures = data / "photos"
    for photo in photos:
        (pictures / photo.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(photo, pictures / photo.parent.name)
    checkpoint = folder / "weights" / f"{DEIT_TINY}.safetensors"
    request = StudyRequest(DEIT_TINY, pictures, attention, checkpoint, attention=attention, device="cpu", skip=SKIP)
    return replace(request, classes=Path("imagenet-1k"))  # the labels are WordNet ids


def noise_study(images: int, attention: str, data: Path) -> Study:
    """A study of ViT-B, untrained, on noise: for times and sizes that do not depend on what is seen."""
    pictures = data / "noise"
    pictures.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for number in range(images):
        Image.fromarray(rng.integers(0, 256, (224, 224, 3), np.uint8)).save(pictures / f"{number}.png")
    return _computed(
        StudyRequest(VIT_B, pictures, attention, random_weights=True, attention=attention, device="cpu", skip=SKIP),
        data,
    )


def _computed(request: StudyRequest, data: Path) -> Study:
    prepared = prepare(request, Settings(data=data), lambda *step: None)
    run(prepared, lambda *step: None, lambda price: None, lambda: None)
    return open_published(prepared.study)
