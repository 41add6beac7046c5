#!/bin/sh
# What the tests need of the system: found, installed where this user may, or said.
has() { for name; do command -v "$name" >/dev/null && return 0; done; return 1; }

# PACKAGES of Debian, and which tests are skipped without them.
install() {
    if [ "$(id -u)" = 0 ] && has apt-get; then
        echo "installing Debian's $1 for $2"
        # shellcheck disable=SC2086  (several packages)
        apt-get update -qq && apt-get install -y -qq --no-install-recommends $1 >/dev/null && return
    fi
    echo "not here: $1, so $2 will be skipped; sudo apt-get install $1${3:+, or $3}"
}

[ -n "$CHROMIUM" ] || has chromium chromium-browser ||
    install "chromium fonts-dejavu-core" "the browser tests" "set CHROMIUM=/path/to/it"
has redis-server valkey-server || install redis-server "tests of the queue on Debian's own server"
has postgres || ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 ||
    install postgresql "tests of the ledger in PostgreSQL"
has nginx || [ -x /usr/sbin/nginx ] || install nginx "tests of the proxy"
exit 0
