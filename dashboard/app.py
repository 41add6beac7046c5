"""How does the page come together? Its views, its writer and its routes, in one Dash app."""

from pathlib import Path

import waitress
from dash import Dash, html

from dashboard import routes, theme, writer
from dashboard.data import Shelf
from dashboard.offers import Offers
from dashboard.views import (
    head_attention,
    head_card,
    head_grid,
    head_importance,
    header,
    image_card,
    image_overview,
    jobs,
    new_study,
    pattern_map,
    pruning,
)
from store.settings import Settings
from workers.queue import Desk

ASSETS = Path(__file__).with_name("assets")
VIEWS = (header, image_overview, image_card, pattern_map, head_importance, head_grid, head_attention, head_card)

# theme.js stands in the head, so that a dark page is dark before it is painted; the rest is loaded by Dash.
PAGE = """<!DOCTYPE html>
<html lang="en" data-bs-theme="light">
<head>
{%metas%}
<title>{%title%}</title>
<link rel="icon" type="image/svg+xml" href="ASSETS/mark.svg">
<style>COLOURS</style>
{%css%}
<script src="ASSETS/theme.js"></script>
</head>
<body>
{%app_entry%}
<footer>{%config%}{%scripts%}{%renderer%}</footer>
</body>
</html>"""


def create_app(settings: Settings, desk: Desk | None = None) -> Dash:
    """The page over the studies of a data folder. It computes nothing, and asks for work at `desk`."""
    desk = desk or Desk(settings)
    shelf = Shelf(settings.studies)
    app = Dash(
        "headscope",
        title="Headscope",
        update_title=None,  # None keeps the title still while views draw
        assets_folder=str(ASSETS),
        assets_ignore=r"theme\.js",
        compress=True,
        health_endpoint="health",
        serve_locally=True,
    )
    app.index_string = PAGE.replace("ASSETS", app.get_asset_url("").rstrip("/")).replace("COLOURS", theme.css())
    app.layout = lambda: layout(shelf)
    for view in VIEWS:
        view.register(app, shelf)
    pruning.register(app, shelf, desk)
    writer.register(app, shelf)
    jobs.register(app, desk)
    new_study.register(app, shelf, desk, Offers(settings))
    routes.add_routes(app.server, shelf, desk)
    routes.guard(app)
    return app


def layout(shelf: Shelf) -> html.Div:
    """The whole page, without data. Read anew at each load, so that a new study is in the picker."""
    right = [
        html.Div([head_importance.layout(), head_grid.layout()], className="row upper"),
        html.Div([*head_attention.layout(), head_card.layout()], className="row lower"),
    ]
    stage = [
        html.Div([image_overview.layout(), image_card.layout(), pattern_map.layout()], className="column left"),
        html.Div(right, className="column right"),
    ]
    return html.Div(
        [
            header.layout(shelf.entries()),
            *writer.layout(),
            html.Div(id=writer.EMPTY, className="empty"),
            html.Main(stage, id=writer.STAGE, className="stage"),
            jobs.layout(),
            new_study.layout(),
        ],
        className="page",
    )


def serve(settings: Settings) -> None:
    """Answer on the host and port of the settings until the process is stopped."""
    app = create_app(settings)
    waitress.serve(app.server, host=settings.host, port=settings.port, threads=settings.threads, ident="headscope")
