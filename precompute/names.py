"""Which model does a name mean? The timm names that Headscope takes, and what to say of every other one."""

import difflib
import fnmatch
import re
import warnings
from contextlib import suppress

import timm
import torch

import precompute.demo.model  # noqa: F401  (registers the demo model's name with timm)
from precompute.errors import ModelError, UnsupportedModelError
from precompute.model import SUPPORTED, ViT

# timm's modules of plain ViTs, and the names in them whose blocks are something else (tests build every one).
_MODULES = ("vision_transformer", "deit")
_OTHER_BLOCKS = ("beit3_", "_18x2_", "_rpn_", "_xp_", "pwee_", "_dwee_", "_dlittle_")
_DEMO = "headscope_demo"

MOST_NAME = 100  # characters of a name that are looked at and shown; timm's longest has 56
NAMED = 5  # of the other names in a message


def supported_names(pattern: str = "*") -> list[str]:
    """timm names of the architectures that Headscope takes, sorted; `pattern` as in a shell, or a part of the name."""
    names = [n for module in _MODULES for n in timm.list_models(module=module)]
    names = [_DEMO, *(n for n in names if not any(part in n for part in _OTHER_BLOCKS))]
    wanted = pattern if any(c in pattern for c in "*?[") else f"*{pattern}*"
    return sorted(fnmatch.filter(names, wanted))


def check_name(name: str) -> None:
    """Refuse a name that timm does not have, or whose architecture is not a plain ViT, without making its weights.

    Raises:
        ModelError: There is no such architecture, it has no such tag, or the name is timm's former one.
        UnsupportedModelError: The architecture is not a plain ViT.
    """
    architecture, _, tag = name[:MOST_NAME].partition(".")
    if not re.fullmatch(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)?", name) or not timm.is_model(architecture):
        close = difflib.get_close_matches(architecture, supported_names(), n=3)
        hint = f"did you mean {', '.join(close)}? " if close else ""
        raise ModelError(
            f"{name[:MOST_NAME]!r} is not a timm model name; {hint}`headscope models` lists the supported names"
        )
    if architecture in supported_names():
        if tag and not _has_tag(name):
            raise ModelError(_no_such_tag(architecture, tag))
        return
    if not timm.list_models(architecture):  # timm knows it, and lists it no more
        raise ModelError(_deprecated(architecture))
    with torch.device("meta"):
        ViT(timm.create_model(architecture).eval(), name)  # says what is unusual about it
    raise UnsupportedModelError(f"{name} is not among the tested architectures. {SUPPORTED}")


def missing_classifier(name: str) -> str | None:
    """What to say of a name whose trained weights have no classifier; None where they have one, or there are none."""
    weights = timm.get_pretrained_cfg(name)
    if weights is None or weights.num_classes or not timm.is_model_pretrained(name):
        return None
    architecture = name.split(".")[0]
    others = [each for each in _trained(architecture) if timm.get_pretrained_cfg(each).num_classes]
    asked = name if "." in name or not weights.tag else f"{name}.{weights.tag}, which timm takes for {name},"
    return f"the trained weights {asked} have no classifier; " + (
        f"with one: {_some(others)}" if others else f"timm has no weights of {architecture} with one"
    )


def _has_tag(name: str) -> bool:
    try:
        timm.get_pretrained_cfg(name)
    except RuntimeError:
        return False
    return True


def _no_such_tag(architecture: str, tag: str) -> str:
    there = [each.partition(".")[2] for each in _trained(architecture)]
    tags = f"its tags: {_some(there)}" if there else "timm has no trained weights of it"
    return (
        f"{architecture} has no weights tagged {tag!r}; {tags}. "
        f"For weights of your own, give the name without a tag, {architecture}, and --checkpoint FILE"
    )


def _trained(architecture: str) -> list[str]:
    """The architecture with each tag that timm has weights for, its default first."""
    default = timm.get_pretrained_cfg(architecture)
    names: list[str] = timm.list_pretrained(f"{architecture}.*")
    return sorted(names, key=lambda each: (default is None or each != f"{architecture}.{default.tag}", each))


def _deprecated(architecture: str) -> str:
    """What to say of a name that timm used to have: the present one, which timm warns of as it makes the model."""
    with torch.device("meta"), warnings.catch_warnings(record=True) as caught, suppress(AssertionError, RuntimeError):
        warnings.simplefilter("always")
        timm.create_model(architecture)  # fails for what was removed, and where the present name has not that tag
    said = (re.search(r"deprecated model name \S+ to current (\S+)\.$", str(each.message)) for each in caught)
    now = next((match[1] for match in said if match), None)
    if now is None:
        return f"{architecture} was removed from timm; `headscope models` lists the supported names"
    if not _has_tag(now):
        return f"{architecture} is a former timm name; {_no_such_tag(*now.split('.'))}"
    return f"{architecture} is a former timm name of {now}; give that"


def _some(names: list[str]) -> str:
    more = f" … and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
