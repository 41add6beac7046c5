"""How does one pick one of a few? A row of buttons, one of them pressed. Arrow keys stay free for heads.

The browser presses the button of what is picked (assets/headscope.js); why a study lacks a value goes with the
study's facts.
"""

import json
from collections.abc import Callable, Mapping

import dash_bootstrap_components as dbc
from dash import html

from dashboard.data import StudyFacts

# Why a study does not have some of the values of a field, by value.
Reasons = Callable[[StudyFacts], Mapping[str, str]]


def layout(field: str, labels: Mapping[str, str], title: str) -> html.Div:
    """The buttons of a field of the selection, by value."""
    return html.Div(
        [
            html.Button(
                label,
                className="option",
                **{"aria-pressed": "false", "data-gesture": "choice", "data-value": json.dumps([field, value])},
            )
            for value, label in labels.items()
        ],
        className="choice",
        role="group",
        title=title,
        **{"aria-label": title},
    )


def radios(field_id: str, labels: Mapping[str, str], value: str) -> dbc.RadioItems:
    """The same look for a field of a form, whose value is not in the selection."""
    return dbc.RadioItems(
        id=field_id,
        options=[{"value": value, "label": label} for value, label in labels.items()],
        value=value,
        inline=True,
        className="choice radios",
        labelClassName="option",
        labelCheckedClassName="on",
    )
