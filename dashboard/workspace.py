"""Which panels has the workspace, and where do they lie? Every file of `dashboard/views/` with a VIEW."""

from importlib import import_module
from itertools import groupby
from pkgutil import iter_modules
from typing import Any

from dash import html

from dashboard import views
from dashboard.view import ROWS, View


def _declared() -> tuple[View, ...]:
    """All views, in their places.

    Raises:
        ValueError: One lies in a row that there is not.
    """
    modules = [import_module(f"{views.__name__}.{module.name}") for module in iter_modules(views.__path__)]
    found = [module.VIEW for module in modules if hasattr(module, "VIEW")]
    for view in found:
        if view.row not in ROWS:
            raise ValueError(f"view {view.name} lies in row {view.row!r}; there are {', '.join(map(repr, ROWS))}")
    return tuple(sorted(found, key=lambda view: (view.place, view.name)))


VIEWS = _declared()


def stage() -> list[Any]:
    """The panels of all views, row by row."""
    placed: list[Any] = []
    for row, several in groupby(VIEWS, key=lambda view: view.row):
        panels = [view.layout() for view in several]
        placed += [html.Div(panels, className=f"row {row}")] if row else panels
    return placed
