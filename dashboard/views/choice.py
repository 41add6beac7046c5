"""How does one pick one of a few? A row of buttons, one of them pressed. Arrow keys stay free for heads."""

from collections.abc import Mapping
from typing import Any

from dash import html


def button_id(choice: str, value: str) -> dict[str, str]:
    """Id of one button: that of choice "metric" and value "jsd"."""
    return {"choice": choice, "value": value}


def choice(name: str, labels: Mapping[str, str], title: str) -> html.Div:
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


def values_of(outputs: Any) -> list[str]:
    """The values of the buttons, in the order in which Dash asks for them."""
    return [str(each["id"]["value"]) for each in outputs]
