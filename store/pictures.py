"""Whose are the private studies, until when, and what is left of those that are not wanted any more?

A private study is another study and one picture more, which one person dropped on the page. Its folder is called after
the upload of the picture, and its manifest says whose it is.
"""

import re
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from store.errors import StoreError
from store.manifest import Manifest

STUDY_NAME = re.compile(r"picture-[0-9a-f]{24}")
STAGING = ".pictures"  # below the folder of studies, on whose disk their files can be linked


@dataclass(frozen=True)
class Private:
    """What the manifest of a private study says of it.

    Attributes:
        owner: Who dropped the picture.
        of: Name of the study that it is beside the picture.
        image: Id of the picture.
        until: When it is removed, in seconds since 1970.
    """

    owner: str
    of: str
    image: str
    until: float


def study_name(upload_id: str) -> str:
    """Name of the private study of a picture."""
    return f"picture-{upload_id}"


def is_name(name: str) -> bool:
    """Whether a study of that name is a private one."""
    return STUDY_NAME.fullmatch(name) is not None


def mark(private: Private) -> dict[str, Any]:
    """What is to stand in the manifest of a private study, of its run."""
    return {"private": vars(private)}


def private(manifest: Manifest) -> Private | None:
    """Whose a study is; None if it is everybody's."""
    said = manifest.run.get("private") if is_name(manifest.study) else None
    return None if said is None else Private(**said)


def every(studies: Path, load: Callable[[Path], Manifest] = Manifest.load) -> dict[str, Private]:
    """The private studies by name, over or not; without those whose manifest cannot be read."""
    found = {}
    for folder in studies.glob("picture-*"):
        with suppress(StoreError):
            if is_name(folder.name) and (said := private(load(folder))) is not None:
                found[folder.name] = said
    return found


def staging(studies: Path, upload_id: str, fence: int) -> Path:
    """Where the private study of a picture is made, under the lease of that number."""
    return studies / STAGING / f"{upload_id}-{fence}"


def remove_staging(studies: Path, upload_id: str) -> None:
    """Remove what others left of a private study who did not come to the end."""
    for folder in (studies / STAGING).glob(f"{upload_id}-*"):
        shutil.rmtree(folder, ignore_errors=True)
