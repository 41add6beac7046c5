"""What pixels every kind of file has, what is said of a file that is none, and what one bad file costs.

Every file is made here. Expected values are the rules of docs/images.md, worked out in NumPy or by hand.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import struct
import subprocess
import sys
import time
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from threadpoolctl import threadpool_info

from workers import decode as decoding
from workers.decode import (
    BadImageError,
    DecodedImage,
    DecoderStartError,
    Examined,
    ImageChangedError,
    Quarantined,
    decode,
    load,
    scan,
)
from workers.images import Entry, find_images

ROOT = Path(__file__).parent.parent
NOISE = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)  # (y, x, rgb)


def encoded(picture: Image.Image | np.ndarray, kind: str, **options) -> bytes:
    data = io.BytesIO()
    (Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture).save(data, kind, **options)
    return data.getvalue()


def pixels(data: bytes) -> np.ndarray:
    picture = decode(data)
    assert picture.mode == "RGB" and picture.info == {}
    return np.asarray(picture)


def grey(values) -> np.ndarray:
    """`values`, (y, x), as (y, x, rgb)."""
    return np.repeat(np.asarray(values, dtype=np.uint8)[..., None], 3, axis=2)


def over_grey(colour, alpha) -> np.ndarray:
    """`colour`, (…, rgb), at opacity alpha / 255 over 128, rounded."""
    opacity = np.asarray(alpha, dtype=np.float64)[..., None] / 255
    return np.rint(np.asarray(colour) * opacity + 128 * (1 - opacity)).astype(np.uint8)


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, depth: int, colour: int, rows: bytes, extra: bytes = b"") -> bytes:
    """A PNG from raw rows (each with a filter byte 0 in front); colour 0 is grey, 2 RGB, 4 grey + alpha."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


# ---- formats and modes


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "WEBP"])
def test_lossless_rgb_is_pixel_equal(kind):
    options = {"lossless": True} if kind == "WEBP" else {}
    np.testing.assert_array_equal(pixels(encoded(NOISE, kind, **options)), NOISE)


def test_jpeg_is_what_pillow_decodes():
    smooth = np.tile(np.arange(64, dtype=np.uint8)[:, None, None], (1, 48, 3))
    for options in ({}, {"progressive": True}):
        data = encoded(smooth, "JPEG", quality=95, **options)
        np.testing.assert_array_equal(pixels(data), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))
        assert np.abs(pixels(data).astype(int) - smooth).max() <= 2


def test_grey_and_one_bit_fill_all_channels():
    values = NOISE[..., 0]
    for kind in ("PNG", "BMP", "TIFF", "GIF"):
        np.testing.assert_array_equal(pixels(encoded(values, kind)), grey(values))
    bits = values > 127
    for kind in ("PNG", "BMP", "TIFF"):
        np.testing.assert_array_equal(pixels(encoded(Image.fromarray(bits), kind)), grey(bits * 255))


def test_two_and_four_bit_grey_reach_white():
    np.testing.assert_array_equal(pixels(png(4, 1, 2, 0, b"\0\x1b")), grey([[0, 85, 170, 255]]))
    np.testing.assert_array_equal(pixels(png(2, 1, 4, 0, b"\0\x0f")), grey([[0, 255]]))


def test_a_palette_is_looked_up():
    picture = Image.fromarray(np.array([[0, 1], [2, 1]], dtype=np.uint8), "L").convert("P")
    picture.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    wanted = [[[10, 20, 30], [40, 50, 60]], [[70, 80, 90], [40, 50, 60]]]
    for kind in ("PNG", "GIF", "BMP", "TIFF"):
        np.testing.assert_array_equal(pixels(encoded(picture, kind)), wanted)


