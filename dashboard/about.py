"""What stands behind the ⓘ of a view? Its own text, and what the rows of other packages' numbers say.

Markdown, with equations in LaTeX; equation and section numbers are those of "How Does Attention Work in Vision
Transformers? A Visual Analytics Attempt" (TVCG 2023). They say what is computed, where the paper leaves it open too.
"""

from analyses.arrays import ArraySpec
from analyses.numbers import is_of_a_package
from analyses.registry import ARRAYS, IMAGE_NUMBERS, PICKED_NUMBERS
from dashboard.view import View

SOURCE = (
    "Eq., Sec. and Fig. are those of Li et al., *How Does Attention Work in Vision Transformers? A Visual Analytics "
    "Attempt*, IEEE TVCG 2023."
)


def text_of(view: View) -> str:
    """The text of a view, and of each number that packages add to it what its row says."""
    of_heads = {name: ARRAYS[name] for name in PICKED_NUMBERS if is_of_a_package(name)}
    added = dict.fromkeys(("head-importance", "head-card"), of_heads)
    added |= dict.fromkeys(("image-overview", "image-card"), IMAGE_NUMBERS)
    return "\n".join([view.about, *(_paragraph(name, row) for name, row in added.get(view.name, {}).items())])


def _paragraph(name: str, row: ArraySpec) -> str:
    """What a row says of its array, as Markdown; what another package wrote is text, not markup."""
    unit = f" Unit: {_plain(row.unit)}." if row.unit else ""
    source = f" Source: {_plain(row.equation)}." if row.equation else ""
    computed = f" Computed by `{row.computed_by}` · array `{name}`" if row.computed_by else f" Array `{name}`"
    return f"**{_plain(row.title)}.** {_plain(row.doc)}{unit}{source}\n\n{computed.strip()}\n"


def _plain(text: str) -> str:
    return "".join(f"\\{sign}" if sign in r"\`*_{}[]<>#$|" else sign for sign in text)
