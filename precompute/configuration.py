"""What does the configuration beside the weights say? The `config.json` of timm's or Hugging Face's hub, and the
`preprocessor_config.json` of the latter.

No tensor holds what the pictures were normalised by, how tokens are pooled or what the classes are called; the files
that trainers leave beside the weights do. They are read as data, bounded and checked; nothing they name is fetched.
"""

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from analyses.vocabulary import INTERPOLATIONS, LEAST_CROP, POOLS
from precompute.errors import ModelError

MODEL_FILE, PREPROCESSOR_FILE = "config.json", "preprocessor_config.json"
MOST_BYTES = 16 << 20  # the 21,843 names of ImageNet-21k with their descriptions take 2 MB

CROP_MODES = ("center", "squash", "border")

# Pillow's numbers of resampling filters, which Hugging Face writes down.
_RESAMPLE = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}
# What Hugging Face calls a problem in which an image is not of one true class.
_NOT_ONE_CLASS = {
    "multi_label_classification": "several classes may be true of an image at once",
    "regression": "they are measured values",
}


@dataclass(frozen=True)
class Configuration:
    """What the files beside some weights say; what they leave open is None or empty.

    architecture:   timm's name, without its tag
    tag:            of timm's own weights of that name
    num_classes:    outputs of the head
    input_size:     pixels as (height, width)
    pool:           how the head reads the tokens
    class_names:    in the order of the outputs
    one_class:      whether an image is of one true class; None where nothing says so
    not_classes:    why an image is not of one true class
    preprocessing:  mean, std, interpolation, crop_pct, crop_mode, of those that are said
    said_by:        the file that says each of them
    """

    architecture: str | None = None
    tag: str | None = None
    num_classes: int | None = None
    input_size: tuple[int, int] | None = None
    pool: str | None = None
    class_names: tuple[str, ...] = ()
    one_class: bool | None = None
    not_classes: str = ""
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    said_by: Mapping[str, str] = field(default_factory=dict)


def configuration_beside(weights: Path, architecture: str) -> Configuration | None:
    """The configuration in the folder of a file of weights; None without one.

    Args:
        architecture: timm's name of the model, without its tag. Of a configuration of another architecture, which
            lies beside these weights by accident, nothing but its name is given.

    Raises:
        ModelError: A file of it cannot be understood; says which field, and what would be right.
    """
    model, preprocessor = (_object(weights.parent / name) for name in (MODEL_FILE, PREPROCESSOR_FILE))
    if model is None and preprocessor is None:
        return None
    found = Configuration() if model is None else _of_model(model, weights.parent / MODEL_FILE, architecture)
    if preprocessor is None or found.architecture not in (None, architecture):
        return found
    more = _of_preprocessor(preprocessor, weights.parent / PREPROCESSOR_FILE)
    return replace(
        found,
        preprocessing={**found.preprocessing, **more},
        said_by={**found.said_by, **dict.fromkeys(more, PREPROCESSOR_FILE)},
    )


def _object(file: Path) -> dict[str, Any] | None:
    """The JSON object in a file; None where there is no such file."""
    try:
        with file.open("rb") as opened:
            text = opened.read(MOST_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ModelError(f"{file} cannot be read: {error.strerror}; make it readable, or move it away") from error
    if len(text) > MOST_BYTES:
        raise ModelError(f"{file} is larger than {MOST_BYTES >> 20} MB, which no configuration is; move it away")
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ModelError(
            f"{file} is not JSON ({str(error)[:80]}); mend it, or move it away from the weights"
        ) from error
    if not isinstance(found, dict):
        raise ModelError(f"{file} is JSON, but not an object; mend it, or move it away from the weights")
    return found


class _Fields:
    """Fields of a JSON object, each checked when it is read."""

    def __init__(self, found: Mapping[str, Any], file: Path) -> None:
        self.found = found
        self.file = file

    def __call__(self, name: str, right: str, is_right: Callable[[Any], bool]) -> Any:
        """The field, or None where it is missing or null.

        Args:
            right: In words, what the field may be.
        Raises:
            ModelError: It is there and not right.
        """
        value = self.found.get(name)
        if value is None or is_right(value):
            return value
        raise ModelError(
            f"{self.file}: {name} is {_json(value)}; right is {right}. Mend it, or move the file elsewhere"
        )

    def text(self, name: str) -> str | None:
        found: str | None = self(name, "text", lambda value: isinstance(value, str) and len(value) <= 200)
        return found

    def one_of(self, name: str, choices: tuple[Any, ...]) -> Any:
        shown = ", ".join(str(choice) for choice in choices if choice != "")
        return self(name, f"one of {shown}", lambda value: not isinstance(value, bool) and value in choices)

    def whole(self, name: str) -> int | None:
        found: int | None = self(name, "a whole number from 0 on", lambda value: type(value) is int and value >= 0)
        return found

    def three(self, name: str, *, positive: bool = False) -> tuple[float, ...] | None:
        """Three numbers, one a channel."""
        least = 0.0 if positive else -math.inf

        def is_right(value: Any) -> bool:
            return isinstance(value, list) and len(value) == 3 and all(_is_number(x) and x > least for x in value)

        words = "three numbers over 0" if positive else "three numbers"
        found = self(name, f"{words}, of red, green and blue", is_right)
        return None if found is None else tuple(map(float, found))


def _json(value: object) -> str:
    return json.dumps(value)[:60]


def _pixels(said: dict[str, Any], file: Path) -> dict[str, Any]:
    """Of `said` what is there, its mean and std of pixels from 0 to 1.

    Raises:
        ModelError: They are of other numbers.
    """
    for name, least in (("mean", 0.0), ("std", math.nextafter(0, 1))):
        if said.get(name) is not None and not all(least <= x <= 1 for x in said[name]):
            shown = ", ".join(f"{x:.4g}" for x in said[name])
            raise ModelError(
                f"{file}: {name} comes to {shown}, which is not of pixels from 0 to 1; divide numbers of 0 to 255 by "
                "255, or move the file elsewhere"
            )
    return {key: value for key, value in said.items() if value is not None}


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]


