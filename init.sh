#!/bin/sh
# Writes .env for docker-compose.yml by `headscope init`: by the one installed here, else by the one in the image.
set -eu
cd "$(dirname "$0")"
if [ -x .venv/bin/headscope ]; then
    exec .venv/bin/headscope init "$@"
fi
echo "building the image of the page, which takes a minute once" >&2
docker build --quiet --target web --tag headscope-web . >/dev/null
exec docker run --rm --network none --user "$(id -u):$(id -g)" --env SUDO_UID --env SUDO_GID \
    --volume "$PWD:$PWD" --workdir "$PWD" headscope-web headscope init "$@"