def test_transparent_palette_entries_lie_over_grey():
    picture = Image.fromarray(np.array([[0, 1, 2]], dtype=np.uint8), "L").convert("P")
    picture.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    one = [[[10, 20, 30], [128, 128, 128], [70, 80, 90]]]
    np.testing.assert_array_equal(pixels(encoded(picture, "PNG", transparency=1)), one)
    np.testing.assert_array_equal(pixels(encoded(picture, "GIF", transparency=1)), one)
    graded = over_grey([[[10, 20, 30], [40, 50, 60], [70, 80, 90]]], [[255, 100, 0]])
    np.testing.assert_array_equal(pixels(encoded(picture, "PNG", transparency=bytes([255, 100, 0]))), graded)


def test_alpha_lies_over_grey_to_the_last_level():
    colour = np.broadcast_to(np.arange(256, dtype=np.uint8)[:, None, None], (256, 256, 3))
    alpha = np.broadcast_to(np.arange(256, dtype=np.uint8)[None, :], (256, 256))
    rgba = np.dstack([colour, alpha])
    wanted = over_grey(colour, alpha)
    for kind in ("PNG", "TIFF"):
        np.testing.assert_array_equal(pixels(encoded(rgba, kind)), wanted)
    grey_alpha = Image.merge("LA", [Image.fromarray(colour[..., 0].copy()), Image.fromarray(alpha.copy())])
    np.testing.assert_array_equal(pixels(encoded(grey_alpha, "PNG")), wanted)
    assert pixels(encoded(rgba, "PNG"))[200, 0].tolist() == [128, 128, 128]
    assert pixels(encoded(rgba, "PNG"))[200, 255].tolist() == [200, 200, 200]


def test_webp_alpha_lies_over_grey():
    rgba = np.dstack([NOISE, np.array([0, 255, 255, 0, 255, 0, 255], dtype=np.uint8)[None].repeat(5, axis=0)])
    wanted = over_grey(rgba[..., :3], rgba[..., 3])
    np.testing.assert_array_equal(pixels(encoded(rgba, "WEBP", lossless=True)), wanted)


def test_a_transparent_colour_of_a_png_lies_over_grey():
    rgb = png(2, 1, 8, 2, bytes([0, 1, 2, 3, 4, 5, 6]), chunk(b"tRNS", struct.pack(">3H", 1, 2, 3)))
    np.testing.assert_array_equal(pixels(rgb), [[[128, 128, 128], [4, 5, 6]]])
    level = png(2, 1, 8, 0, bytes([0, 10, 20]), chunk(b"tRNS", struct.pack(">H", 10)))
    np.testing.assert_array_equal(pixels(level), grey([[128, 20]]))
    deep = png(2, 1, 16, 0, b"\0" + struct.pack(">2H", 1000, 65535), chunk(b"tRNS", struct.pack(">H", 1000)))
    np.testing.assert_array_equal(pixels(deep), grey([[128, 255]]))


def test_cmyk_is_converted_plainly_and_jpeg_cmyk_is_read_as_inverted():
    corners = np.array([[[0, 0, 0, 0], [255, 0, 0, 0], [0, 255, 0, 0], [0, 0, 255, 0], [0, 0, 0, 255]]], dtype=np.uint8)
    wanted = [[[255, 255, 255], [0, 255, 255], [255, 0, 255], [255, 255, 0], [0, 0, 0]]]
    picture = Image.fromarray(corners, "CMYK")
    np.testing.assert_array_equal(pixels(encoded(picture, "TIFF")), wanted)
    large = picture.resize((80, 16), Image.Resampling.NEAREST)  # whole JPEG blocks of one colour
    got = pixels(encoded(large, "JPEG", quality=100))[8, 8::16]
    assert np.abs(got.astype(int) - np.array(wanted[0])).max() <= 3


def test_ycbcr_and_lab_tiff_become_rgb():
    ycbcr = Image.fromarray(NOISE).convert("YCbCr")
    assert np.abs(pixels(encoded(ycbcr, "TIFF")).astype(int) - NOISE).max() <= 4
    lab = Image.frombytes("LAB", (2, 1), bytes([0, 0, 0, 255, 0, 0]))
    got = pixels(encoded(lab, "TIFF"))
    assert got[0, 0].max() <= 2 and got[0, 1].min() >= 253


