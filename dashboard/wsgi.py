"""What does gunicorn serve? `gunicorn "dashboard.wsgi:create_server()"`; deploy/gunicorn.conf.py says how."""

from flask import Flask

from dashboard.app import create_app
from store.settings import Settings


def create_server() -> Flask:
    """The page by the settings of the environment, once for each of gunicorn's processes."""
    server: Flask = create_app(Settings()).server
    return server
