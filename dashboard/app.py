"""How does the page come together? Its views, its writer and its routes, in one Dash app."""

import gc
import logging
import resource
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from dash import Dash, html
from flask import Flask

from dashboard import about, access, bodies, exports, one_length, pictures, routes, theme, uploads, writer
from dashboard.data import Shelf
from dashboard.exports import Export
from dashboard.offers import Offers
from dashboard.views import export_menu, header, jobs, new_study, studies
from dashboard.workspace import VIEWS, stage
from jobs.client import Desk
from store.settings import Settings

ASSETS = Path(__file__).with_name("assets")

# What `serve` has open at most. A browser keeps up to six connections; who means harm opens thousands and says nothing:
# each has its place until it has been silent for so long. Each request looks through all of them.
MOST_FILES, OTHER_FILES = 2_224, 224
SILENT_SECONDS = 30

DRAWINGS = (*header.DRAWINGS, *(drawing for view in VIEWS for drawing in view.drawings))

# first.js stands in the page itself: it says so if another does not arrive. theme.js stands in the head, so that a dark
# page is dark before it is painted, and headscope.js, as other scripts use it; the rest is loaded by Dash.
PAGE = """<!DOCTYPE html>
<html lang="en" data-bs-theme="light">
<head>
<script>FIRST</script>
{%metas%}
<title>{%title%}</title>
<link rel="icon" type="image/svg+xml" href="MARK">
<style>COLOURS</style>
{%css%}
<script src="ASSETS/theme.js"></script>
<script src="ASSETS/headscope.js"></script>
</head>
<body>
{%app_entry%}
<footer>{%config%}{%scripts%}{%renderer%}</footer>
</body>
</html>"""


def create_app(settings: Settings, desk: Desk | None = None) -> Dash:
    """The page over the studies of a data folder. It computes nothing, and asks for work at `desk`."""
    desk = access.guarded(desk or Desk(settings))
    shelf = Shelf(settings.studies)
    app = Dash(
        "headscope",
        title="Headscope",
        update_title=None,  # None keeps the title still while views draw
        assets_folder=str(ASSETS),
        assets_ignore=r"(first|theme|headscope)\.js",
        compress=True,
        health_endpoint="health",
        serve_locally=True,
    )
    # Within the page: browsers fetch an icon anew for each address, and every selection is one.
    mark = f"data:image/svg+xml,{quote((ASSETS / 'mark.svg').read_text())}"
    page = PAGE.replace("ASSETS", app.get_asset_url("").rstrip("/")).replace("MARK", mark)
    first = (ASSETS / "first.js").read_text()
    app.index_string = page.replace("COLOURS", theme.css()).replace("FIRST", first)
    access.guard(app.server, settings)
    bodies.guard(app.server)
    outgoing = [export for view in VIEWS for export in view.exports(desk)]
    app.layout = lambda: layout(shelf, outgoing)
    app.validation_layout = html.Div([layout(shelf, outgoing), new_study.form()])  # everything that may come
    header.register(app, shelf)
    for view in VIEWS:
        view.register(app, shelf, desk)
    writer.register(app, shelf, DRAWINGS)
    jobs.register(app, desk)
    new_study.register(app, shelf, desk, Offers(settings))
    studies.register(app, shelf, desk)
    routes.add_routes(app.server, shelf, desk)
    exports.add_routes(app.server, shelf, outgoing, {view.name: about.text_of(view) for view in VIEWS})
    uploads.add_routes(app.server, settings, desk)
    pictures.add_routes(app.server, settings, shelf, desk)
    routes.guard(app, first)
    return app


def layout(shelf: Shelf, outgoing: Sequence[Export]) -> html.Div:
    """The whole page, without data. Read anew at each load, so that a new study is in the picker."""
    return html.Div(
        [
            header.layout(shelf.entries()),
            *writer.layout(),
            html.Div(id=writer.EMPTY, className="empty"),
            html.Main(stage(), id=writer.STAGE, className="stage"),
            jobs.layout(),
            new_study.layout(),
            studies.layout(),
            *export_menu.layout(outgoing),
        ],
        className="page",
    )


def create_server(settings: Settings) -> Flask:
    """What answers, in a process that does nothing else: what is there now is left out of garbage collections.

    Looking through all of it took 90 to 130 ms, in which nobody was answered, once in some twenty selections.
    """
    server: Flask = create_app(settings).server
    gc.collect()
    gc.freeze()
    return server


def room_for_connections() -> int:
    """How many connections are held at a time, once this process may open as many files as the system lets it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft, hard = (MOST_FILES if limit == resource.RLIM_INFINITY else limit for limit in (soft, hard))
    if soft < min(hard, MOST_FILES):
        soft = min(hard, MOST_FILES)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    return max(100, min(soft, MOST_FILES) - OTHER_FILES)


def serve(settings: Settings) -> None:
    """Answer on the host and port of the settings until the process is stopped."""
    logging.basicConfig()
    one_length.waitress_server(
        create_server(settings),
        host=settings.host,
        port=settings.port,
        threads=settings.threads,
        ident="headscope",
        connection_limit=room_for_connections(),
        channel_timeout=SILENT_SECONDS,
        cleanup_interval=5,
        asyncore_use_poll=True,  # select ends at 1,024 files
        max_request_header_size=one_length.MOST_HEAD,
        max_request_body_size=uploads.MOST_BODY,  # waitress writes a request down before anybody decides on it
        clear_untrusted_proxy_headers=not settings.proxies,  # access.guard believes so many of them
    ).run()
