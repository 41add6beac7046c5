"""What is known of a model that none of its tensors says, who said it, and what had to be assumed?

Preprocessing, pooling, what the outputs mean and what their classes are called. In this order they are believed: what
the person says, the configuration beside the weights, what the tensors' names show, and timm's configuration of the
name. Where timm's is assumed for a file, and weights of the same shape are known to need another, that is a question.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data import resolve_model_data_config
from timm.models import get_arch_pretrained_cfgs
from torch import Tensor, nn

from analyses.vocabulary import POOLS
from precompute.configuration import Configuration, configuration_beside
from precompute.errors import ModelError
from precompute.names import missing_classifier, supported_names
from precompute.outputs import (
    Outputs,
    named_classes,
    outputs_as_said,
    outputs_of_file,
    outputs_of_timm,
    subset_of,
)

PREPROCESSING = ("mean", "std", "interpolation", "crop_pct", "crop_mode")
MOST_OTHERS = 3  # ways of preprocessing that a question names


@dataclass(frozen=True)
class Choices:
    """What a person says of a model; None and "auto" leave it to the files and to timm.

    weights: which of two sets of weights in one file: "auto", "ema" or "plain"
    pool:    how the head reads the tokens, one of POOLS
    outputs: "classes" of which one is true of an image, or "other"
    names:   how many class names were given
    mean, std: by which pixels of 0 to 1 are normalised, of red, green and blue
    crop_pct:  share of the resized picture's side that is cropped from its middle
    positions: "as they are" or "resampled": of position embeddings that fit two sizes; None leaves it to what is known
    beside:    whether the configuration beside a file of weights is read
    """

    weights: str = "auto"
    pool: str | None = None
    outputs: str = "auto"
    names: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    interpolation: str | None = None
    crop_pct: float | None = None
    crop_mode: str | None = None
    positions: str | None = None
    beside: bool = True

    @property
    def preprocessing(self) -> dict[str, Any]:
        """Of PREPROCESSING, what is said."""
        said = {name: getattr(self, name) for name in PREPROCESSING}
        return {name: value for name, value in said.items() if value is not None}


@dataclass(frozen=True)
class Provenance:
    """What no tensor says, and who said it.

    class_names:   in the order of the outputs; empty where nobody knows them
    wnids:         WordNet ids of the classes, where they are ImageNet's
    preprocessing: those of PREPROCESSING that are not timm's for the name
    sources:       sentences, by "outputs", "classes", "pool", "preprocessing", "positions"
    questions:     what was assumed though it may well be otherwise, and how to say it; a sentence each
    """

    class_names: tuple[str, ...] = ()
    wnids: tuple[str, ...] | None = None
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    questions: tuple[str, ...] = ()


def of_timms_weights(name: str, model: Any, choices: Choices, *, trained: bool) -> tuple[Outputs, Provenance]:
    """What is known of a model with timm's own weights of that name, or of random ones.

    Args:
        trained: Whether the weights are timm's own.
    Raises:
        ModelError: What the person says cannot be.
    """
    count = int(model.num_classes)
    outputs = outputs_as_said(choices.outputs, count, choices.names, name) or outputs_of_timm(name, count)
    names, wnids, rule = _timms_classes(outputs, model)
    questions = [_quick_gelu(name, names_a_tag=True)] if trained else []
    return outputs, Provenance(
        names,
        wnids,
        choices.preprocessing,
        {
            "outputs": (missing_classifier(name) if trained and not count else None) or outputs.why,
            "classes": rule,
            "pool": _pool_source(choices, f"timm's configuration of {name}"),
            "preprocessing": _preprocessing_source(choices, None, f"timm's configuration of {name}"),
        },
        tuple(question for question in questions if question),
    )


class OfFile:
    """What is known of weights from a file: first with which arguments their model is made, then what that model is.

    Args:
        state: The tensors, by timm's names.
        file: Where they were read; the configuration beside it is read too.
    Raises:
        ModelError: The configuration cannot be understood.
    """

    def __init__(self, name: str, state: Mapping[str, Tensor], file: Path, choices: Choices) -> None:
        self.name, self.state, self.file, self.choices = name, state, file, choices
        self.architecture, _, self.tag = name.partition(".")
        with torch.device("meta"):
            self.own: Any = timm.create_model(name)  # as timm's weights of the name are
        self.questions: list[str] = []
        self.sources: dict[str, str] = {}
        self.configuration = self._configuration()

    def _configuration(self) -> Configuration | None:
        """What lies beside the file, if it is of these weights."""
        found = configuration_beside(self.file, self.architecture) if self.choices.beside else None
        if found is None:
            return None
        if found.architecture not in (None, self.architecture):
            self.questions.append(
                f"config.json beside {self.file.name} is of {found.architecture}, not of {self.architecture}, so "
                "nothing beside the weights was used; give that name if they are of it, or move the file elsewhere"
            )
            return None
        head = self.state.get("head.weight")
        outputs = None if head is None or not head.dim() else len(head)
        fitting = (None, outputs, 2 if outputs == 1 else outputs)
        for said in (found.num_classes, len(found.class_names) or None):
            if outputs is not None and said not in fitting:
                self.questions.append(
                    f"config.json beside {self.file.name} is of {said} outputs and the head has {outputs}: it may be "
                    "another model's, so nothing beside the weights was used; mend it, or move it elsewhere"
                )
                return None
        return found

    # With what arguments its model is made

    def arguments(self) -> dict[str, Any]:
        """Arguments of timm's `create_model`, where they are not the name's own.

        Raises:
            ModelError: The tensors and what is said of them exclude each other.
        """
        found: dict[str, Any] = {}
        head, distilled = self.state.get("head.weight"), self.state.get("head_dist.weight")
        outputs = 0 if head is None else len(head) if head.dim() else -1
        if outputs not in (-1, self.own.num_classes) and (head is not None or "head.bias" not in self.state):
            found["num_classes"] = outputs
        if (
            head is not None
            and distilled is not None
            and len(head) != len(distilled)
            and hasattr(self.own, "head_dist")
        ):
            raise ModelError(
                f"{self.file.name}: head has {len(head)} outputs and head_dist {len(distilled)}; {self.name} averages "
                "the two, so both must be of the same classes. Train both, or name another architecture"
            )
        pool = self._pool()
        normed_after = "fc_norm.weight" in self.state
        says_norm = normed_after != ("norm.weight" in self.state)
        has_fc_norm = not isinstance(self.own.fc_norm, nn.Identity)
        if pool != self.own.global_pool:
            found["global_pool"] = pool
        if says_norm and (normed_after != has_fc_norm or "global_pool" in found):
            found["fc_norm"] = normed_after
        return found

    def _pool(self) -> str:
        """How the head reads the tokens; notes who says so."""
        attends = any(key.startswith("attn_pool.") for key in self.state)
        after, before = "fc_norm.weight" in self.state, "norm.weight" in self.state
        own = str(self.own.global_pool)
        said = self.configuration.pool if self.configuration is not None else None
        asked = "--pool"
        if self.choices.pool is not None:
            pool, source = self.choices.pool, "--pool"
        elif said is not None:
            pool, source, asked = said, "config.json beside the weights", "global_pool of config.json is"
        elif attends:
            pool, source = "map", "the file, which has attn_pool"
        elif after and not before and own not in ("avg", "avgmax", "max"):
            pool, source = "avg", "the file, which has fc_norm (a norm after averaging) and no norm"
        elif self.tag:
            pool, source = own, f"timm's configuration of {self.name}"
        else:
            pool, source = own, f"timm's configuration of {self.name}, assumed of this file"
        self.sources["pool"] = source
        check_pool(self.name, self.own, pool, asked)
        if (pool == "map") != attends:
            has = "has attn_pool, which pools by attention (map)" if attends else "has no attn_pool, which map needs"
            raise ModelError(f"{asked} {pool}: {self.file.name} {has}; give another pooling (--pool)")
        return pool

    def image_size(self, asked: tuple[int, int] | None) -> tuple[int, int] | None:
        """The size that the model is made at, (height, width); None for the name's own.

        Position embeddings are taken as they are where their number fits that size, and never resampled twice: a file
        that was trained at a size is made at that size. If only the name's own size fits, or the file is known to be
        of it, the model is made so and may be resampled afterwards.

        Args:
            asked: What the person wants.
        Raises:
            ModelError: The file was trained at neither.
        """
        rows, own_rows = self._rows()
        if rows is None or own_rows is None:
            return None
        own = tuple(self.own.patch_embed.img_size)
        said = self.configuration.input_size if self.configuration is not None else None
        if asked is None and said not in (None, own):
            height, width = self.own.patch_embed.patch_size
            if rows == self._rows_at(said) and not said[0] % height and not said[1] % width:
                asked = said
            elif rows == own_rows:
                self._ask_about_size(said, own)
        if asked is None and rows == own_rows:
            return None
        if asked is None or rows not in (own_rows, self._rows_at(asked)):
            raise self._wrong_size(rows, asked)
        fits_both = rows == own_rows and asked != own
        known_to_be_own = bool(self.tag) or said == own
        resample = self.choices.positions == "resampled" if self.choices.positions else fits_both and known_to_be_own
        if rows != self._rows_at(asked) or (fits_both and resample):
            return None
        self.sources["positions"] = f"as they are in the file, for {asked[0]}×{asked[1]} pixels"
        if fits_both and said != asked and self.choices.positions is None:
            self._ask_about_grid(asked)
        return asked

    def _ask_about_size(self, said: tuple[int, int], own: tuple[int, ...]) -> None:
        self.questions.append(
            f"config.json says {said[0]}×{said[1]} pixels, and {self.file.name} has the position embeddings of "
            f"{own[0]}×{own[1]}, which is used; give the image size if they are to be resampled to {said[0]}×{said[1]}"
        )

    def _rows(self) -> tuple[int | None, int | None]:
        """Position embeddings of the file and of the name's own; None where they tell nothing of a size.

        That is so where the file is of another architecture, as other tensors show: then that is what is to be said.
        """
        read, own = self.state.get("pos_embed"), getattr(self.own, "pos_embed", None)
        if read is None or own is None or read.dim() != 3:
            return None, None
        shapes = {key: tensor.shape for key, tensor in self.own.state_dict().items() if not key.startswith("head")}
        fits = (key == "pos_embed" or key not in self.state or self.state[key].shape == shapes[key] for key in shapes)
        return (read.shape[1], own.shape[1]) if all(fits) else (None, None)

    def _rows_at(self, size: tuple[int, int]) -> int:
        """Position embeddings of a model made at that size."""
        height, width = self.own.patch_embed.patch_size
        besides = self.own.pos_embed.shape[1] - self.own.patch_embed.num_patches
        return int(size[0] // height * (size[1] // width) + besides)

    def _wrong_size(self, rows: int, asked: tuple[int, int] | None) -> ModelError:
        height, width = self.own.patch_embed.patch_size
        own = self.own.patch_embed.img_size
        patches = rows - (self.own.pos_embed.shape[1] - self.own.patch_embed.num_patches)
        side = round(max(patches, 0) ** 0.5)
        trained = (
            f"trained at {side * height}×{side * width} pixels, if they were square: give --image-size {side * height}"
            if side and side**2 == patches and height == width
            else f"trained at a size of {patches} patches of {height}×{width} pixels: give it with --image-size"
        )
        here = f"at {asked[0]}×{asked[1]} it has {self._rows_at(asked)}" if asked else ""
        at_own = f"at its own {own[0]}×{own[1]} it has {self.own.pos_embed.shape[1]}"
        ours = ", and ".join(filter(None, (here, at_own)))
        return ModelError(
            f"{self.file.name} has {rows} position embeddings; of {self.name}, {ours}. The weights were {trained}"
        )

    def _ask_about_grid(self, size: tuple[int, int]) -> None:
        height, width = self.own.patch_embed.patch_size
        own = self.own.patch_embed.img_size
        grid, own_grid = (f"{each[0] // height}×{each[1] // width}" for each in (size, own))
        self.questions.append(
            f"the position embeddings of {self.file.name} were taken for {grid} patches, as the image size says; "
            f"{own_grid} are as many. Were the weights trained at {size[0]}×{size[1]} pixels? If at {own[0]}×{own[1]}, "
            "leave the image size out"
        )

    # What it is then

    def provenance(self, model: Any) -> tuple[Outputs, Provenance]:
        """What the loaded model's outputs are, and everything else that is known of it.

        Raises:
            ModelError: What the person says cannot be.
        """
        count, choices = int(model.num_classes), self.choices
        outputs = outputs_as_said(choices.outputs, count, choices.names, self.name if count else self.file.name)
        against = self.configuration.not_classes if self.configuration is not None else ""
        if outputs is not None and outputs.are_classes and against:
            self.questions.append(f"the outputs are taken for classes of which one is true, as given; yet {against}")
        if outputs is None:
            outputs, question = outputs_of_file(
                self.name,
                count,
                architectures_own=int(self.own.num_classes),
                bias=self.state.get("head.bias"),
                configuration=self.configuration,
            )
            if question:
                self.questions.append(question)
            if not count and self.own.num_classes:
                outputs = Outputs("other", f"{self.file.name} has no classifier")
        names, wnids = self._class_names(outputs, model)
        said = self.configuration.preprocessing if self.configuration is not None else {}
        preprocessing = dict(said) | choices.preprocessing
        own = f"timm's configuration of {self.name}"
        assumed = own if self.tag else f"{own}, assumed of this file"
        self.sources["outputs"] = outputs.why
        self.sources["preprocessing"] = _preprocessing_source(choices, self.configuration, assumed)
        if not self.tag:
            self._ask_about_preprocessing(model, preprocessing)
        if question := _quick_gelu(self.name, names_a_tag=bool(self.tag)):
            self.questions.append(question)
        return outputs, Provenance(names, wnids, preprocessing, self.sources, tuple(self.questions))

    def _class_names(self, outputs: Outputs, model: Any) -> tuple[tuple[str, ...], tuple[str, ...] | None]:
        """Names and WordNet ids of the classes, if somebody says them; a number of classes is no name."""
        classes = outputs.num_classes(int(model.num_classes))
        said = self.configuration.class_names if self.configuration is not None else ()
        if classes and len(said) == classes:
            self.sources["classes"] = "the names in config.json beside the weights"
            return said, None
        if self._are_timms_own(classes) or self.architecture == "headscope_demo":
            names, wnids, self.sources["classes"] = _timms_classes(outputs, model)
            return names, wnids
        self.sources["classes"] = f"not known, so class 0 to class {classes - 1}" if classes else "none"
        subset = subset_of(classes)
        if subset is not None and self.choices.names is None:
            self.questions.append(
                f"the {classes:,} classes may be those of {subset} or any others, so they have no names here. If they "
                f"are, give {subset} as class names (--classes); if not, a file of their names"
            )
        return (), None

    def _are_timms_own(self, classes: int) -> bool:
        """Whether a tag of timm's says whose the weights are: in the name, or in the configuration beside them."""
        tag = self.tag or (self.configuration.tag if self.configuration is not None else None)
        known = get_arch_pretrained_cfgs(self.architecture).get(f"{self.architecture}.{tag}") if tag else None
        return known is not None and known.num_classes == classes

    def _ask_about_preprocessing(self, model: nn.Module, given: Mapping[str, Any]) -> None:
        """Ask, where weights of the same shape are known that were trained with other pixels."""
        config = resolve_model_data_config(model)
        open_fields = [name for name in PREPROCESSING if name not in given]
        own = {name: config[name] for name in open_fields}
        others: dict[str, str] = {}
        differing: set[str] = set()
        for name, cfg in _of_same_shape(self.architecture):
            other = {each: cfg[each] for each in open_fields if cfg[each] != own[each]}
            differing |= other.keys()
            if other:
                others.setdefault(_in_words(other), name)
        if not others:
            return
        here = _in_words({name: own[name] for name in own if name in differing})
        listed = [f"{words} ({name})" for words, name in others.items()]
        more = f", and {len(listed) - MOST_OTHERS} more ways" if len(listed) > MOST_OTHERS else ""
        self.questions.append(
            f"pictures are prepared with {here}, as timm prepares them for {self.name}; weights of the same shape were "
            f"trained with {'; with '.join(listed[:MOST_OTHERS])}{more}. Which is right for {self.file.name}? Give "
            "mean, std, crop and interpolation, or lay its config.json beside it; on the command line, a tag in the "
            "model's name says it too"
        )


