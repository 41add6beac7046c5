"""What does gunicorn serve? `gunicorn "dashboard.wsgi:server()"`; deploy/gunicorn.conf.py says how."""

from flask import Flask

from dashboard.app import create_server
from store.settings import Settings


def server() -> Flask:
    """The page by the settings of the environment, once for each of gunicorn's processes."""
    return create_server(Settings())