def _of_model(found: dict[str, Any], file: Path, wanted: str) -> Configuration:
    """timm's config.json (its newer form has `pretrained_cfg` inside, the older one is flat), or transformers'."""
    fields = _Fields(found, file)
    inner = fields("pretrained_cfg", "an object", lambda value: isinstance(value, dict))
    cfg = _Fields(found | (inner or {}), file)
    name = fields.text("architecture") or cfg.text("architecture") or ""
    architecture, _, tag = name.partition(".")
    if architecture not in ("", wanted):
        return Configuration(architecture)
    crop_pct = cfg("crop_pct", f"{LEAST_CROP} to 1", lambda value: _is_number(value) and LEAST_CROP <= value <= 1)
    preprocessing = {
        "mean": cfg.three("mean"),
        "std": cfg.three("std", positive=True),
        "interpolation": cfg.one_of("interpolation", (*INTERPOLATIONS, "random")),
        "crop_pct": crop_pct,
        "crop_mode": cfg.one_of("crop_mode", CROP_MODES),
    }
    if preprocessing["interpolation"] == "random":  # of training, and none to evaluate with
        preprocessing["interpolation"] = None
    read = _pixels(preprocessing, file)
    names = _label_names(cfg)
    problem = fields.one_of("problem_type", (*_NOT_ONE_CLASS, "single_label_classification"))
    not_classes = _NOT_ONE_CLASS.get(problem, "")
    return Configuration(
        architecture=architecture or None,
        tag=cfg.text("tag") or tag or None,
        num_classes=fields.whole("num_classes") if "num_classes" in found else cfg.whole("num_classes"),
        input_size=_input_size(fields, cfg),
        pool=_pool(fields),
        class_names=names,
        one_class=False if not_classes else True if names or problem else None,
        not_classes=not_classes and f"{file.name} says problem_type {problem}: {not_classes}",
        preprocessing=read,
        said_by=dict.fromkeys(read, file.name),
    )


def _input_size(fields: _Fields, cfg: _Fields) -> tuple[int, int] | None:
    """timm's input_size (3, height, width), or transformers' image_size, one number or two."""

    def are_sides(value: Any) -> bool:
        return isinstance(value, list) and all(type(side) is int and side > 0 for side in value)

    found = cfg("input_size", "as [3, 224, 224]", lambda value: are_sides(value) and len(value) == 3)
    if found is not None:
        return found[1], found[2]
    found = fields(
        "image_size",
        "one or two numbers of pixels",
        lambda value: (type(value) is int and value > 0) or (are_sides(value) and len(value) == 2),
    )
    if found is None:
        return None
    return (found, found) if isinstance(found, int) else (found[0], found[1])


def _pool(fields: _Fields) -> str | None:
    """timm's `global_pool`, which arguments of the model have over the configuration; "" is no pooling."""
    arguments: dict[str, Any] = fields("model_args", "an object", lambda value: isinstance(value, dict)) or {}
    over = _Fields({**fields.found, **arguments}, fields.file)
    found: str | None = over.one_of("global_pool", ("", *POOLS))
    return found or None


def _label_names(fields: _Fields) -> tuple[str, ...]:
    """Class names in the order of the outputs: timm's `label_descriptions` of `label_names`, or `id2label`."""
    listed = fields(
        "label_names", "a list of texts", lambda value: isinstance(value, list) and all(map(_is_name, value))
    )
    described = fields(
        "label_descriptions",
        "an object of texts",
        lambda value: isinstance(value, dict) and all(map(_is_name, value.values())),
    )
    if listed:
        texts = described or {}
        return tuple(str(texts.get(name) or name).strip() for name in listed)
    by_id = fields(
        "id2label", 'an object such as {"0": "cat"}', lambda value: isinstance(value, dict) and _is_numbered(value)
    )
    if not by_id:
        return ()
    names = tuple(by_id[str(index)].strip() for index in range(len(by_id)))
    # What transformers writes when nobody named the classes.
    return () if all(name == f"LABEL_{index}" for index, name in enumerate(names)) else names