def check_pool(name: str, model: nn.Module, pool: str, asked: str = "--pool") -> None:
    """Refuse a pooling that the architecture cannot have.

    Args:
        asked: Who asks for it, for people.
    Raises:
        ModelError
    """
    if pool not in POOLS:
        raise ModelError(f"{asked} {pool} is none of {', '.join(POOLS)}")
    if hasattr(model, "head_dist") and pool != "token":
        raise ModelError(f"{asked} {pool}: {name} reads its class and distillation tokens; right is token")
    if pool == "token" and not model.has_class_token:
        raise ModelError(f"{asked} token: {name} has no class token; right is avg, or what timm has for it")


def pool_arguments(name: str, pool: str | None) -> dict[str, Any]:
    """Arguments of timm's `create_model` for another pooling of timm's own or of random weights.

    Raises:
        ModelError: The architecture, or its weights, cannot be pooled so.
    """
    if pool is None:
        return {}
    with torch.device("meta"):
        own = timm.create_model(name)
    check_pool(name, own, pool)
    if (pool == "map") != (own.global_pool == "map"):
        raise ModelError(f"--pool {pool}: the weights of {name} are pooled by {own.global_pool}; leave --pool out")
    if pool == own.global_pool:
        return {}
    return {"global_pool": pool, "fc_norm": not isinstance(own.fc_norm, nn.Identity)}