# ---- depth


def test_sixteen_bits_are_scaled_over_the_full_range():
    ramp = np.linspace(0, 65535, 4096).astype(np.uint16).reshape(64, 64)
    wanted = grey(np.rint(ramp / 257))
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in ramp)
    for data in (png(64, 64, 16, 0, rows), encoded(ramp, "TIFF"), encoded(ramp.astype(">u2"), "TIFF")):
        got = pixels(data)
        np.testing.assert_array_equal(got, wanted)
        assert len(np.unique(got)) == 256


def test_a_dim_sixteen_bit_picture_stays_dim():
    assert pixels(encoded(np.full((2, 2), 4095, dtype=np.uint16), "TIFF")).max() == 16


def test_sixteen_bit_colour_keeps_the_high_byte():
    row = struct.pack(">6H", 0, 32768, 65535, 255, 256, 65280)
    np.testing.assert_array_equal(pixels(png(2, 1, 16, 2, b"\0" + row)), [[[0, 128, 255], [0, 1, 255]]])


def test_sixteen_bit_grey_with_alpha_lies_over_grey():
    row = struct.pack(">4H", 65535, 65535, 65535, 0)
    np.testing.assert_array_equal(pixels(png(2, 1, 16, 4, b"\0" + row)), grey([[255, 128]]))


def test_integers_of_32_bits_are_read_as_16_where_they_fit_and_stretched_otherwise():
    fits = np.array([[0, 257, 65535]], dtype=np.int32)
    np.testing.assert_array_equal(pixels(encoded(fits, "TIFF")), grey([[0, 1, 255]]))
    large = np.array([[-2_000_000_000, 0, 2_000_000_000]], dtype=np.int32)
    np.testing.assert_array_equal(pixels(encoded(large, "TIFF")), grey([[0, 128, 255]]))


def test_floats_from_0_to_1_are_scaled_and_others_stretched():
    unit = np.array([[0.25, 0.5, 0.75]], dtype=np.float32)
    np.testing.assert_array_equal(pixels(encoded(unit, "TIFF")), grey([[64, 128, 191]]))
    wide = np.array([[-1.0, 0.0, 3.0]], dtype=np.float32)
    np.testing.assert_array_equal(pixels(encoded(wide, "TIFF")), grey([[0, 64, 255]]))
    np.testing.assert_array_equal(pixels(encoded(np.full((1, 2), 7, np.float32), "TIFF")), grey([[0, 0]]))
    extreme = np.array([[-3e38, 3e38]], dtype=np.float32)
    np.testing.assert_array_equal(pixels(encoded(extreme, "TIFF")), grey([[0, 255]]))


def test_a_float_picture_with_nan_is_refused():
    values = np.array([[0.0, np.nan, np.inf]], dtype=np.float32)
    with pytest.raises(BadImageError, match="2 of its 3 pixels are NaN or infinite"):
        decode(encoded(values, "TIFF"))


# ---- orientation, frames, metadata

STORED = {  # EXIF orientation: how an upright picture is stored under it
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, -1),
}


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "JPEG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_once(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = NOISE
    if kind == "JPEG":  # blocks of one colour survive JPEG in any orientation
        upright = np.kron(np.array([[40, 90], [140, 190], [240, 20]]), np.ones((16, 16)))[..., None].repeat(3, 2)
        upright = upright.astype(np.uint8)
    options = {"PNG": {}, "TIFF": {}, "WEBP": {"lossless": True}, "JPEG": {"quality": 100}}[kind]
    stored = np.ascontiguousarray(STORED[orientation](upright))
    np.testing.assert_array_equal(pixels(encoded(stored, kind, exif=exif, **options)), upright)


