# Headscope's images: `web` serves the page and has no torch, `worker` computes, `proxy` stands before the page.
# What docker-compose.yml makes of them: docs/deploy.md.

FROM debian:bookworm-slim AS proxy
RUN apt-get update \
    && apt-get install -y --no-install-recommends nginx \
    && rm -rf /var/lib/apt/lists/* /etc/nginx/sites-enabled
COPY deploy/nginx.conf deploy/proxy.sh /etc/headscope/
RUN chmod -R a+rX /etc/headscope
USER 10001:10001
CMD ["sh", "/etc/headscope/proxy.sh"]

# Locked packages, each checked against its hash. They stand before the program, so that a new version of it reuses them.
FROM python:3.11-slim-bookworm AS web-packages
ENV PYTHONUNBUFFERED=1 UV_COMPILE_BYTECODE=1 UV_NO_CACHE=1 UV_SYSTEM_PYTHON=1 UV_LINK_MODE=copy
COPY requirements.txt /tmp/
RUN pip install --no-cache-dir --root-user-action=ignore uv==0.13.8 \
    && uv pip install --require-hashes -r /tmp/requirements.txt \
    && pip uninstall --yes --quiet --root-user-action=ignore uv

FROM web-packages AS package
WORKDIR /src
COPY . .
RUN pip wheel --no-deps --no-build-isolation --no-cache-dir --wheel-dir /dist .

FROM web-packages AS web
COPY --from=package /dist /tmp/dist
COPY deploy/gunicorn.conf.py /etc/headscope/
RUN pip install --no-deps --no-index --no-cache-dir --root-user-action=ignore /tmp/dist/*.whl \
    && chmod -R a+rX /etc/headscope
USER 10001:10001
ENV HEADSCOPE_DATA=/data
CMD ["gunicorn", "--config", "/etc/headscope/gunicorn.conf.py"]

FROM web-packages AS worker-packages
COPY requirements-worker.txt /tmp/
RUN pip install --no-cache-dir --root-user-action=ignore uv==0.13.8 \
    && uv pip install --require-hashes -r /tmp/requirements-worker.txt \
    && pip uninstall --yes --quiet --root-user-action=ignore uv

FROM worker-packages AS worker
COPY --from=package /dist /tmp/dist
RUN pip install --no-deps --no-index --no-cache-dir --root-user-action=ignore /tmp/dist/*.whl
USER 10001:10001
ENV HEADSCOPE_DATA=/data
CMD ["headscope", "worker", "--queue", "bulk"]
