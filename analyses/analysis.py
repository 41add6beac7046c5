"""What is a computed thing? An Analysis: declared once, in a file of its own, and everything else follows from it.

An analysis names functions as "module:function", so that declaring one needs no torch; `resolve` imports them where
they run.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Literal

from analyses.arrays import ArraySpec
from analyses.request import AnalysisRequest

# What an analysis, or one of its arrays, can need. "model": the model itself, in eval mode, without gradients;
# "gradients": the model with gradients; "attention", "residual": what the study has of them; "masks": the masks of
# objects that a person gave; "labels": true classes; "classifier": a model with classes; "cls": a model that reads CLS.
Need = Literal["model", "gradients", "attention", "residual", "masks", "labels", "classifier", "cls"]

# When it is computed. "start": before the images are run. "pass": in the model's pass over each unit of images.
# "after": once all units are there. "request": when a person asks for it, of a published study.
When = Literal["start", "pass", "after", "request"]

Sizes = Mapping[str, int]


@dataclass(frozen=True)
class Analysis:
    """One computed thing.

    Attributes:
        name: By which its steps, its files and its results are known. A package other than Headscope has a name of its
            own before a colon, as in "acme:sharpness", and its arrays begin with the same.
        title: What people call it: on the jobs page, in docs and in messages.
        arrays: What it writes, by name; of these, those that the model allows.
        when: When it is computed.
        function: Computes one unit, as "module:function". "after" and "request": takes a `precompute.unit.Unit` and
            returns arrays by name, or these and a dict of root attributes. "pass": takes a
            `precompute.analysis.ModelPass`, and returns tensors by name, the image axis as declared.
        each_layer: Of "pass": takes the model and a `precompute.model.Layer` and returns tensors by name,
            (image, …) each, which are stacked to (image, layer, …).
        cut: Of "after" and "request": the dimensions that it can be computed along in pieces, each by any worker, of
            "image" and, unless it is asked for, "layer". Empty: it is computed whole, in one unit, by one worker.
        join: Makes the arrays of all pieces, as "module:function": takes a Unit of everything and the pieces' arrays,
            in order. Without it, they are put together along the dimensions in `cut`.
        one_more: Of what is computed whole: the part of one image more, for a picture that a person drops. Takes a Unit
            of that image and the arrays of the image by name. Without it, that part is left empty.
        seconds: About how long the whole takes on two CPU cores, from the sizes of dimensions: units of at most a
            minute are cut by it. It must depend on nothing else, as a run that is resumed is cut as before.
        needs: What a study must have for it; where it lacks that, the arrays are left out, with the reason.
        reads: Arrays of other analyses that it reads: it is computed once those are there.
        counted: What its progress is counted in.
        skipped_by: The word after `--skip` that leaves it out.
        request: Of "request": what a person may ask, with bounds.
        unit_images: Of "request" that is cut along "image": images of one unit, so few that whoever waits sees the
            first units end in a second or two.
    """

    name: str
    title: str
    arrays: Mapping[str, ArraySpec]
    when: When = "after"
    function: str = ""
    each_layer: str = ""
    cut: tuple[str, ...] = ()
    join: str = ""
    one_more: str = ""
    seconds: Callable[[Sizes], float] = field(default=lambda sizes: 0.0)
    needs: tuple[Need, ...] = ()
    reads: tuple[str, ...] = ()
    counted: str = "images"
    skipped_by: str | None = None
    request: type[AnalysisRequest] | None = None
    unit_images: int = 4


def head_images(sizes: Sizes) -> int:
    """How many heads of images there are, layers × heads × images."""
    return sizes["image"] * sizes["layer"] * sizes["head"]


def attention_entries(sizes: Sizes) -> int:
    """How many numbers all attention matrices have."""
    return head_images(sizes) * sizes["token"] ** 2


def resolve(name: str) -> Any:
    """The function (or method, as "module:Class.method") of that name, imported.

    Raises:
        ValueError: There is none; the message says which part of the name is wrong.
    """
    module, _, attribute = name.partition(":")
    try:
        found: Any = import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{name!r} names no function: {error}; write it as module:function") from error
    return found
