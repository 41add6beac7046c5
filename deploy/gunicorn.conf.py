"""How gunicorn serves the page: a few processes of several threads, behind the proxy of docker-compose.yml."""

import sys

from pydantic import ValidationError

from dashboard.accounts import obstacles
from store.errors import StoreError
from store.settings import Settings

try:  # here, before anything is started: a process that fails later is started again and again
    settings = Settings()
    if found := obstacles(settings):
        sys.exit(f"headscope: {'; '.join(found)}")
except ValidationError as error:
    wrong = [f"HEADSCOPE_{str(each['loc'][0]).upper()}: {each['msg']}" for each in error.errors()]
    sys.exit(f"headscope: {'; '.join(wrong)}")
except (ValueError, StoreError) as error:
    sys.exit(f"headscope: {error}")

wsgi_app = "dashboard.wsgi:server()"
bind = f"{settings.host}:{settings.port}"
worker_class = "gthread"
workers = 2  # one that dies or is busy leaves one that answers
threads = settings.threads
# The proxy reads what comes in and keeps what goes out, so that a request is as slow as its own work.
timeout = 60
graceful_timeout = 20
control_socket_disable = True
# Every selection is an address, and the browser names it in each request.
limit_request_line = 8190
limit_request_field_size = 8190
