"""How was a study made? What its numbers stand on, who said it, and what was assumed, in the same words everywhere.

It is read off a study's root attributes, or off as much of them as the price of a study that is not there yet knows.
"""

from collections.abc import Mapping, Sequence
from typing import Any

_LABELS = {
    "label map": "by the label map",
    "wnids": "by WordNet ids",
    "class names": "by class names",
    "class indices": "by the number of the class",
    "folders": "the folders are the classes; the model predicts none",
    "no labels": "no image has a label",
}


def provenance_rows(attrs: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Rows of a name and a sentence, of the parts of `attrs` that are there: "model", "weights", "settings", "made"."""
    model, made = attrs["model"], attrs.get("made", {})
    rule = attrs.get("settings", {}).get("labels")
    rows = [
        ("weights", weights_in_words(attrs["weights"], made)),
        ("outputs", made.get("outputs")),
        ("class names", made.get("classes")),
        ("labels", _LABELS.get(rule, rule)),
        ("preprocessing", preprocessing_in_words(model, made)),
        ("pooling", _with_source(model["pool"], made.get("pool"))),
        ("prefix tokens", ", ".join(model["prefix_tokens"]) or "none"),
        ("position embeddings", made.get("positions")),
    ]
    return [(name, said) for name, said in rows if said]


def questions(attrs: Mapping[str, Any]) -> list[str]:
    """What a person should check: what was assumed and may be otherwise. A sentence each, with what to do."""
    found: list[str] = attrs.get("made", {}).get("questions", [])
    return found


def weights_in_words(weights: Mapping[str, Any], made: Mapping[str, Any]) -> str:
    """Whose weights, and which part of their file."""
    words = {"random": "random, never trained", "pretrained": "timm's own"}
    parts = [words.get(weights["kind"], str(weights["file"]))]
    if made.get("part"):
        others = [part for part in made.get("parts", []) if part != made["part"]]
        parts.append(f"its part {made['part']}" + (f" (it also has {', '.join(others)})" if others else ""))
    if made.get("prefix"):
        parts.append(f"names without their beginning {made['prefix']}")
    if made.get("passed_over"):
        parts.append(f"not read: {_some(made['passed_over'], made['num_passed_over'])}")
    return "; ".join([*parts, f"SHA-256 {weights['sha256'][:16]}…"])


def preprocessing_in_words(model: Mapping[str, Any], made: Mapping[str, Any]) -> str:
    """How pictures become the model's input."""
    known = made.get("preprocessing", model)
    height, width = model["input_size"]
    said = [f"{height}×{width} pixels"]
    if "interpolation" in known:
        said.append(str(known["interpolation"]))
    if "crop_pct" in known:
        how = {"squash": "squashed", "border": "padded"}.get(
            known.get("crop_mode", "center"), "cropped from the middle"
        )
        said.append(f"{how} at {known['crop_pct']:.4g}")
    said += [f"{name} {', '.join(f'{x:.4g}' for x in known[name])}" for name in ("mean", "std")]
    return _with_source(", ".join(said), known.get("source"))


def _with_source(said: str, source: str | None) -> str:
    return f"{said} ({source})" if source else said


def _some(names: Sequence[str], number: int) -> str:
    more = number - 5
    return ", ".join(names[:5]) + (f" … and {more} more" if more > 0 else "")