def _timms_classes(outputs: Outputs, model: Any) -> tuple[tuple[str, ...], tuple[str, ...] | None, str]:
    """Names, WordNet ids and their source, of timm's own weights."""
    classes = outputs.num_classes(int(model.num_classes))
    listed = model.pretrained_cfg.get("label_names")
    if classes and listed and len(listed) == classes:
        return tuple(listed), None, "the names in timm's configuration"
    subset = subset_of(classes)
    if subset is None:
        return (), None, f"not known to timm, so class 0 to class {classes - 1}" if classes else "none"
    return *named_classes(subset), f"the names of {subset}, as timm has them"


def _pool_source(choices: Choices, other: str) -> str:
    return other if choices.pool is None else "--pool"


def _preprocessing_source(choices: Choices, configuration: Configuration | None, own: str) -> str:
    """Who says the preprocessing, and for which fields."""
    said = list(choices.preprocessing)
    by_file = {} if configuration is None else {k: v for k, v in configuration.said_by.items() if k not in said}
    left = [name for name in PREPROCESSING if name not in (*said, *by_file)]
    parts = []
    if said:
        parts.append(f"{', '.join(said)} as given")
    for file in dict.fromkeys(by_file.values()):
        read = [name for name in PREPROCESSING if by_file.get(name) == file]
        parts.append(f"{', '.join(read)} from {file} beside the weights")
    if left:
        parts.append(f"{', '.join(left)} from {own}" if parts else own)
    return "; ".join(parts)


