"""Which model made a study, and is it here? Its weights looked for, opened, and proved to be the same."""

import os
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

from cachetools import LRUCache

from precompute.demo.model import WEIGHTS as DEMO_WEIGHTS
from precompute.errors import ModelError
from precompute.model import ViT
from precompute.provenance import PREPROCESSING, Choices
from precompute.weights import hub_cache, open_model
from store.settings import Settings
from store.study import Study
from workers.cache import memory_cache


class StudyModelError(ValueError):
    """The model of a study is not here, or what is here is another; the message says where it was looked for."""


# Of models that were opened lately: three ViT-L, or a dozen ViT-B; never more than a share of the memory there is.
MODEL_BYTES = 4_000_000_000
MODEL_SHARE = 1 / 4


def model_bytes(vit: ViT) -> int:
    """Bytes of its weights in memory."""
    return sum(parameter.nbytes for parameter in vit.model.parameters())


@cache
def model_cache() -> LRUCache[Hashable, ViT]:
    """Models that were opened lately, each proved to have the weights of its key."""
    return memory_cache(model_bytes, MODEL_BYTES, MODEL_SHARE)


@dataclass(frozen=True)
class _Source:
    """One place where the weights may be: its name for people, and arguments for `open_model`."""

    place: str
    how: dict[str, Any]


def open_model_of(study: Study, settings: Settings, device: str) -> ViT:
    """The model that the study was made with, in float32 and eval mode.

    Trained weights are taken from the hub's cache and never fetched. A checkpoint is looked for by its name anywhere
    in the folder of models, then where it lay when the study was made. Nothing but equal weights will do.

    Raises:
        StudyModelError: No such weights are here, or only others.
    """
    model, made = study.attrs["model"], study.attrs["weights"]
    sources = list(_sources(study, settings))
    others, refused = [], []
    for source, choices in product(sources, _choices(study)):
        try:
            vit, weights = open_model(
                model["name"],
                image_size=tuple(model["input_size"]),
                device=device,
                fetch=False,
                choices=choices,
                **source.how,
            )
        except ModelError as error:
            refused.append(str(error))
            continue
        if weights.sha256 == made["sha256"]:
            return vit
        others.append(f"{source.place} (sha256 {weights.sha256[:12]}…)")
    wanted = f"study {study.name} was made with {_described(made)}"
    if others:
        raise StudyModelError(f"weights differ: {wanted}, but here is {' and '.join(others)}; {_next_step(made)}")
    looked = " nor ".join(_places(study, settings))
    why = f": {'; '.join(refused)}" if refused else ""
    raise StudyModelError(f"weights not here: {wanted}, and they are not in {looked}{why}; {_next_step(made)}")


def cached_model_of(study: Study, settings: Settings, device: str) -> ViT:
    """As `open_model_of`, from `model_cache` if it is there."""
    model = study.attrs["model"]
    key = (study.attrs["weights"]["sha256"], model["name"], tuple(model["input_size"]), device, _choices(study))
    vit = model_cache().get(key)
    if vit is None:
        vit = model_cache()[key] = open_model_of(study, settings, device)
    return vit


def _choices(study: Study) -> tuple[Choices, ...]:
    """What was known of the model when the study was made.

    Studies that do not tell it were made of the plain weights of a file, or of the only ones that it has.
    """
    model, made = study.attrs["model"], study.attrs.get("made")
    if made is not None:
        return (_hashable(made["choices"]),)
    known = {name: model[name] for name in PREPROCESSING if name in model}
    known |= {"outputs": "classes" if model["num_classes"] else "other", "positions": "resampled"}
    if model["pool"] != "none":
        known["pool"] = model["pool"]
    kinds = ("plain", "ema") if study.attrs["weights"]["kind"] == "checkpoint" else ("auto",)
    return tuple(_hashable(known | {"weights": kind}) for kind in kinds)


def _hashable(choices: dict[str, Any]) -> Choices:
    hashable: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in choices.items()}
    return Choices(**hashable, beside=False)


def _sources(study: Study, settings: Settings) -> Iterator[_Source]:
    made, name = study.attrs["weights"], study.attrs["model"]["name"]
    if made["kind"] == "random":
        seed = study.attrs["settings"]["seed"]
        yield _Source(f"what torch draws from seed {seed}", {"random_seed": seed})
    elif made["kind"] == "pretrained":
        yield _Source(f"timm's {name} in {hub_cache()}", {})
    else:
        if name == "headscope_demo" and made["file"] == DEMO_WEIGHTS.name:
            yield _Source("Headscope's own", {"checkpoint": DEMO_WEIGHTS})
        for file in [*_named(settings.models, made["file"]), *_lay(study)]:
            yield _Source(str(file), {"checkpoint": file})


def _places(study: Study, settings: Settings) -> list[str]:
    made = study.attrs["weights"]
    if made["kind"] != "checkpoint":
        return [source.place for source in _sources(study, settings)]
    lay = study.manifest.run.get("checkpoint")
    return [f"{settings.models} (looked for {made['file']})", *([str(lay)] if lay else [])]


def _described(made: dict[str, Any]) -> str:
    of = {"random": "random weights", "pretrained": "timm's trained weights"}
    return f"{of.get(made['kind'], made['file'])} (sha256 {made['sha256'][:12]}…)"


def _next_step(made: dict[str, Any]) -> str:
    if made["kind"] == "checkpoint":
        return f"put the {made['file']} that it was made with into the folder of models, and ask again"
    if made["kind"] == "random":
        return "compute the study anew with the torch that is installed"
    return "run `headscope precompute` with that model once where the hub can be reached, or compute the study anew"


def _named(models: Path, name: str) -> list[Path]:
    """Files of that name in the folder and below it, sorted; none that a link leads out to."""
    root = Path(os.path.realpath(models))
    found = (Path(parent, name) for parent, _, files in os.walk(root) if name in files)
    return sorted(file for file in found if Path(os.path.realpath(file)).is_relative_to(root))


def _lay(study: Study) -> list[Path]:
    """Where the checkpoint lay when the study was made, if that is known and it is still there."""
    noted = study.manifest.run.get("checkpoint")
    return [Path(noted)] if noted and Path(noted).is_file() else []
