"""What is in a piece of a page?"""

from collections.abc import Iterator
from typing import Any

from dash.development.base_component import Component


def components(inside: Any) -> Iterator[Component]:
    """Every component in a component or a list of them, from the outside in."""
    if isinstance(inside, Component):
        yield inside
        yield from components(getattr(inside, "children", None))
    elif isinstance(inside, list | tuple):
        for each in inside:
            yield from components(each)
