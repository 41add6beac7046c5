"""Which pictures does the demo show? Twelve classes in six easily confused pairs, drawn from a seed.

Every picture is a pure function of (seed, class, index), and its mask says which pixels are the object. The
cues are those that a small ViT learns within the hour: texture, the order of two colours, parts and their
arrangement, upright shapes. Nothing here imports torch, so any process can write the set.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Plane = NDArray[np.floating[Any]]  # (y, x); float32 throughout, which NumPy's types cannot follow
Paint = NDArray[np.floating[Any]]  # (y, x, channel), or colours, (colour, channel) or (channel,); 0 to 255

# In index order, pairs side by side: classes 2i and 2i + 1 are the ones meant to be taken for each other.
CLASSES = (
    "stripes_horizontal", "stripes_vertical",
    "checkerboard", "dots",
    "red_over_blue", "blue_over_red",
    "ring", "disc",
    "triangle_up", "triangle_down",
    "plus", "cross",
)  # fmt: skip

SIZE = 64  # pixels a side: 8 x 8 patches of 8 pixels
# Of the set a user sees: from 3 on, the first seed on which the demo's model makes a usual number of mistakes
# (7 of 144), each within a pair and not all in one.
SEED = 9
DRAWING = 1  # raise it when the same seed no longer gives the same pictures
MARKER = "picture_set.json"  # written last: a folder that has it is complete


def _colours(*codes: str) -> Paint:
    """Hex codes as (colour, channel)."""
    return np.array([list(bytes.fromhex(code)) for code in codes], dtype=np.float32)


# Chosen by eye on a contact sheet: muted grounds, half of them light and half dark, under clear inks.
_GROUND_FROM = _colours(
    "efe6d4", "e0e8ec", "dfe8d6", "e7e0ee", "f2dfd9", "5d6878", "2f5a66", "5a4664", "37466a", "4c4b47",
)  # fmt: skip
_GROUND_TO = _colours(
    "d9c6a3", "b7cad5", "b2c5a3", "c2b4d3", "dcb5ac", "3b4553", "1d3a45", "392b44", "222c47", "2d2c2a",
)  # fmt: skip
_INKS = _colours(
    "d1495b", "ee8434", "edae49", "7d9d3c", "3a9a5f", "1f9e9e",
    "3f9bd8", "30638e", "7b5ea7", "c2528b", "fff4dc", "22303c",
)  # fmt: skip
_REDS = _colours("d1495b", "c8432f", "e0605a", "b53a55")
_BLUES = _colours("30638e", "3f84c8", "3d57a8", "4a93d0")
# Two colours nearer than this (Euclid, 0 to 255 a channel) are hard to tell apart on the sheet.
_APART = 95.0

_X = np.tile(np.arange(SIZE, dtype=np.float32) + 0.5, (SIZE, 1))
_Y = np.ascontiguousarray(_X.T)


@dataclass(frozen=True)
class Scene:
    """A picture in its layers, before grain: what `draw` composes."""

    ground: Paint  # the picture without its object
    paint: Paint  # the object's colours, beyond its edge too
    cover: Plane  # how much of each pixel is object, 0 to 1


def _cover(distance: Plane) -> Plane:
    """Share of each pixel inside a shape at that signed distance in pixels, negative inside: smooth edges."""
    cover: Plane = np.clip(0.5 - distance, 0.0, 1.0)
    return cover


def _blend(under: Paint, over: Paint, cover: Plane) -> Paint:
    return under + (over - under) * cover[..., None]


# --- shapes: signed distance in pixels at (u, v) from the centre, v downwards, of a shape of radius r ---


def _disc(u: Plane, v: Plane, r: float) -> Plane:
    distance: Plane = np.sqrt(u * u + v * v) - r
    return distance


def _ring(u: Plane, v: Plane, r: float, hole: float) -> Plane:
    return np.abs(_disc(u, v, (r + hole) / 2)) - (r - hole) / 2


def _square(u: Plane, v: Plane, r: float) -> Plane:
    """A square with rounded corners, as large as the disc of radius r."""
    corner = 0.35 * r
    over_u, over_v = np.abs(u) - (0.9 * r - corner), np.abs(v) - (0.9 * r - corner)
    inside: Plane = np.minimum(np.maximum(over_u, over_v), 0)
    return inside + _disc(np.maximum(over_u, 0), np.maximum(over_v, 0), corner)


def _hexagon(u: Plane, v: Plane, r: float) -> Plane:
    u, v = np.abs(u), np.abs(v)
    distance: Plane = np.maximum(v, 0.866 * u + 0.5 * v) - 0.95 * r
    return distance


def _triangle(u: Plane, v: Plane, r: float) -> Plane:
    """Equilateral, pointing up, r from the centre to a corner."""
    distance: Plane = np.maximum(v, 0.866 * np.abs(u) - 0.5 * v) - r / 2
    return distance


def _plus(u: Plane, v: Plane, r: float, arm: float) -> Plane:
    """Two bars, r from the centre to an end and `arm` to a side."""
    u, v = np.abs(u), np.abs(v)
    distance: Plane = np.minimum(np.maximum(u - r, v - arm), np.maximum(u - arm, v - r))
    return distance


# --- textures: the second colour's share, 0 to 1, at (u, v) ---


def _to_edge(w: Plane, period: float) -> Plane:
    """Signed distance in pixels to the nearest edge of stripes across w."""
    turn = w / period
    distance: Plane = (np.abs(turn - np.floor(turn) - 0.5) - 0.25) * period
    return distance


def _stripes(u: Plane, v: Plane, period: float) -> Plane:
    return _cover(_to_edge(v, period))


def _checkerboard(u: Plane, v: Plane, period: float) -> Plane:
    across, down = _cover(_to_edge(u, period)), _cover(_to_edge(v, period))
    return across * down + (1 - across) * (1 - down)


def _dots(u: Plane, v: Plane, period: float) -> Plane:
    """Round spots where a checkerboard of the same period has one colour's squares."""
    spots = []
    for shift in (0.25, 0.75):
        across, down = u / period + shift, v / period + shift
        spots.append(_disc(across - np.floor(across) - 0.5, down - np.floor(down) - 0.5, 0.25))
    return _cover(np.minimum(*spots) * period)


