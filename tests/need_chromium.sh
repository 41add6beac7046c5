#!/bin/sh
# The browser tests drive Debian's Chromium: found, installed where this user may, or said.
[ -n "$CHROMIUM" ] && exit 0
command -v chromium >/dev/null || command -v chromium-browser >/dev/null && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "installing Debian package chromium for the browser tests"
    apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core >/dev/null && exit 0
fi
echo "no Chromium here: the browser tests will be skipped; sudo apt-get install chromium, or set CHROMIUM=/path/to/it"
