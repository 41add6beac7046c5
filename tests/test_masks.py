"""Which file is the mask of which picture, what in it is object, and what the model sees of that."""

from __future__ import annotations

import io
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import binary_dilation, binary_erosion

from precompute.preprocess import mask_seen_by, patch_share, seen_by
from tests.models import small_vit
from workers import decode as decoding
from workers import masks as module
from workers.decode import BadImageError, DecodedImage, scan
from workers.images import find_images
from workers.masks import MaskError, decode_mask, object_shares

DISC = np.hypot(*np.mgrid[-19:20, -14:15]) < 9  # 39 × 29 pixels


@pytest.fixture(scope="module")
def vit():
    """32 × 32 pixels, 4 × 4 patches; nothing is cropped of a picture of that size."""
    return uncropped("plain")


def uncropped(architecture):
    vit = small_vit(architecture)
    vit.preprocessing = vit.preprocessing | {"crop_pct": 1.0}
    return vit


def png(pixels, **options) -> bytes:
    data = io.BytesIO()
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(data, "PNG", **options)
    return data.getvalue()


def square(size=(32, 32)) -> np.ndarray:
    """(y, x): the object is the top left quarter."""
    mask = np.zeros(size, dtype=np.uint8)
    mask[: size[0] // 2, : size[1] // 2] = 255
    return mask


def write(folder: Path, name: str, data: bytes) -> Path:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)
    return folder / name


def pictures(folder: Path, *names: str, size=(32, 32)) -> list[DecodedImage]:
    """Grey pictures (y, x), kept by a scan."""
    for name in names:
        kind = "PNG" if name.lower().endswith("png") else "JPEG"
        data = io.BytesIO()
        Image.new("RGB", size[::-1], (90, 90, 90)).save(data, kind)
        write(folder, name, data.getvalue())
    return [kept for kept in scan(find_images(folder).entries) if isinstance(kept, DecodedImage)]


# ---- which file


def test_a_mask_lies_where_its_picture_does_and_ends_in_png(tmp_path, vit):
    kept = pictures(tmp_path / "images", "cat/a.JPEG", "cat/deep/b.c.jpg", "d.PNG", "e.png")
    for number, name in enumerate(("cat/a.png", "cat/deep/b.c.png", "d.PNG", "e.png")):
        mask = np.zeros((32, 32), dtype=np.uint8)
        mask[:8, : 2 * number + 2] = 255  # 2, 4, 6 and 8 of 8 columns of the first patch
        write(tmp_path / "masks", name, png(mask))
    shares, facts = object_shares(tmp_path / "masks", kept, vit)
    assert shares[:, 0].tolist() == [0.25, 0.5, 0.75, 1]
    assert shares.dtype == np.float32 and shares.shape == (4, 16) and not shares[:, 1:].any()
    assert (facts.found, facts.missing) == (4, 0)


def test_pictures_without_a_mask_have_nan_rows_and_are_counted(tmp_path, vit):
    kept = pictures(tmp_path / "images", "a.jpg", "b.jpg", "c.jpg")
    write(tmp_path / "masks", "b.png", png(square()))
    write(tmp_path / "masks", "of-no-picture.png", b"not looked at")
    seen: list[tuple[int, int]] = []
    shares, facts = object_shares(tmp_path / "masks", kept, vit, lambda *done: seen.append(done))
    assert np.isnan(shares).all(axis=1).tolist() == [True, False, True]
    assert (facts.found, facts.missing) == (1, 2)
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_the_fingerprint_is_of_the_masks_in_use(tmp_path, vit):
    kept = pictures(tmp_path / "images", "a.jpg", "b.jpg")
    first, second = png(square()), png(square().T * 0 + 255)
    for name, data in (("a.png", first), ("b.png", second)):
        write(tmp_path / "masks", name, data)

    def found(pictures):
        return object_shares(tmp_path / "masks", pictures, vit)[1].fingerprint

    lines = f"a.jpg\0{sha256(first).hexdigest()}\nb.jpg\0{sha256(second).hexdigest()}\n"
    assert found(kept) == found(kept[::-1]) == sha256(lines.encode()).hexdigest()
    write(tmp_path / "masks", "b.png", first)
    assert found(kept) != sha256(lines.encode()).hexdigest()


