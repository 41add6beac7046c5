"""How does a view explain itself, and how does it leave? The ⓘ and the ⋯ of a panel; exports.js opens them.

The page has one menu and one card for all panels, which are filled when they are opened.
"""

import json
from collections.abc import Sequence
from typing import Any

from dash import html
from dash.development.base_component import Component

from dashboard.exports import Export

MENU = "export-menu"
CARD = "about-card"
LINES = "python-lines"  # a dialog
LINES_TEXT = "python-lines-text"
TOAST = "export-toast"


def buttons(panel: str, title: str) -> list[html.Button]:
    """The two buttons of a panel, of that name in dashboard.about, and that heading."""
    return [
        _button("i", f"What {title} shows and how it is computed", "dialog", CARD, **{"data-about": panel}),
        _button("⋯", f"Export and enlarge {title}", "menu", MENU, **{"data-menu": panel}),
    ]


def _button(sign: str, label: str, opens: str, controls: str, **data: Any) -> html.Button:
    said = {"aria-label": label, "aria-haspopup": opens, "aria-expanded": "false", "aria-controls": controls}
    return html.Button(sign, className="icon", title=label, **said, **data)


def layout(exports: Sequence[Export]) -> list[Component]:
    """What all panels share: the menu, the card of the ⓘ, the dialog of the Python lines, and where errors are told.

    Args:
        exports: What can leave; each is a row in the menu of its panel.
    """
    rows = [{"panel": each.panel, "name": each.name, "label": each.label, "picture": each.picture} for each in exports]
    code = [
        html.Header(
            [
                html.H2("Python", id="python-lines-title"),
                html.Button("copy", id="python-lines-copy", className="option"),
                html.Button("✕", id="python-lines-close", className="icon", **{"aria-label": "Close"}),
            ]
        ),
        html.P(id="python-lines-said"),
        html.Div(id=LINES_TEXT),
    ]
    return [
        html.Div(id=MENU, className="export-menu", role="menu", **{"data-exports": json.dumps(rows)}),
        html.Div(id=CARD, className="about-card", role="dialog", tabIndex=-1, **{"aria-label": "About this view"}),
        html.Dialog(code, id=LINES, className="python-lines", **{"aria-labelledby": "python-lines-title"}),
        html.Div(id=TOAST, className="export-toast", role="alert"),
    ]