def test_orientation_turns_deep_and_transparent_pictures_too():
    exif = Image.Exif()
    exif[0x0112] = 6
    ramp = np.array([[0, 257, 514], [771, 1028, 1285]], dtype=np.uint16)
    stored = encoded(np.ascontiguousarray(np.rot90(ramp)), "TIFF", exif=exif)
    np.testing.assert_array_equal(pixels(stored), grey([[0, 1, 2], [3, 4, 5]]))
    picture = Image.fromarray(np.array([[0], [1]], dtype=np.uint8), "L").convert("P")
    picture.putpalette([10, 20, 30, 40, 50, 60])
    stored = encoded(picture, "PNG", exif=exif, transparency=0)
    np.testing.assert_array_equal(pixels(stored), [[[40, 50, 60], [128, 128, 128]]])


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0", b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\x7f", b"MM\0*\0\0\0\x08"]
)
def test_a_broken_exif_block_is_as_good_as_none(exif):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        np.testing.assert_array_equal(pixels(encoded(NOISE, "PNG", exif=exif)), NOISE)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_of_several_frames_the_first_is_taken(kind):
    frames = [Image.new("L", (6, 4), level) for level in (30, 200, 90)]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert Image.open(io.BytesIO(data)).n_frames == 3
    np.testing.assert_array_equal(pixels(data), grey(np.full((4, 6), 30)))


def test_metadata_and_colour_profiles_are_left_behind():
    exif = Image.Exif()
    exif[0x010E] = "<script>"
    data = encoded(NOISE, "PNG", icc_profile=b"no profile at all", exif=exif)
    np.testing.assert_array_equal(pixels(data), NOISE)
    assert b"script" not in encoded(decode(data), "PNG")


@pytest.mark.parametrize("size", [(1, 1), (1, 20_000), (20_000, 1)])
def test_extreme_shapes_decode(size):
    for kind in ("PNG", "JPEG", "BMP", "TIFF", "GIF"):
        assert decode(encoded(Image.new("RGB", size), kind)).size == size


def test_contents_decide_whatever_the_name_says(tmp_path):
    (tmp_path / "a.jpg").write_bytes(encoded(NOISE, "PNG"))
    (kept,) = scan(find_images(tmp_path).entries)
    assert (kept.width, kept.height) == (7, 5)


@pytest.mark.parametrize("name", ["a.mpo", "a.jpg"])
def test_of_the_two_pictures_of_a_stereo_camera_the_first_is_taken(tmp_path, name):
    left, right = Image.new("RGB", (8, 8), (200, 0, 0)), Image.new("RGB", (8, 8), (0, 0, 200))
    (tmp_path / name).write_bytes(encoded(left, "MPO", save_all=True, append_images=[right], quality=100))
    (kept,) = scan(find_images(tmp_path).entries)
    assert Image.open(tmp_path / name).n_frames == 2
    np.testing.assert_allclose(np.asarray(load(kept)), np.asarray(left), atol=2)


# ---- refusals


@pytest.mark.parametrize("suffix", ["DNG", "cr2", "NEF", "arw", "pef"])
def test_a_raw_file_is_never_read_as_the_small_preview_in_it(tmp_path, suffix):
    """To its bytes it is a TIFF that Pillow reads."""
    preview = encoded(NOISE, "TIFF")
    (tmp_path / f"1.{suffix}").write_bytes(preview)
    (tmp_path / "2.tif").write_bytes(preview)
    (tmp_path / "set.csv").write_text(f"path,image id\n1.{suffix},one\n")
    reason = f"{suffix.upper()}, a camera's raw file, which is not read; save it as PNG or JPEG"
    raw, tiff = scan(find_images(tmp_path).entries)
    assert raw == Quarantined(f"1.{suffix}", reason)
    assert isinstance(tiff, DecodedImage)
    assert scan(find_images(tmp_path / "set.csv").entries) == [Quarantined("one", reason)]
    assert scan([Entry(f"sent.{suffix}", tmp_path / "2.tif", None)]) == [Quarantined(f"sent.{suffix}", reason)]


