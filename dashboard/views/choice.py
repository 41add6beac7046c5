"""How does one pick one of a few? A row of buttons, one of them pressed. Arrow keys stay free for heads."""

from collections.abc import Callable, Mapping
from typing import Any

from dash import ALL, Dash, Input, Output, ctx, html

from dashboard.data import Shelf, StudyFacts
from dashboard.selection import SELECTION, Selection
from dashboard.views.panel import shown


def button_id(choice: str, value: str) -> dict[str, str]:
    """Id of one button: that of choice "metric" and value "jsd"."""
    return {"choice": choice, "value": value}


def layout(name: str, labels: Mapping[str, str], title: str) -> html.Div:
    """The buttons, none pressed; `pressed` says which are and which can be."""
    return html.Div(
        [
            html.Button(label, id=button_id(name, value), className="option", n_clicks=0)
            for value, label in labels.items()
        ],
        className="choice",
        role="group",
        title=title,
        **{"aria-label": title},
    )


def pressed(values: list[str], chosen: str, reasons: Mapping[str, str]) -> tuple[list[str], list[bool], list[str]]:
    """Of each button: its class, whether it is disabled, and why, for `reasons` by value."""
    classes = ["option on" if value == chosen else "option" for value in values]
    return classes, [value in reasons for value in values], [reasons.get(value, "") for value in values]


def register(app: Dash, shelf: Shelf, name: str, reasons: Callable[[StudyFacts], Mapping[str, str]]) -> None:
    """Press the button of what is picked.

    Args:
        name: Of the choice, and of its field of the selection.
        reasons: Why a study does not have some of the values, by value.
    """
    buttons = {"choice": name, "value": ALL}

    @app.callback(
        Output(buttons, "className"), Output(buttons, "disabled"), Output(buttons, "title"), Input(SELECTION, "data")
    )
    def press(data: object) -> tuple[list[str], list[bool], list[str]]:
        values = [str(each["id"]["value"]) for each in ctx.outputs_list[0]]

        def view(facts: StudyFacts, chosen: Selection) -> tuple[Any, Any]:
            return pressed(values, getattr(chosen, name), reasons(facts)), None

        return shown(shelf, data, view, pressed(values, "", {}))[0]