def test_a_folder_without_any_of_the_masks_is_refused(tmp_path, vit):
    kept = pictures(tmp_path / "images", "cat/a.jpg", "cat/b.jpg")
    with pytest.raises(MaskError, match=r"no folder .*masks; a folder of masks has the sub-folders"):
        object_shares(tmp_path / "masks", kept, vit)
    (tmp_path / "masks").mkdir()
    with pytest.raises(MaskError, match="no masks"):
        object_shares(tmp_path / "masks", kept, vit)
    write(tmp_path / "masks", "a.png", png(square()))
    with pytest.raises(MaskError, match=r"none of the 2 pictures .* looked for cat/a\.png as the mask of cat/a\.jpg"):
        object_shares(tmp_path / "masks", kept, vit)


def test_the_picture_is_not_taken_for_its_own_mask(tmp_path, vit):
    kept = pictures(tmp_path, "a.png")
    with pytest.raises(MaskError, match=r"a\.png is the picture itself"):
        object_shares(tmp_path, kept, vit)


def test_a_link_out_of_the_folder_is_not_followed(tmp_path, vit):
    kept = pictures(tmp_path / "images", "a.jpg")
    outside = write(tmp_path, "outside.png", png(square()))
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks" / "a.png").symlink_to(outside)
    with pytest.raises(MaskError, match=r"a\.png cannot be used: a symlink that leads out"):
        object_shares(tmp_path / "masks", kept, vit)


# ---- what is object