def _is_numbered(names: dict[str, Any]) -> bool:
    return all(_is_name(names.get(str(index))) for index in range(len(names)))


def _is_name(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip()) and value.isprintable()


def _of_preprocessor(found: dict[str, Any], file: Path) -> dict[str, Any]:
    """transformers' preprocessing, as timm's evaluation transform does it.

    A size of height and width squashes the picture to it; one of the shortest edge keeps its shape. What is cropped
    from the middle is a share of that size. Resized pixels differ by up to 2 of 255 levels, and the crop lies one pixel
    aside where resized side less cropped side is 3 more than a multiple of 4: the two round halves otherwise.

    Raises:
        ModelError: It does something that timm's transform does not.
    """
    fields = _Fields(found, file)
    is_flag: tuple[str, Callable[[Any], bool]] = ("true or false", lambda value: isinstance(value, bool))
    said: dict[str, Any] = {"interpolation": _RESAMPLE.get(fields.one_of("resample", tuple(_RESAMPLE)))}
    # Values are x · factor, less the mean, by std; timm's are x / 255 first.
    factor = 255 * (fields("rescale_factor", "a number over 0", lambda v: _is_number(v) and v > 0) or 1 / 255)
    factor = 255.0 if fields("do_rescale", *is_flag) is False else factor
    mean, std = fields.three("image_mean"), fields.three("image_std", positive=True)
    if fields("do_normalize", *is_flag) is False:
        mean, std = (0.0,) * 3, (1.0,) * 3
    offset = 1 if fields("rescale_offset", *is_flag) else 0  # is subtracted before the mean is
    said["mean"] = mean and tuple(round((value + offset) / factor, 9) for value in mean)
    said["std"] = std and tuple(round(value / factor, 9) for value in std)
    crops = fields("do_center_crop", *is_flag)
    if fields("do_resize", *is_flag) is False:
        if crops:
            raise ModelError(
                f"{file}: pictures are cropped and not resized, so that each is seen at another scale; timm's "
                "transform cannot do that. Resize the pictures, or move the file elsewhere"
            )
        return _pixels(said | {"crop_mode": "squash", "crop_pct": 1.0}, file)  # they have the model's size already
    return _pixels(said | _sizes(fields, crops=crops), file)


def _sizes(fields: _Fields, *, crops: bool | None) -> dict[str, Any]:
    """Crop mode and crop share of a processor's `size` and `crop_size`."""
    size, cropped = _sides(fields, "size"), _sides(fields, "crop_size")
    if size is None:
        return {}
    height, width, keeps_shape = size
    if keeps_shape is None:
        kind = fields.text("image_processor_type") or fields.text("feature_extractor_type") or ""
        keeps_shape = bool(re.search(r"CLIP|^Bit", kind))
        if crops and not keeps_shape and not re.match(r"ViT|DeiT|Beit", kind):
            raise ModelError(
                f"{fields.file}: size is one number, which may mean the shortest edge or both sides; write "
                '{"shortest_edge": 224} or {"height": 224, "width": 224}'
            )
    if crops and cropped is not None and not keeps_shape and cropped[0] * width != cropped[1] * height:
        raise ModelError(
            f"{fields.file}: size and crop_size are of another shape, {height}×{width} and {cropped[0]}×{cropped[1]}, "
            "which timm's transform cannot do; mend it, or move the file elsewhere"
        )
    if keeps_shape:
        if not crops or cropped is None:
            raise ModelError(
                f"{fields.file}: pictures keep their shape and are not cropped, so that each has a size of its own; a "
                "ViT of one grid of patches needs size with height and width, or do_center_crop with crop_size"
            )
        return {"crop_mode": "center", "crop_pct": _share(min(cropped[:2]), height, fields.file)}
    share = _share(cropped[0], height, fields.file) if crops and cropped is not None else 1.0
    return {"crop_mode": "squash", "crop_pct": share}


def _share(cropped: int, resized: int, file: Path) -> float:
    """The share that is cropped, such that timm's rounding of cropped / share down gives the resized side again."""
    share = cropped / resized
    if not LEAST_CROP <= share <= 1:
        raise ModelError(f"{file}: crop_size is {cropped} of {resized} pixels; right is a share of {LEAST_CROP} to 1")
    return share if math.floor(cropped / share) == resized else math.nextafter(share, 0)


def _sides(fields: _Fields, name: str) -> tuple[int, int, bool | None] | None:
    """Height, width, and whether it is the shortest edge; None for one number, as older files have it."""
    sets = ({"height", "width"}, {"shortest_edge"})

    def is_right(value: Any) -> bool:
        if type(value) is int:
            return value > 0
        return isinstance(value, dict) and set(value) in sets and all(type(x) is int and x > 0 for x in value.values())

    found = fields(name, 'as {"height": 224, "width": 224} or {"shortest_edge": 224}', is_right)
    if found is None:
        return None
    if isinstance(found, int):
        return found, found, None
    if "shortest_edge" in found:
        return found["shortest_edge"], found["shortest_edge"], True
    return found["height"], found["width"], False
