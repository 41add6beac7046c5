"""How does a view explain itself, and how does it leave? The ⓘ and the ⋯ of a panel; exports.js opens them.

What they say is fetched when they are opened, so that eight panels cost the page eight small menus and nothing else.
"""

from collections.abc import Sequence
from typing import Any

from dash import html
from dash.development.base_component import Component

from dashboard.exports import Export

# What a view can leave as: the word in the menu, and what it is.
PICTURES = {"svg": ("SVG", "vector picture"), "png": ("PNG", "picture for print")}
NUMBERS = {"csv": ("CSV", "numbers"), "py": ("Python", "lines that give the numbers")}

CARD = "about-card"  # one for the page, moved beside the ⓘ that opens it
LINES = "python-lines"  # a dialog, one for the page
LINES_TEXT = "python-lines-text"
TOAST = "export-toast"


def menu(panel: str, title: str, exports: Sequence[Export]) -> list[Component]:
    """The two buttons of a panel, with the menu that the second opens.

    Args:
        panel: Its name, that of dashboard.about and of the gesture "large".
        title: As its heading.
        exports: What can leave it; each is a row of the menu.
    """
    menu_id = f"{panel}-menu"
    return [
        _button("i", f"What {title} shows and how it is computed", "dialog", CARD, **{"data-about": panel}),
        _button("⋯", f"Export and enlarge {title}", "menu", menu_id, **{"data-menu": menu_id}),
        html.Div(
            [
                html.Div(_item("⤢ Enlarge", f"Enlarge {title}", **{"data-enlarge": panel}), role="none"),
                *(_row(export, title) for export in exports),
            ],
            id=menu_id,
            className="export-menu",
            role="menu",
            **{"aria-label": f"Export and enlarge {title}"},
        ),
    ]


def _button(sign: str, label: str, opens: str, controls: str, **data: Any) -> html.Button:
    said = {"aria-label": label, "aria-haspopup": opens, "aria-expanded": "false", "aria-controls": controls}
    return html.Button(sign, className="icon", title=label, **said, **data)


def _row(export: Export, title: str) -> html.Div:
    """One export: its label, and a button for each form."""
    forms = PICTURES | NUMBERS
    titled = title if export.label == title else f"{title}: {export.label}"
    where = {"data-export": export.name, "data-picture": export.picture, "data-title": titled}
    items = [
        _item(word, f"{export.label}: {what}, {word}", **where, **{"data-as": form})
        for form, (word, what) in forms.items()
    ]
    label = {"aria-label": export.label}
    return html.Div([html.Span(export.label, **{"aria-hidden": "true"}), *items], role="group", **label)


def _item(text: str, label: str, **data: Any) -> html.Button:
    """A thing to do. Tab goes past the menu; the arrow keys go through it."""
    return html.Button(text, role="menuitem", tabIndex=-1, **{"aria-label": label}, **data)


def layout() -> list[Component]:
    """What all panels share: the card of the ⓘ, the dialog of the Python lines, and where errors are told."""
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
        html.Div(id=CARD, className="about-card", role="dialog", tabIndex=-1, **{"aria-label": "About this view"}),
        html.Dialog(code, id=LINES, className="python-lines", **{"aria-labelledby": "python-lines-title"}),
        html.Div(id=TOAST, className="export-toast", role="alert"),
    ]
