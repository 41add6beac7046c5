"""What is a view? A panel of the workspace, declared once at the end of its file in `dashboard/views/`, as VIEW."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dash import Dash

from dashboard.drawing import Drawing

if TYPE_CHECKING:
    from dashboard.data import Shelf
    from dashboard.exports import Export
    from jobs.client import Desk

# The rows of the workspace, by their class in style.css; panels without one lie in the page's grid themselves. A view
# that says nothing lies in the last.
ROWS = ("", "about-head", "low", "attention", "added")


@dataclass(frozen=True)
class View:
    """One panel.

    Attributes:
        name: Of the panel: its class, and by which addresses name it.
        layout: Makes the panel, without data.
        drawings: What is drawn in it when the selection changes.
        about: What stands behind its ⓘ: Markdown, with equations in LaTeX; how to read it, and how it is computed.
        exports: What can leave it, given where jobs are asked for.
        register: Adds callbacks of its own, given the app, the studies, and where jobs are asked for.
        row: Of ROWS, where it lies.
        place: Its place among all panels; those of a row lie in this order.
    """

    name: str
    layout: Callable[[], Any]
    drawings: tuple[Drawing, ...]
    about: str
    exports: "Callable[[Desk], Sequence[Export]]" = lambda desk: ()
    register: "Callable[[Dash, Shelf, Desk], None]" = lambda app, shelf, desk: None
    row: str = "added"
    place: int = 100
