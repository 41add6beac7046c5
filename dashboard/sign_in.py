"""How does somebody sign in and out? One plain page, and a signed cookie that ends with the password or the role."""

import re
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from functools import cache
from hmac import compare_digest
from pathlib import Path
from typing import Any
from urllib.parse import quote

from flask import Flask, redirect, render_template_string, request, session
from flask.sessions import SecureCookieSessionInterface
from markupsafe import Markup

from dashboard import bodies, theme
from dashboard.accounts import AccountError, Accounts, TooManyFailuresError, User
from store.settings import Settings

IN, OUT = "/sign-in", "/sign-out"
SCRIPT = "theme.js"  # the one file of the assets that the page needs
LASTS = timedelta(days=7)  # from signing in
MOST_TYPED = 10_000  # bytes of a name and a password
# A path of this server: browsers take "//" and "/\" for the beginning of another's, and leave out what is no character.
OWN_PATH = re.compile(r"/(?![/\\])[^\\\x00-\x20\x7f]*")

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Sign in · Headscope</title>
<link rel="icon" type="image/svg+xml" href="{{ mark }}">
<style>{{ style }}</style>
<script src="{{ script }}"></script>
</head>
<body>
<main>
<h1><img src="{{ mark }}" alt="">Headscope</h1>
{% if problem %}<p role="alert">{{ problem }}</p>{% endif %}
<form method="post" action="{{ address }}">
<input type="hidden" name="next" value="{{ next }}">
<label for="name">Name</label>
<input id="name" name="name" value="{{ name }}" autocomplete="username" autocapitalize="none" spellcheck="false"
 maxlength="64" required{% if not name %} autofocus{% endif %}>
<label for="password">Password</label>
<input id="password" name="password" type="password" autocomplete="current-password"
 required{% if name %} autofocus{% endif %}>
<button>Sign in</button>
</form>
<p class="hint">No name here yet, or no password any more? Ask whoever runs this server.</p>
</main>
</body>
</html>
"""
STYLE = """
* { box-sizing: border-box; }
body {
    display: grid; place-items: center; min-height: 100vh; margin: 0; padding: 16px;
    background: var(--page); color: var(--text); font: 13px/1.35 var(--font);
}
main {
    width: 320px; max-width: 100%; margin-bottom: 12vh; padding: 24px;
    border: 1px solid var(--line); border-radius: 4px; background: var(--panel);
}
h1 { display: flex; align-items: center; gap: 8px; margin: 0 0 20px; font-size: 15px; font-weight: 650; }
h1 img { width: 18px; height: 18px; }
label { display: block; margin: 12px 0 4px; color: var(--muted); font-size: 12px; }
input, button {
    display: block; width: 100%; padding: 7px 8px; border: 1px solid var(--faint); border-radius: 4px;
    background: var(--panel); color: var(--text); font: 13px/1.35 var(--font);
}
button {
    margin-top: 20px; border-color: var(--text); background: var(--text); color: var(--panel);
    font-weight: 600; cursor: pointer;
}
:focus-visible { outline: 2px solid var(--muted); outline-offset: 1px; }
[role=alert] { margin: 0; color: var(--danger); }
.hint { margin: 16px 0 0; color: var(--muted); font-size: 12px; }
"""


def add_routes(server: Flask, accounts: Accounts, settings: Settings) -> None:
    """The page to sign in, what it sends, and the way out."""
    server.secret_key = settings.secret.get_secret_value() if settings.secret else None
    server.session_interface = _Cookie()
    server.config.update(
        SESSION_COOKIE_NAME="headscope",
        SESSION_COOKIE_HTTPONLY=True,
        SESSION_COOKIE_SAMESITE="Lax",
        SESSION_REFRESH_EACH_REQUEST=False,
        PERMANENT_SESSION_LIFETIME=LASTS,
    )

    @server.get(IN)
    def sign_in() -> str:
        return _page(own_path(request.args.get("next", "")))

    @server.post(IN)
    def check_sign_in() -> Any:
        request.max_content_length = MOST_TYPED
        name, password, then = map(bodies.field, ("name", "password", "next"))
        then = own_path(then)
        try:
            user = accounts.sign_in(name, password, request.remote_addr or "")
        except TooManyFailuresError as error:
            return _page(then, name, str(error)), 429, {"Retry-After": str(round(error.seconds) + 1)}
        if user is None:
            return _page(then, name, "The name or the password is wrong."), 401
        session.clear()
        session.permanent = True
        session.update(name=user.name, stamp=user.stamp)
        return redirect(then, 303)

    @server.post(OUT)
    def sign_out() -> Any:
        with suppress(AccountError):  # removed just now, which has ended it too
            accounts.end(session["name"])
        session.clear()
        return redirect(IN, 303)


def by_cookie(accounts: Accounts) -> Callable[[], User | None]:
    """Who signed in, unless that has ended since: the user is gone, or their password or role was changed."""

    def who() -> User | None:
        user = accounts.find(session["name"]) if "name" in session else None
        return user if user is not None and compare_digest(user.stamp, session.get("stamp", "")) else None

    return who


def has_cookie() -> bool:
    """Whether who asks has signed in here, and can sign out."""
    return "name" in session


def own_path(address: str) -> str:
    """The address, if it is a path of this server; else that of the first page."""
    return address if OWN_PATH.fullmatch(address) else "/"


class _Cookie(SecureCookieSessionInterface):
    """A cookie that goes by https alone, if it came by https."""

    def get_cookie_secure(self, app: Flask) -> bool:  # noqa: ARG002 (Flask asks so)
        return request.is_secure


def _page(then: str, name: str = "", problem: str = "") -> str:
    given = {"next": then, "name": name[:64], "problem": problem}
    return render_template_string(PAGE, address=IN, script=f"/assets/{SCRIPT}", mark=_mark(), style=_style(), **given)


@cache
def _mark() -> str:
    return f"data:image/svg+xml,{quote((Path(__file__).parent / 'assets' / 'mark.svg').read_text())}"


@cache
def _style() -> Markup:
    """Both themes: the system's, unless the script knows which one was picked."""
    dark = f"@media (prefers-color-scheme: dark) {{ {theme.rule(':root', 'dark')} }}"
    return Markup(theme.rule(":root", "light") + dark + theme.css() + STYLE)
