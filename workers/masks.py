"""Where is the object? A folder of masks that mirrors the pictures' folder, seen as the model sees the pictures.

The mask of `dog/12.jpg` is `dog/12.png`. Black is background and anything else is object, whichever colour or class it
stands for: 0/1, 0/255, label and palette masks all read alike. A wrong mask is an error, never a quiet NaN: it would
make every figure of the object wrong, and it can be mended before anything is computed.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from precompute.model import ViT
from precompute.preprocess import mask_seen_by, patch_share
from workers.decode import MAX_BYTES, BadImageError, DecodedImage, decode_as
from workers.images import Entry, ImageSourceError, find_images, fingerprint

PNG = b"\x89PNG\r\n\x1a\n"


class MaskError(ValueError):
    """A folder of masks, or one mask in it, that does not fit the pictures."""


@dataclass(frozen=True)
class Masks:
    """What was found in a folder of masks."""

    found: int  # pictures with a mask
    missing: int  # pictures without one
    fingerprint: str  # SHA-256 over the masks' pictures and bytes


def object_shares(
    folder: Path, kept: Sequence[DecodedImage], vit: ViT, progress: Callable[[int, int], None] | None = None
) -> tuple[np.ndarray, Masks]:
    """Share of each patch that the object covers, float32 (image, patch), 0 to 1; NaN rows for pictures without a mask.

    Args:
        folder: The masks. The mask of a picture has its id with the suffix .png; the picture's own .PNG will do too.
        kept: The pictures, in the order of the result.
        progress: Called with (pictures done, pictures in all) after each.
    Raises:
        MaskError: There is no such folder, no picture has a mask in it, or a mask cannot be read or differs from its
            picture in size; the message names the file.
    """
    entries = _entries(folder)
    see = mask_seen_by(vit)
    shares = np.full((len(kept), vit.num_patches), np.nan, dtype=np.float32)
    contents: list[tuple[str, str]] = []
    for at, picture in enumerate(kept):
        entry = next((entries[name] for name in _names(picture.id) if name in entries), None)
        if entry is not None:
            data = _bytes(entry, picture)
            shares[at] = patch_share(see(_mask(data, entry, picture)), vit)
            contents.append((picture.id, hashlib.sha256(data).hexdigest()))
        if progress:
            progress(at + 1, len(kept))
    if not contents:
        raise MaskError(
            f"none of the {len(kept)} pictures has a mask in {folder}: looked for {_names(kept[0].id)[0]} as the mask "
            f"of {kept[0].id}, and so on; {LAYOUT}"
        )
    return shares, Masks(len(contents), len(kept) - len(contents), fingerprint(contents))


def decode_mask(data: bytes) -> Image.Image:
    """The mask in the PNG `data`, upright: mode L, 255 where it is not black.

    Raises:
        BadImageError: `data` is no whole PNG within the limits of `decode`, or parts of it are transparent.
    """
    if data and not data.startswith(PNG):
        raise BadImageError("not a PNG; save it as PNG, as other formats may blur the edges and the black")
    return decode_as(data, _not_black)


LAYOUT = "a folder of masks has the sub-folders and names of the pictures' folder, each name ending in .png"


def _entries(folder: Path) -> dict[str, Entry]:
    """The files that may be masks, by path relative to the folder."""
    if not folder.is_dir():
        raise MaskError(f"there is no folder {folder}; {LAYOUT}")
    try:
        return {entry.id: entry for entry in find_images(folder).entries}
    except ImageSourceError as error:
        raise MaskError(f"there are no masks: {error}") from None


def _names(picture: str) -> list[str]:
    """Where the mask of a picture may lie, relative to the folder, the likeliest first."""
    path = PurePosixPath(picture)
    own = [picture] if path.suffix.lower() == ".png" else []
    return list(dict.fromkeys([path.with_suffix(".png").as_posix(), *own]))


def _bytes(entry: Entry, picture: DecodedImage) -> bytes:
    if entry.refused:
        raise MaskError(f"mask {entry.path} cannot be used: {entry.refused}")
    try:
        if entry.path.samefile(picture.path):
            raise MaskError(f"mask {entry.path} is the picture itself; give a folder with masks only")
        if (size := entry.path.stat().st_size) > MAX_BYTES:
            raise MaskError(f"mask {entry.path} has {size / 1e9:.1f} GB; the limit is {MAX_BYTES / 1e9:.1f}")
        return entry.path.read_bytes()
    except OSError as error:
        raise MaskError(f"mask {entry.path} cannot be read: {error.strerror or error}") from error


def _mask(data: bytes, entry: Entry, picture: DecodedImage) -> Image.Image:
    """The mask in `data`, of the picture's size."""
    try:
        mask = decode_mask(data)
    except BadImageError as error:
        raise MaskError(f"mask {entry.path} cannot be used: {error}; mend it, or take it out of the folder") from error
    if mask.size != (picture.width, picture.height):
        turned = mask.size == (picture.height, picture.width)
        raise MaskError(
            f"mask {entry.path} is {mask.width}×{mask.height} pixels, but its picture {picture.id} is "
            f"{picture.width}×{picture.height}"
            + (" once turned upright as its EXIF says; turn the mask alike" if turned else "; give one of that size")
        )
    return mask


def _not_black(picture: Image.Image) -> Image.Image:
    if picture.has_transparency_data and picture.convert("RGBA").getchannel("A").getextrema() != (255, 255):
        raise BadImageError("parts of it are transparent, which says neither object nor background; save it without")
    # Pillow clips 16-bit grey here and does not scale it, so a class of 1 stays other than black.
    return Image.fromarray(np.asarray(picture.convert("RGB")).any(axis=2).astype(np.uint8) * 255)
