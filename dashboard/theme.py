"""Which colour stands for what? All colours of the page; the style sheet gets them as variables."""

from dataclasses import dataclass, fields

Ramp = tuple[str, ...]  # from the lowest value to the highest, evenly spaced

# The system's own font: nothing is fetched, and digits can be set to one width.
FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "Liberation Sans", sans-serif'


@dataclass(frozen=True)
class Palette:
    """One theme.

    Attributes:
        page, panel, line, text, muted, faint: Greys of everything that is no data.
        accent: What is selected, and nothing else.
        danger, warn: Study-wide warnings.
        right, wrong: Predictions; their shapes differ too.
        unknown: Data without a value.
        sequential: Magnitudes: importance, probability.
        diverging: Signed change, about zero in the middle.
        layers: The model's layers, from the first to the last; the first stands out most.
        density: How many heads are somewhere on a map; from nothing, which is the panel.
        cls: Attention from or to a prefix token, blue as in the paper.
        patch: Attention between patches, orange as in the paper.
        classes: Twelve, apart under the common colour-vision deficiencies: neighbours differ in lightness.
    """

    page: str
    panel: str
    line: str
    text: str
    muted: str
    faint: str
    accent: str
    danger: str
    warn: str
    right: str
    wrong: str
    unknown: str
    sequential: Ramp
    diverging: Ramp
    layers: Ramp
    density: Ramp
    cls: Ramp
    patch: Ramp
    classes: Ramp


LIGHT = Palette(
    page="#f3f4f6",
    panel="#ffffff",
    line="#e1e4e8",
    text="#1b2026",
    muted="#5b6570",
    faint="#98a1ab",
    accent="#d6186c",
    danger="#b3261e",
    warn="#8a5a00",
    right="#2d8f83",
    wrong="#a85c19",
    unknown="#c3c8ce",
    sequential=("#eef3f2", "#c9e0db", "#90c3b8", "#4e9f92", "#1d766b", "#073f3a"),
    diverging=("#5b2f82", "#9a78b8", "#d3c5de", "#e6e8ea", "#b4d5ce", "#4e9f92", "#0a5a51"),
    layers=("#2d1160", "#35478c", "#287d8e", "#2fa578", "#86c440", "#e0cf28"),
    density=("#ffffff", "#e6e9ed", "#cdd3d9", "#aab3bc", "#838e99", "#5f6a75"),
    cls=("#ffffff", "#d6e4f3", "#9dc3e4", "#5a97cf", "#2166ac", "#08306b"),
    patch=("#ffffff", "#fde4cc", "#fbb97f", "#f28a35", "#cf5b0b", "#7f2d04"),
    classes=(
        *("#0072b2", "#7cc4ee", "#007d5b", "#9bc53d", "#e69f00", "#c44e00"),
        *("#6a3fa0", "#b79ad6", "#7b4a3a", "#c9a27e", "#4a4f57", "#c7b42c"),
    ),
)

DARK = Palette(
    page="#0e1114",
    panel="#161a1f",
    line="#2a3037",
    text="#e5e8ec",
    muted="#9ba5b0",
    faint="#5f6973",
    accent="#ff5a9d",
    danger="#ff8a80",
    warn="#f0b64a",
    right="#4fb8aa",
    wrong="#e08e45",
    unknown="#474f58",
    sequential=("#1e2529", "#1d403e", "#1f6660", "#309085", "#62bcaf", "#b9ece2"),
    diverging=("#cfabec", "#8f69b0", "#503f66", "#2c3238", "#23544f", "#389a8e", "#a3e6da"),
    layers=("#f4e46a", "#a6d34f", "#4fbf85", "#35a3a8", "#4a79b8", "#6b4fae"),
    density=("#161a1f", "#242a31", "#343c45", "#48525c", "#606c78", "#7e8b98"),
    cls=("#161a1f", "#17304a", "#1c4f80", "#2f7cc0", "#6cb1ea", "#d3e9ff"),
    patch=("#161a1f", "#402611", "#7a4010", "#c2661a", "#f39b4e", "#ffe3c4"),
    classes=(
        *("#3b95d6", "#a5dbfa", "#1fa67f", "#b5dd5c", "#f0b030", "#e8702a"),
        *("#9a72dd", "#d2bdea", "#b37966", "#dcbd9e", "#8b939d", "#ded04f"),
    ),
)

PALETTES = {"light": LIGHT, "dark": DARK}


def palette(theme: object) -> Palette:
    """The palette of a theme's name; light for any other value, which is what a page without a choice has."""
    return PALETTES.get(theme, LIGHT) if isinstance(theme, str) else LIGHT


def colorscale(ramp: Ramp) -> list[list[float | str]]:
    """A ramp as Plotly takes it."""
    return [[step / (len(ramp) - 1), colour] for step, colour in enumerate(ramp)]


def faded(colour: str, alpha: float) -> str:
    """A hex colour, made transparent."""
    red, green, blue = (int(colour[start : start + 2], 16) for start in (1, 3, 5))
    return f"rgba({red}, {green}, {blue}, {alpha})"


def css() -> str:
    """Both palettes as CSS variables: --text, --accent …, ramps as lists with commas."""
    return "".join(rule(f"[data-bs-theme={name}]", name) for name in PALETTES)


def rule(selector: str, name: str) -> str:
    """One palette, for what a CSS selector matches."""
    return f"{selector}{{color-scheme:{name};--font:{FONT};{_variables(PALETTES[name])}}}"


def _variables(colours: Palette) -> str:
    values = {field.name: getattr(colours, field.name) for field in fields(colours)}
    return "".join(
        f"--{name}:{','.join(value) if isinstance(value, tuple) else value};" for name, value in values.items()
    )
