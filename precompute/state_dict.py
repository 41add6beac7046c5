"""Do these tensors make this model? All of them, by name and shape, or a refusal that says what they are instead."""

import functools
import re
from collections.abc import Callable
from pathlib import Path

import timm
import torch
from torch import Tensor, nn

from precompute.checkpoint import Checkpoint
from precompute.errors import ModelError

NAMED_IN_ERRORS = 5
MOST_FITTING = 3

# Tensors that only training reads: timm passes over the first, and its models have no place for the others.
# Each is passed over where the model has none of that name.
UNUSED = (
    r"mask_token",  # of masked patches: BEiT, MAE, DINOv2
    r"decoder_\w+(\..+)?",  # MAE's decoder
    r"lm_head\..+",  # BEiT's prediction of visual tokens
)
# DeiT's classifier of its distillation token; without that token in the file nothing can have read it.
DISTILLED = r"head_dist\..+"

# Other layouts, told by a name that timm has no place for: https://github.com/huggingface/transformers and others
LAYOUTS = (
    ("the transformers library", r"(.+\.)?layers?\.\d+\.(attention|self_attn)\..+"),
    ("torchvision", r"(.+\.)?encoder_layer_\d+\..+"),
    ("OpenAI's CLIP and open_clip", r"(.+\.)?transformer\.resblocks\.\d+\..+"),
    ("OpenMMLab", r"(.+\.)?(patch_embed\.projection\..+|layers\.\d+\.ffn\..+)"),
    ("DINOv3's authors", r"storage_tokens|rope_embed\.periods"),
    ("DINOv2's authors", r"register_tokens|blocks\.\d+\.\d+\..+|blocks\.\d+\.mlp\.w12\..+"),
    ("BEiT and EVA", r"(.+\.)?relative_position_bias_table|blocks\.\d+\.attn\.q_bias"),
    ("DeiT III's authors", r"blocks\.\d+\.gamma_1"),
)
SAVE = "save the whole state dict of timm's model, model.state_dict()"


def load_state(model: nn.Module, checkpoint: Checkpoint, name: str, file: Path) -> tuple[str, ...]:
    """Copy the checkpoint into the model: every tensor of the model, from a tensor of its name and shape.

    Args:
        name: The model's, for people.
        file: Where the checkpoint was read from, for people.
    Returns:
        Names of tensors that were passed over, as only training reads them (UNUSED).
    Raises:
        ModelError: Tensors are missing, left over, of another shape or of whole numbers; names them, what tells the
            two apart, and the next step.
    """
    wanted, state = model.state_dict(), checkpoint.tensors
    unused = {key for key in state if key not in wanted and _is_unused(key, state)}
    problems = {
        "missing": [key for key in wanted if key not in state],
        "extra": [key for key in state if key not in wanted and key not in unused],
        "misshapen": [
            f"{key} is {tuple(state[key].shape)}, not {tuple(wanted[key].shape)}"
            for key in wanted
            if key in state and state[key].shape != wanted[key].shape
        ],
        "of whole numbers": [
            f"{key} ({state[key].dtype})"
            for key in wanted
            if key in state and wanted[key].is_floating_point() and not state[key].is_floating_point()
        ],
    }
    if any(problems.values()):
        where = [
            *([f"its weights lie under {checkpoint.part!r}"] if checkpoint.part else []),
            *([f"their names begin with {checkpoint.prefix!r}"] if checkpoint.prefix else []),
            *_differences(state, wanted),
            *(f"{len(keys)} {kind}: {_named(keys)}" for kind, keys in problems.items() if keys),
        ]
        raise ModelError(
            f"{file.name} is not a checkpoint of {name} ({'; '.join(where)}); {_advice(state, wanted, problems)}"
        )
    model.load_state_dict({key: state[key] for key in wanted})
    return tuple(key for key in state if key in unused)


def _is_unused(key: str, state: dict[str, Tensor]) -> bool:
    unread = (*UNUSED, DISTILLED) if "dist_token" not in state else UNUSED
    return any(re.fullmatch(pattern, key) for pattern in unread)


def _named(keys: list[str]) -> str:
    more = f" … and {len(keys) - NAMED_IN_ERRORS} more" if len(keys) > NAMED_IN_ERRORS else ""
    return ", ".join(keys[:NAMED_IN_ERRORS]) + more


# ---- what it is instead

_READ_OFF: dict[str, Callable[[dict[str, Tensor]], int | str]] = {
    "blocks": lambda state: len({key.split(".")[1] for key in state if re.match(r"blocks\.\d+\.norm1\.", key)}),
    "width": lambda state: len(state["blocks.0.norm1.weight"]),
    "patches": lambda state: "x".join(map(str, state["patch_embed.proj.weight"].shape[2:])),
    "positions": lambda state: state["pos_embed"].shape[1],
    "classes": lambda state: len(state["head.weight"]),
}  # the sizes that shapes tell; heads are not among them


def _differences(state: dict[str, Tensor], wanted: dict[str, Tensor]) -> list[str]:
    """The sizes by which two state dicts differ, for people."""
    found = []
    for size, read in _READ_OFF.items():
        try:
            theirs, ours = read(state), read(wanted)
        except (KeyError, IndexError, TypeError):  # one has no such tensor, or a scalar of that name
            continue
        if theirs != ours and theirs:
            found.append(f"{size} {theirs}, not {ours}")
    return found


def _advice(state: dict[str, Tensor], wanted: dict[str, Tensor], problems: dict[str, list[str]]) -> str:
    for layout, pattern in LAYOUTS:
        known = next((key for key in problems["extra"] if re.fullmatch(pattern, key)), None)
        if known:
            return f"its names are those of {layout} ({known}), which are not read yet: give a file with timm's names"
    if any(key.startswith("pre_logits.") for key in problems["extra"]):
        return "its layer pre_logits, before the classifier, is no longer part of timm's models; train one without it"
    if _shapes(state) != _shapes(wanted) and (fitting := _fitting(state)):
        verb = "fits" if len(fitting) == 1 else "fit"
        return f"name the architecture it was made for: by its shapes {' or '.join(fitting)} {verb}"
    return SAVE


def _fitting(state: dict[str, Tensor]) -> list[str]:
    """Supported architectures whose tensors have these names and shapes, but for classifiers; the simplest names."""
    from precompute.names import supported_names

    shapes = _shapes(state)
    patch = shapes.get("patch_embed.proj.weight", ())
    if len(patch) != 4:
        return []
    first = {key: shape for key, shape in shapes.items() if not re.match(r"blocks\.[1-9]", key)}
    found: list[str] = []
    for name in sorted(supported_names(), key=lambda each: (len(each), each)):
        if "patch" in name and f"patch{patch[-1]}_" not in name:
            continue
        if _on_paper(name, depth=1) == first and _on_paper(name) == shapes:
            found.append(name)
        if len(found) == MOST_FITTING:
            break
    return found


@functools.cache
def _on_paper(name: str, **changes: int) -> dict[str, tuple[int, ...]]:
    """The shapes of the model's tensors. Nothing has values, and yet it takes 10 to 30 ms a block and model."""
    with torch.device("meta"):
        return _shapes(timm.create_model(name, **changes).state_dict())


def _shapes(state: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    kept = (key for key in state if not key.startswith(("head.", "head_dist.")) and not _is_unused(key, state))
    return {key: tuple(state[key].shape) for key in kept}