# --- the ground ---


def _smooth_noise(rng: np.random.Generator, cells: int) -> Plane:
    """Cloudy noise in -1 to 1: a coarse grid of random numbers, interpolated."""
    place = np.arange(SIZE, dtype=np.float32) * ((cells - 1) / (SIZE - 1))
    near = np.maximum(0, 1 - np.abs(place[:, None] - np.arange(cells, dtype=np.float32)))
    share = near * near * (3 - 2 * near)  # no creases at the grid's lines; a row still sums to 1
    grid = rng.uniform(-1, 1, (cells, cells)).astype(np.float32)
    noise: Plane = share @ grid @ share.T
    return noise


def _ground(rng: np.random.Generator) -> tuple[Paint, Paint]:
    """A cloudy gradient between two near colours, and its mean colour."""
    pick = rng.integers(len(_GROUND_FROM))
    start, end = _GROUND_FROM[pick], _GROUND_TO[pick]
    turn = rng.uniform(0, 2 * np.pi)
    slope = (_X - SIZE / 2) * np.float32(np.cos(turn)) + (_Y - SIZE / 2) * np.float32(np.sin(turn))
    share = np.clip(0.5 + slope / SIZE + 0.35 * _smooth_noise(rng, cells=5), 0, 1)
    return start + (end - start) * share[..., None], (start + end) / 2


def _turned(u: Plane, v: Plane, turn: float) -> tuple[Plane, Plane]:
    """Coordinates in a frame turned by `turn` radians."""
    cos, sin = np.float32(np.cos(turn)), np.float32(np.sin(turn))
    return cos * u + sin * v, cos * v - sin * u


def _distractors(rng: np.random.Generator, picture: Paint, count: int, fade: float) -> Plane:
    """Draw little shapes into `picture`, in place, and return what they cover; `fade` 1 hides them wholly."""
    covered = np.zeros((SIZE, SIZE), np.float32)
    for _ in range(count):
        r, turn = rng.uniform(1.6, 4.2), rng.uniform(0, np.pi)
        x, y = rng.uniform(0, SIZE, 2)
        reach = int(1.5 * r) + 2
        rows = slice(max(int(y) - reach, 0), int(y) + reach + 1)
        columns = slice(max(int(x) - reach, 0), int(x) + reach + 1)
        u, v = _turned(_X[rows, columns] - np.float32(x), _Y[rows, columns] - np.float32(y), turn)
        shapes = (
            _disc(u, v, r),
            _ring(u, v, r, hole=0.5 * r),
            _square(u, v, r),
            _triangle(u, v, 1.2 * r),
            np.maximum(np.abs(u) - 1.5 * r, np.abs(v) - 0.7),  # a bar
        )
        cover = _cover(shapes[rng.integers(len(shapes))]) * np.float32(1 - fade)
        picture[rows, columns] = _blend(picture[rows, columns], _INKS[rng.integers(len(_INKS))], cover)
        covered[rows, columns] = np.maximum(covered[rows, columns], cover)
    return covered