def test_contents_decide_of_what_is_called_raw_too(tmp_path):
    (tmp_path / "a.dng").write_bytes(encoded(NOISE, "PNG"))
    (tmp_path / "b.dng").write_bytes(b"<html>")
    png, page = scan(find_images(tmp_path).entries)
    assert isinstance(png, DecodedImage)
    assert page == Quarantined("b.dng", "not an image (HTML text)")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "zero bytes"),
        (b"<!DOCTYPE html><html><body>404", "not an image (HTML text)"),
        (b"\n <html lang=en>", "not an image (HTML text)"),
        (b"BMW is a car, na\xc3\xafve", "not an image (text)"),
        (bytes(4096), "not an image (4096 NUL bytes)"),
        (b"PK\x03\x04rest", "not an image (zip archive)"),
        (
            b"version https://git-lfs.github.com/spec/v1\n",
            "not an image (a Git LFS pointer: run `git lfs pull`)",
        ),
        (b"\0\0\1\0\1\0\x10\x10\0\0", "not an image (starts with 00 00 01 00 01 00 10 10)"),
        (
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
            "EPS or PostScript, which is not read; save it as PNG",
        ),
        (b"\xc5\xd0\xd3\xc6" + bytes(28), "EPS, which is not read; save it as PNG or JPEG"),
        (b"%PDF-1.7\n", "PDF, which is not read; save it as PNG or JPEG"),
        (b"<?xml version='1.0'?><svg onload='x()'/>", "SVG, which is not read; save it as PNG or JPEG"),
        (b"\0\0\0\x1cftypavif\0\0\0\0", "AVIF, which is not read; save it as PNG or JPEG"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC, which is not read; save it as PNG or JPEG"),
        (b"\0\0\0\x18ftypcrx \0\0\0\1", "CR3, a camera's raw file, which is not read; save it as PNG or JPEG"),
        (b"FUJIFILMCCD-RAW 0201", "RAF, a camera's raw file, which is not read; save it as PNG or JPEG"),
        (b"IIU\0\x18\0\0\0", "RW2, a camera's raw file, which is not read; save it as PNG or JPEG"),
        (b"IIRO\x08\0\0\0", "ORF, a camera's raw file, which is not read; save it as PNG or JPEG"),
        (png(20_000, 20_000, 8, 2, b""), "400 megapixels; the limit is 50"),
        (png(51_000, 1_000, 8, 2, b""), "51 megapixels; the limit is 50"),
        (
            b"GIF89a" + struct.pack("<HH", 65_535, 65_535) + bytes(20),
            "damaged or truncated GIF: its header cannot be",
        ),
        (encoded(NOISE, "PNG")[:20], "truncated after 20 bytes"),
        (encoded(NOISE, "BMP")[:100], "truncated after 100 of 174 bytes"),
        (b"\xff\xd8\xff\xe0", "damaged or truncated JPEG: its header cannot be read (4 bytes)"),
        (png(2, 2, 8, 2, bytes(14))[:-20] + b"\1" * 20, "damaged PNG: "),
    ],
)
def test_what_is_no_picture_is_refused_with_a_reason(data, reason):
    with pytest.raises(BadImageError) as caught:
        decode(data)
    assert str(caught.value).startswith(reason)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 200


