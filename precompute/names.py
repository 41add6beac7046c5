"""Which model does a name mean? The timm names that Headscope takes, and what to say of every other one."""

import difflib
import fnmatch
import re

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


def supported_names(pattern: str = "*") -> list[str]:
    """timm names of the architectures that Headscope takes, sorted; `pattern` as in a shell, or a part of the name."""
    names = [n for module in _MODULES for n in timm.list_models(module=module)]
    names = [_DEMO, *(n for n in names if not any(part in n for part in _OTHER_BLOCKS))]
    wanted = pattern if any(c in pattern for c in "*?[") else f"*{pattern}*"
    return sorted(fnmatch.filter(names, wanted))


def check_name(name: str) -> None:
    """Refuse a name that timm does not have, or whose architecture is not a plain ViT, without making its weights.

    Raises:
        ModelError, UnsupportedModelError
    """
    architecture = name.split(".")[0][:MOST_NAME]
    if not re.fullmatch(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)?", name) or not timm.is_model(architecture):
        close = difflib.get_close_matches(architecture, supported_names(), n=3)
        hint = f"did you mean {', '.join(close)}? " if close else ""
        raise ModelError(
            f"{name[:MOST_NAME]!r} is not a timm model name; {hint}`headscope models` lists the supported names"
        )
    if architecture in supported_names():
        return
    with torch.device("meta"):
        ViT(timm.create_model(architecture).eval(), name)  # says what is unusual about it
    raise UnsupportedModelError(f"{name} is not among the tested architectures. {SUPPORTED}")