# --- the objects: signed distance and paint ---


def _ink(rng: np.random.Generator, inks: Paint, *apart_from: Paint) -> Paint:
    """One of `inks` that is far enough from every colour given; the farthest one where none is."""
    far = np.min([np.sqrt(((inks - other) ** 2).sum(1)) for other in apart_from], axis=0)
    fit = np.flatnonzero(far >= _APART)
    ink: Paint = inks[rng.choice(fit)] if len(fit) else inks[far.argmax()]
    return ink


def _tilt(rng: np.random.Generator, usual: float, most: float) -> float:
    """Radians: normal with a deviation of `usual` degrees, never beyond `most`."""
    return float(np.radians(np.clip(rng.normal(0, usual), -most, most)))


def _silhouette(rng: np.random.Generator, u: Plane, v: Plane, r: float) -> Plane:
    shape = (_disc, _square, _hexagon)[rng.integers(3)]
    return shape(*_turned(u, v, _tilt(rng, 8, 15)), r)


def _textured(name: str, rng: np.random.Generator, u: Plane, v: Plane, r: float, ground: Paint) -> tuple[Plane, Paint]:
    distance = _silhouette(rng, u, v, r)
    first = _ink(rng, _INKS, ground)
    second = _ink(rng, _INKS, ground, first)
    period = max(6.0, r * rng.uniform(0.4, 0.8))
    u, v = u + np.float32(rng.uniform(0, period)), v + np.float32(rng.uniform(0, period))
    match name:
        case "stripes_horizontal":
            share = _stripes(*_turned(u, v, _tilt(rng, 14, 40)), period)
        case "stripes_vertical":
            share = _stripes(*_turned(v, u, _tilt(rng, 14, 40)), period)
        case "checkerboard":
            share = _checkerboard(*_turned(u, v, _tilt(rng, 8, 20)), period)
        case _:
            share = _dots(*_turned(u, v, _tilt(rng, 8, 20)), period)
    return distance, first + (second - first) * share[..., None]


def _two_part(name: str, rng: np.random.Generator, u: Plane, v: Plane, r: float, ground: Paint) -> tuple[Plane, Paint]:
    distance = _silhouette(rng, u, v, r)
    red, blue = _ink(rng, _REDS, ground), _ink(rng, _BLUES, ground)
    top, bottom = (red, blue) if name == "red_over_blue" else (blue, red)
    _, down = _turned(u, v, _tilt(rng, 25, 70))
    share = _cover(np.float32(rng.uniform(-0.35, 0.35) * r) - down)
    return distance, top + (bottom - top) * share[..., None]


def _plain(name: str, rng: np.random.Generator, u: Plane, v: Plane, r: float, ground: Paint) -> tuple[Plane, Paint]:
    ink = _ink(rng, _INKS, ground)
    tilt = _tilt(rng, 9, 22)
    hole, arm = rng.uniform(0.2, 0.7) * r, rng.uniform(0.2, 0.36) * r
    match name:
        case "ring":
            distance = _ring(u, v, r, hole)
        case "disc":
            distance = _disc(u, v, r)
        case "triangle_up":
            distance = _triangle(*_turned(u, v, tilt), 1.2 * r)
        case "triangle_down":
            distance = _triangle(*_turned(u, -v, tilt), 1.2 * r)
        case "plus":
            distance = _plus(*_turned(u, v, tilt), 1.1 * r, arm)
        case _:
            distance = _plus(*_turned(u, v, np.pi / 4 + tilt), 1.1 * r, arm)
    return distance, np.broadcast_to(ink, (SIZE, SIZE, 3))


_Object = Callable[[str, np.random.Generator, Plane, Plane, float, Paint], tuple[Plane, Paint]]
_OBJECTS: tuple[_Object, ...] = (_textured,) * 4 + (_two_part,) * 2 + (_plain,) * 6  # in the order of CLASSES