def _quick_gelu(name: str, *, names_a_tag: bool) -> str:
    """What to ask of a model that computes GELU where its weights may have been trained with QuickGELU."""
    architecture = name.partition(".")[0]
    if "quickgelu" in architecture:
        return ""
    cfgs = get_arch_pretrained_cfgs(architecture).values()
    quick = [cfg.tag for cfg in cfgs if any("QuickGELU" in note for note in cfg.notes or ())]
    if names_a_tag:
        cfg = timm.get_pretrained_cfg(name)
        quick = [cfg.tag] if cfg is not None and cfg.tag in quick else []
    if not quick:
        return ""
    other = architecture.replace("_clip_", "_clip_quickgelu_")
    instead = f"{other} computes that" if timm.is_model(other) else "timm has no such variant of it"
    which = f"{architecture}.{quick[0]} was" if names_a_tag else f"weights tagged {', '.join(quick)} were"
    return f"{architecture} computes GELU, and {which} trained with QuickGELU; {instead}"


@lru_cache(maxsize=64)
def _of_same_shape(architecture: str) -> tuple[tuple[str, dict[str, Any]], ...]:
    """Names of timm's weights whose tensors fit the architecture, the classifier aside, and their configurations."""
    size = re.search(r"_([a-z0-9]+)_patch(\d+)_", architecture)
    if size is None:
        names = [architecture]
    else:
        names = [architecture, *(n for n in supported_names(f"*{size[0]}*") if n != architecture)]
    shape = _shape(architecture)
    found = []
    for name in names:
        if name == architecture or _shape(name) == shape:
            found += [(tagged, vars(cfg)) for tagged, cfg in get_arch_pretrained_cfgs(name).items()]
    return tuple(found)


def _shape(architecture: str) -> tuple[int, dict[str, torch.Size]]:
    """Heads of a layer, and the shapes of its tensors; one layer tells, as all are alike."""
    with torch.device("meta"):
        model = timm.create_model(architecture, depth=1, num_classes=0)
    return model.blocks[0].attn.num_heads, {name: tensor.shape for name, tensor in model.state_dict().items()}


def _in_words(config: Mapping[str, Any]) -> str:
    """Some of the preprocessing, for people."""
    words = {"mean": "mean", "std": "std", "interpolation": "", "crop_pct": "crop", "crop_mode": "crop mode"}
    said = []
    for name, value in config.items():
        shown = ", ".join(f"{x:.4g}" for x in value) if isinstance(value, tuple | list) else f"{value}"
        said.append(f"{words[name]} {shown}".strip())
    return ", ".join(said)
