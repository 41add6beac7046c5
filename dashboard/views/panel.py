"""What do all panels share? A title, a line on how to read them, what explains them, and what takes them away."""

from typing import Any

from dash import html

from dashboard.views import export_menu


def panel(name: str, title: str, reading_id: str, body: Any, tools: Any = None) -> html.Section:
    """A panel: `name`, its view's, is its class, by which it is placed.

    Args:
        reading_id: Of the line under its title.
    """
    more = export_menu.buttons(name, title)
    return html.Section(
        [
            html.Header([html.H2(title), html.Div(tools, className="tools"), html.Div(more, className="more")]),
            html.P(id=reading_id, className="reading"),
            html.Div(body, className="body"),
        ],
        className=f"panel {name}",
        **{"data-panel": name, "aria-label": title},
    )