def scene(class_index: int, rng: np.random.Generator) -> Scene:
    """The layers of one picture of the class."""
    if not 0 <= class_index < len(CLASSES):
        raise ValueError(f"class {class_index} is not in the demo, which has classes 0 to {len(CLASSES) - 1}")
    ground, colour = _ground(rng)
    _distractors(rng, ground, count=int(rng.integers(4, 11)), fade=0.45)
    r = rng.uniform(9.0, 21.0)
    x, y = rng.uniform(r, SIZE - r, 2)
    u, v = _X - np.float32(x), _Y - np.float32(y)
    distance, paint = _OBJECTS[class_index](CLASSES[class_index], rng, u, v, r, colour)
    cover = _cover(distance)
    shadow = np.zeros_like(cover)
    shadow[2:, 1:] = np.clip((3.0 - distance[:-2, :-1]) / 6.0, 0, 1)  # falls to the bottom right
    ground *= 1 - 0.22 * shadow[..., None]
    # Light from the top left, and paint that fades towards the ground: some pictures are faint.
    light = 1 - 0.08 * np.clip((u + v) / (2 * np.float32(r)), -1, 1)
    fade = np.float32(0.75 * rng.beta(1.2, 3.0))
    paint = paint * light[..., None] * (1 - fade) + colour * fade
    return Scene(ground, paint, cover)


def draw(class_index: int, rng: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """One picture of the class and its mask.

    Args:
        class_index: Index in CLASSES.
        rng: Where chance comes from; it is moved on.
    Returns:
        Pixels, (y, x, channel), uint8, RGB; mask, (y, x), true where at least half of a pixel is the object.
    Raises:
        ValueError: No such class.
    """
    layers = scene(class_index, rng)
    picture = _blend(layers.ground, layers.paint, layers.cover)
    hidden = _distractors(rng, picture, count=int(rng.integers(0, 4)), fade=0.1)
    grain = rng.standard_normal((SIZE, SIZE), dtype=np.float32) * np.float32(rng.uniform(2, 12))
    pixels = np.clip(np.rint(picture + grain[..., None]), 0, 255).astype(np.uint8)
    return pixels, layers.cover * (1 - hidden) >= 0.5


def picture(seed: int, class_index: int, index: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Picture `index` of the class in the set of that seed, as `draw` gives it."""
    return draw(class_index, np.random.default_rng((seed, class_index, index)))


def write_picture_set(folder: str | Path, per_class: int = 12, seed: int = SEED) -> Path:
    """The set on disk: `images/<class>/<number>.png`, and `masks/` alike, 255 where the object is.

    A complete set is reused as it is, an interrupted one drawn again. Two processes may write the same one.

    Args:
        folder: Made where missing.
        per_class: Pictures of each class.
        seed: Of the set.
    Returns:
        The folder of the images.
    Raises:
        ValueError: per_class is below 1.
        FileExistsError: The folder holds another set, or pictures that are not of this one.
    """
    if per_class < 1:
        raise ValueError(f"per_class is {per_class}; a set has at least 1 picture a class")
    folder = Path(folder)
    marker = folder / MARKER
    wanted = {"classes": list(CLASSES), "drawing": DRAWING, "per_class": per_class, "seed": seed}
    if marker.exists():
        if json.loads(marker.read_text()) == wanted:
            return folder / "images"
        raise FileExistsError(f"{folder} holds another picture set, as {marker} says; choose another folder")
    names = [f"{name}/{index:03}.png" for name in CLASSES for index in range(per_class)]
    expected = {folder / kind / name for kind in ("images", "masks") for name in names}
    strange = {*folder.glob("images/*/*.png"), *folder.glob("masks/*/*.png")} - expected
    if strange:
        raise FileExistsError(f"{min(strange)} is not of this picture set; choose another folder or empty it")
    for number, name in enumerate(names):
        pixels, mask = picture(seed, *divmod(number, per_class))
        _write_png(folder / "images" / name, pixels)
        _write_png(folder / "masks" / name, mask.astype(np.uint8) * 255)
    _replace(marker, (json.dumps(wanted, indent=1) + "\n").encode())
    return folder / "images"


def _write_png(path: Path, pixels: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    _replace(path, stream.getvalue())


def _replace(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.write_bytes(content)
    part.replace(path)