def palette(colours) -> Image.Image:
    picture = Image.fromarray(square() // 255 * 2, "P")
    picture.putpalette([0, 0, 0, 9, 9, 9, *colours])
    return picture


ALIKE = {
    "0 and 255": square(),
    "0 and 1": square() // 255,
    "one bit": Image.fromarray(square() > 0),
    "a class number": square() // 255 * 17,
    "16 bits, 0 and 1": square().astype(np.uint16) // 255,
    "palette": palette([0, 0, 128]),
    "colour": np.stack([square() * 0, square() // 255, square() * 0], axis=2),
    "grey and opaque": Image.fromarray(np.stack([square(), square() * 0 + 255], axis=2), "LA"),
}


@pytest.mark.parametrize("kind", ALIKE)
def test_whatever_is_not_black_is_object(kind):
    mask = decode_mask(png(ALIKE[kind]))
    assert mask.mode == "L"
    np.testing.assert_array_equal(np.asarray(mask), square())


def test_an_exif_orientation_of_the_mask_is_applied():
    exif = Image.Exif()
    exif[0x0112] = 6
    wide = square((8, 24))
    np.testing.assert_array_equal(np.asarray(decode_mask(png(wide, exif=exif))), np.rot90(wide, -1))


def test_transparent_parts_are_refused():
    see_through = Image.fromarray(np.stack([square() * 0, square()], axis=2), "LA")
    with pytest.raises(BadImageError, match="transparent"):
        decode_mask(png(see_through))
    with pytest.raises(BadImageError, match="transparent"):
        decode_mask(png(palette([0, 0, 128]), transparency=0))


# ---- masks that cannot be used


def test_a_bad_file_is_named_with_the_reason(tmp_path, vit, monkeypatch):
    kept = pictures(tmp_path / "images", "cat/a.jpg")
    whole = png(np.random.default_rng(0).integers(0, 256, (32, 32), dtype=np.uint8))
    jpeg = io.BytesIO()
    Image.fromarray(square()).save(jpeg, "JPEG")
    for data, reason in (
        (b"", "zero bytes"),
        (b"hello", "not a PNG"),
        (jpeg.getvalue(), "not a PNG"),
        (whole[: len(whole) // 2], "truncated"),
        (whole[:8], "damaged or truncated PNG"),
    ):
        write(tmp_path / "masks", "cat/a.png", data)
        with pytest.raises(MaskError, match=rf"mask .*cat/a\.png cannot be used: {reason}"):
            object_shares(tmp_path / "masks", kept, vit)
    write(tmp_path / "masks", "cat/a.png", whole)
    monkeypatch.setattr(decoding, "MAX_MEGAPIXELS", 0.001)
    with pytest.raises(MaskError, match=r"a\.png cannot be used: 0 megapixels; the limit"):
        object_shares(tmp_path / "masks", kept, vit)
    monkeypatch.setattr(module, "MAX_BYTES", len(whole) - 1)
    with pytest.raises(MaskError, match=r"a\.png has .* the limit is"):
        object_shares(tmp_path / "masks", kept, vit)


def test_a_mask_of_another_size_is_refused_with_both_sizes(tmp_path, vit):
    kept = pictures(tmp_path / "images", "a.jpg", size=(24, 32))
    write(tmp_path / "masks", "a.png", png(square((12, 16))))
    with pytest.raises(MaskError, match=r"a\.png is 16×12 pixels, but its picture a\.jpg is 32×24; give one of that"):
        object_shares(tmp_path / "masks", kept, vit)


def test_a_mask_of_the_picture_before_it_was_turned_is_refused_saying_so(tmp_path, vit):
    exif = Image.Exif()
    exif[0x0112] = 6
    write(tmp_path / "images", "a.png", png(square((24, 32)), exif=exif))
    kept = [k for k in scan(find_images(tmp_path / "images").entries) if isinstance(k, DecodedImage)]
    write(tmp_path / "masks", "a.png", png(square((24, 32))))
    with pytest.raises(MaskError, match=r"is 32×24 .* is 24×32 once turned upright as its EXIF says"):
        object_shares(tmp_path / "masks", kept, vit)
    write(tmp_path / "masks", "a.png", png(np.rot90(square((24, 32)), -1).copy()))
    assert object_shares(tmp_path / "masks", kept, vit)[1].found == 1


# ---- what the model sees


GEOMETRIES = [
    ("plain", {"crop_pct": 0.9, "crop_mode": "center"}),
    ("plain", {"crop_pct": 0.9, "crop_mode": "squash"}),
    ("plain", {"crop_pct": 1.0, "crop_mode": "border"}),
    ("rectangular", {"crop_pct": 0.9, "crop_mode": "center"}),
    ("rectangular", {"crop_pct": 0.8, "crop_mode": "border", "interpolation": "bilinear"}),
]


@pytest.mark.parametrize(("architecture", "geometry"), GEOMETRIES)
@pytest.mark.parametrize("enlarged", [1, 3, 8])
def test_a_mask_is_cut_as_its_picture_is(architecture, geometry, enlarged):
    vit = small_vit(architecture)
    vit.preprocessing = vit.preprocessing | geometry
    mask = np.kron(DISC, np.ones((enlarged, enlarged))) > 0
    picture = Image.fromarray(mask).convert("RGB")  # the object is white, all else black
    seen, wanted = mask_seen_by(vit)(picture), seen_by(vit)(picture)[..., 2] > 127
    assert seen.shape == vit.input_size
    edge = binary_dilation(wanted) ^ binary_erosion(wanted, border_value=1)
    assert 0 < wanted.mean() < 1 and not (seen ^ wanted)[~edge].any()
    # No shift either: the same centre within a fifth of a pixel, and the same size within the edge's rounding.
    np.testing.assert_allclose(np.argwhere(seen).mean(axis=0), np.argwhere(wanted).mean(axis=0), atol=0.2)
    assert abs(int(seen.sum()) - int(wanted.sum())) < 0.15 * edge.sum()


def test_a_border_that_timm_pads_with_is_background():
    vit = small_vit("plain")
    vit.preprocessing = vit.preprocessing | {"crop_pct": 1.0, "crop_mode": "border"}
    white = Image.new("L", (32, 16), 255)
    seen = mask_seen_by(vit)(white)
    assert seen[8:24].all() and not seen[:8].any() and not seen[24:].any()
    assert seen_by(vit)(white.convert("RGB"))[0, 0].all(), "the picture's border is not black"


def test_an_object_outside_the_crop_is_not_seen(tmp_path, vit):
    kept = pictures(tmp_path / "images", "a.jpg", size=(32, 64))
    mask = np.zeros((32, 64), dtype=np.uint8)
    mask[:, :16] = 255
    write(tmp_path / "masks", "a.png", png(mask))
    assert not object_shares(tmp_path / "masks", kept, vit)[0].any()


def test_shares_are_of_each_patch_row_by_row(tmp_path):
    vit = uncropped("rectangular")  # 24 × 40 pixels, 3 × 5 patches
    rng = np.random.default_rng(0)
    mask = rng.random((24, 40)) < 0.4
    kept = pictures(tmp_path / "images", "a.jpg", size=mask.shape)
    write(tmp_path / "masks", "a.png", png(mask))
    shares = object_shares(tmp_path / "masks", kept, vit)[0][0]
    by_hand = [mask[8 * y : 8 * y + 8, 8 * x : 8 * x + 8].sum() / 64 for y in range(3) for x in range(5)]
    assert shares.tolist() == by_hand


def test_pixels_that_fill_no_patch_do_not_count():
    mask = np.zeros((20, 27), dtype=bool)
    mask[16:], mask[:, 24:] = True, True
    mask[:8, :4] = True
    vit = SimpleNamespace(grid=(2, 3), patch_size=(8, 8))
    assert patch_share(mask, vit).tolist() == [0.5, 0, 0, 0, 0, 0]