@pytest.mark.filterwarnings("ignore:Truncated File Read")
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF"])
def test_a_file_cut_anywhere_before_its_last_pixel_is_refused(kind):
    data = encoded(np.random.default_rng(1).integers(0, 256, (40, 60, 3), dtype=np.uint8), kind)
    for part in (0.01, 0.1, 0.5, 0.9):
        with pytest.raises(BadImageError, match=r"truncated|header|not an image"):
            decode(data[: int(len(data) * part)])
    with pytest.raises(BadImageError, match=f"truncated after {len(data) // 2} "):
        decode(data[: len(data) // 2])


def test_a_bomb_is_refused_before_its_pixels_and_pillow_is_left_as_it_was():
    limit, filters = Image.MAX_IMAGE_PIXELS, list(warnings.filters)
    bomb = png(10_000, 10_000, 8, 2, bytes(30_001 * 10_000 // 100))  # 100 megapixels in 3 kB: Pillow only warns
    began = time.perf_counter()
    for action in ("ignore", "error"):
        with warnings.catch_warnings():
            warnings.simplefilter(action)
            with pytest.raises(BadImageError, match="100 megapixels; the limit is 50"):
                decode(bomb)
    assert time.perf_counter() - began < 0.5
    assert limit == Image.MAX_IMAGE_PIXELS and filters == list(warnings.filters)


def test_postscript_starts_no_process(monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("a process was started"))
    monkeypatch.setattr(os, "system", lambda *_: pytest.fail("a process was started"))
    with pytest.raises(BadImageError, match="EPS"):
        decode(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")


def test_damaged_bytes_raise_nothing_but_bad_image_error():
    random = np.random.default_rng(2)
    whole = [encoded(NOISE, kind) for kind in ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for turn in range(600):
            data = bytearray(whole[turn % len(whole)])
            for at in random.integers(0, len(data), random.integers(1, 6)):
                data[at] = random.integers(256)
            try:
                assert decode(bytes(data)).mode == "RGB"
            except BadImageError as error:
                assert str(error)


# ---- scanning


def picture_files(folder: Path, number: int) -> list[Path]:
    """`number` small pictures that differ, in two classes."""
    paths = [folder / ("odd" if n % 2 else "even") / f"{n:03}.png" for n in range(number)]
    for n, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(Image.new("RGB", (3 + n % 5, 4), (n % 256, 0, 0)), "PNG"))
    return paths


def test_bad_files_are_reported_and_the_others_keep_their_order(tmp_path):
    paths = picture_files(tmp_path, 40)
    clean = scan(find_images(tmp_path).entries)
    assert [kept.id for kept in clean] == sorted(path.relative_to(tmp_path).as_posix() for path in paths)
    bad = {"odd/a.jpg": b"", "even/010b.png": b"<html>", "odd/017z.gif": encoded(NOISE, "PNG")[:50]}
    for name, data in bad.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "even/out.png").symlink_to("/etc/hosts")
    done: list[tuple[int, int]] = []
    found = scan(find_images(tmp_path).entries, progress=lambda n, of: done.append((n, of)))
    assert [result.id for result in found] == sorted(result.id for result in found)
    assert [result for result in found if isinstance(result, DecodedImage)] == clean
    assert {result.id: result.reason for result in found if isinstance(result, Quarantined)} == {
        "even/010b.png": "not an image (HTML text)",
        "even/out.png": "a symlink that leads out of the folder; copy the picture here instead",
        "odd/017z.gif": "truncated after 50 bytes",
        "odd/a.jpg": "zero bytes",
    }
    assert done == [(n, 44) for n in range(1, 45)]


def test_kept_files_say_what_they_are(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat/a.png").write_bytes(encoded(NOISE, "PNG", exif=exif))
    (kept,) = scan(find_images(tmp_path).entries)
    sha = hashlib.sha256((tmp_path / "cat/a.png").read_bytes()).hexdigest()
    assert kept == DecodedImage("cat/a.png", tmp_path / "cat/a.png", "cat", sha, width=5, height=7)


def test_an_unreadable_or_huge_file_is_quarantined(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(encoded(NOISE, "PNG"))
    entries = find_images(tmp_path).entries
    monkeypatch.setattr(decoding, "MAX_BYTES", 10)
    assert scan(entries)[0].reason == "0.0 GB; the limit is 0.0"
    (tmp_path / "a.png").unlink()
    assert scan(entries)[0].reason == "cannot be read: No such file or directory"


def test_a_second_scan_reads_the_journal_and_decodes_nothing(tmp_path, monkeypatch):
    folder, journal = tmp_path / "set", tmp_path / "journal"
    picture_files(folder, 6)
    (folder / "bad.jpg").write_bytes(b"<html>")
    entries = find_images(folder).entries
    first = scan(entries, journal)
    monkeypatch.setattr(decoding, "decode", lambda _: pytest.fail("decoded again"))
    again: list[tuple[int, int]] = []
    assert scan(entries, journal, lambda n, of: again.append((n, of))) == first
    assert again == [(7, 7)]


def test_a_changed_file_is_decoded_again_and_only_that(tmp_path, monkeypatch):
    folder, journal = tmp_path / "set", tmp_path / "journal"
    paths = picture_files(folder, 6)
    entries = find_images(folder).entries
    first = scan(entries, journal)
    status = paths[3].stat()
    data = paths[3].read_bytes()
    os.utime(paths[3], ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    paths[5].write_bytes(b"")
    os.utime(paths[5], ns=(status.st_atime_ns, paths[4].stat().st_mtime_ns))
    seen: list[bytes] = []
    real = decode
    monkeypatch.setattr(decoding, "decode", lambda data: seen.append(data) or real(data))
    second = scan(entries, journal)
    assert seen == [data, b""]
    assert second[:-1] == first[:-1] and second[-1] == Quarantined("odd/005.png", "zero bytes")


def test_a_torn_journal_line_costs_one_decode_and_no_other_line(tmp_path, monkeypatch):
    folder, journal = tmp_path / "set", tmp_path / "journal"
    picture_files(folder, 4)
    entries = find_images(folder).entries
    first = scan(entries, journal)
    journal.write_bytes(journal.read_bytes()[:-30])
    seen: list[bytes] = []
    real = decode
    monkeypatch.setattr(decoding, "decode", lambda data: seen.append(data) or real(data))
    assert scan(entries, journal) == first and len(seen) == 1
    assert scan(entries, journal) == first and len(seen) == 1


def test_a_journal_of_other_rules_or_of_nonsense_says_nothing(tmp_path, monkeypatch):
    folder, journal = tmp_path / "set", tmp_path / "journal"
    picture_files(folder, 2)
    entries = find_images(folder).entries
    with monkeypatch.context() as older:
        older.setattr(decoding, "RULES", 0)
        first = scan(entries, journal)
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    del lines[0]["sha256"]
    lines[0]["rules"] = decoding.RULES
    with journal.open("a") as text:
        text.write("\n".join(["[]", "1", '{"rules": 1}', "\0", json.dumps(lines[0])]))
    seen: list[bytes] = []
    real = decode
    monkeypatch.setattr(decoding, "decode", lambda data: seen.append(data) or real(data))
    assert scan(entries, journal) == first and len(seen) == 2


def test_a_journal_does_not_carry_labels_or_folders(tmp_path):
    folder, journal = tmp_path / "set", tmp_path / "journal"
    (path,) = picture_files(folder, 1)
    scan(find_images(folder).entries, journal)
    renamed = Entry("even/000.png", path, "another label")
    assert scan([renamed], journal)[0].label == "another label"
    assert str(tmp_path) not in journal.read_text()


def test_what_the_bytes_are_not_to_blame_for_is_not_remembered(tmp_path, monkeypatch):
    folder, journal = tmp_path / "set", tmp_path / "journal"
    picture_files(folder, 1)
    entries = find_images(folder).entries
    monkeypatch.setattr(decoding, "decode", lambda _: (_ for _ in ()).throw(MemoryError))
    assert scan(entries, journal)[0].reason == "not enough memory to decode it"
    monkeypatch.undo()
    assert isinstance(scan(entries, journal)[0], DecodedImage)


# ---- later reads


def test_the_scanned_picture_is_loaded_and_another_is_not(tmp_path):
    (path,) = picture_files(tmp_path, 1)
    (kept,) = scan(find_images(tmp_path).entries)
    np.testing.assert_array_equal(np.asarray(load(kept)), pixels(path.read_bytes()))
    path.write_bytes(encoded(NOISE, "PNG"))
    with pytest.raises(
        ImageChangedError, match=r"even/000\.png changed since the run began; put the scanned file back"
    ):
        load(kept)
    path.unlink()
    with pytest.raises(ImageChangedError, match=r"even/000\.png can no longer be read \(No such file"):
        load(kept)


# ---- processes


def examine_or_die(entry: Entry) -> Examined:
    """What a decoder with a fatal bug in it does: in a child process, so that the test lives."""
    if entry.label == "deadly":
        os.kill(os.getpid(), signal.SIGSEGV)
    return Quarantined(entry.id, f"seen {entry.label}"), (1, 2)


def test_a_crash_of_the_decoder_costs_one_file():
    entries = [Entry(str(n), Path(str(n)), "deadly" if n in (0, 3) else "fine") for n in range(6)]
    results = dict(decoding._in_processes(examine_or_die, enumerate(entries), processes=2))
    crashed = (Quarantined, "the decoder crashed", None)
    fine = (Quarantined, "seen fine", (1, 2))
    got = [(type(scanned), scanned.reason, stamp) for scanned, stamp in (results[n] for n in range(6))]
    assert got == [crashed if n in (0, 3) else fine for n in range(6)]


def test_many_files_in_processes_give_what_few_give_in_one(tmp_path):
    picture_files(tmp_path, 70)
    for name, data in {"odd/x.jpg": b"", "odd/y.jpg": b"<html>"}.items():
        (tmp_path / name).write_bytes(data)
    entries = find_images(tmp_path).entries
    assert len(entries) >= decoding.FEW > 40
    journal = tmp_path / "journal"
    together = scan(entries, journal, processes=2)
    assert together == scan(entries[:36]) + scan(entries[36:])
    assert together == scan(entries, journal, processes=2)


def test_a_decoding_process_has_one_thread_for_numpy_and_this_one_keeps_its_own(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    with decoding._pool(1) as pool:
        libraries = pool.submit(threadpool_info).result()
        told = [pool.submit(os.getenv, name).result() for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS")]
    assert {each["num_threads"] for each in libraries} == {1}
    assert told == ["1", "1"]
    assert os.environ["OMP_NUM_THREADS"] == "3"
    assert "OPENBLAS_NUM_THREADS" not in os.environ


def test_a_script_without_a_main_guard_is_told_so(tmp_path):
    picture_files(tmp_path / "set", 64)
    script = tmp_path / "script.py"
    script.write_text(
        "from pathlib import Path\nfrom workers.decode import scan\nfrom workers.images import find_images\n"
        f"scan(find_images(Path({str(tmp_path / 'set')!r})).entries, processes=2)\n"
    )
    done = subprocess.run([sys.executable, script], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)},
                          capture_output=True, text=True, timeout=60, check=False)  # fmt: skip
    assert done.returncode != 0
    assert f"{DecoderStartError.__name__}: no process to decode in could be started; if this is a script" in done.stderr


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
def test_decoding_processes_end_with_a_parent_that_is_killed():
    code = (
        "import os, time\nfrom workers.decode import _pool\n"
        "pool = _pool(1)\nprint(pool.submit(os.getpid).result(), flush=True)\ntime.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    assert Path(f"/proc/{child}").exists()
    parent.kill()
    parent.wait()
    for _ in range(100):
        if not running(child):
            return
        time.sleep(0.05)
    pytest.fail("the decoding process outlives its parent")


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
