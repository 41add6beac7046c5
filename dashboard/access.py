"""Who asks, and may they? One decision for every request, and what each role may do.

In open mode everybody is the person whose machine it is, and may do everything. Otherwise what is not in OPEN is for
those who signed in, or whom the lab's own proxy let in: an address that nobody thought of is refused.
"""

import getpass
from collections.abc import Callable
from typing import Any, cast
from urllib.parse import quote, urlsplit

from dash import html
from flask import Flask, Response, abort, g, has_request_context, redirect, request
from werkzeug.middleware.proxy_fix import ProxyFix

from dashboard import sign_in
from dashboard.accounts import AccountError, Accounts, Role, User, obstacles
from jobs.client import Desk, Submitted
from jobs.requests import Request
from jobs.work import Job
from store.errors import StoreError
from store.settings import Settings, is_loopback

# Endpoints for everybody. Of the assets, only what the page to sign in needs.
OPEN = ("sign_in", "check_sign_in", "/health")
ASSETS = "_dash_assets.static"
# Endpoints that are pages: whoever opens one is led to sign in, and back.
PAGES = ("/", "/<path:path>")
CHANGE_NOTHING = ("GET", "HEAD", "OPTIONS")


class UnsafeError(StoreError, RuntimeError):
    """The page must not be served as it is set: anybody could get in, or nobody."""


class ForbiddenError(StoreError, PermissionError):
    """The role of who asks does not allow it."""


# --- who asks, and what they may ---


def current() -> User:
    """Who asks; where nobody signs in, the user that the server runs as."""
    return cast(User, g.user) if has_request_context() else _local()


def is_known() -> bool:
    """Whether `current` can be asked. Dash looks at the layout of the page before the first request is decided on."""
    return not has_request_context() or "user" in g


def _local() -> User:
    try:
        return User(getpass.getuser(), "admin")
    except (KeyError, OSError):  # a container's user may have a number and no name
        return User("someone", "admin")


def why_not(role: Role, act: str) -> str:
    """Why who asks may not do something that takes that role; empty if they may.

    Args:
        act: What it is, as "upload pictures".
    """
    user = current()
    if user.may(role):
        return ""
    return (
        f"You are {user.name}, with the role {user.role}; to {act} takes the role {role}. "
        "Ask whoever runs this server for it."
    )


def need(role: Role, act: str) -> None:
    """Nothing, if who asks may do something that takes that role.

    Raises:
        ForbiddenError: As `why_not`.
    """
    _refuse(why_not(role, act))


def why_not_ask() -> str:
    """Why who asks may not have anything computed; empty if they may."""
    return why_not("analyst", "have something computed")


def why_not_cancel(job: Job) -> str:
    """Why who asks may not cancel the job; empty if they may: it is theirs, or they are an admin."""
    user = current()
    if user.may("analyst") and user.name != job.who and not user.may("admin"):
        return f"{job.title} was asked for by {job.who}: only {job.who} or an admin can cancel it."
    return why_not("analyst", "cancel jobs")


def guarded(desk: Desk) -> Desk:
    """The desk, where each can ask for and cancel what they may; a ForbiddenError says what they may not."""
    return cast(Desk, _Guarded(desk))


class _Guarded:
    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def __getattr__(self, name: str) -> Any:
        return getattr(self._desk, name)

    def submit(self, request: Request, who: str) -> Submitted:
        _refuse(why_not_ask())
        return self._desk.submit(request, who)

    def cancel(self, job_id: str, who: str) -> Job:
        if not current().may("admin"):
            _refuse(why_not_cancel(self._desk.ledger.job(job_id)))
        return self._desk.cancel(job_id, who)


def _refuse(why: str) -> None:
    if why:
        raise ForbiddenError(why)


def menu() -> list[Any]:
    """Who is signed in, and the way out, for the top of the page; nothing where nobody signs in."""
    # Dash looks at the layout before any request, and once more before the first one is decided on.
    user = g.get("user") if has_request_context() else None
    if user is None or not user.stamp:  # the local user has none
        return []
    out = html.Form(html.Button("Sign out", type="submit", className="button"), action=sign_in.OUT, method="POST")
    told = [html.Div([html.B(user.name), html.Span(user.role)]), *([out] if sign_in.has_cookie() else [])]
    summary = html.Summary(user.name, title=f"You are {user.name}, with the role {user.role}")
    return [html.Details([summary, html.Div(told)], className="who")]


# --- every request ---


def guard(server: Flask, settings: Settings) -> None:
    """Decide on every request. To be called before anything else that decides on requests.

    Raises:
        UnsafeError: The settings would let anybody in, or nobody.
    """
    if found := obstacles(settings):
        raise UnsafeError("; ".join(found))
    if settings.proxies:
        server.wsgi_app = ProxyFix(server.wsgi_app, settings.proxies, settings.proxies)  # type: ignore[method-assign]
    server.register_error_handler(ForbiddenError, lambda error: Response(str(error), 403, mimetype="text/plain"))
    _refuse_strangers(server, {name.strip("[]").lower() for name in (*settings.hosts, settings.host)})
    if settings.is_open:
        _ask(server, _local)
        return
    accounts = Accounts(settings.ledger_url)
    if settings.trusted_header:
        _ask(server, by_header(accounts, settings.trusted_header))
    else:
        _ask(server, sign_in.by_cookie(accounts))
        sign_in.add_routes(server, accounts, settings)
    _keep_private(server)


def _refuse_strangers(server: Flask, names: set[str]) -> None:
    """Refuse what a page of another site makes a browser send.

    Args:
        names: By which browsers may call the server, beside this machine's own.
    """

    @server.before_request
    def refuse_strangers() -> None:
        if not _is_called(names):
            abort(
                400,
                f"this server is not called {request.host[:200]!r}; whoever runs it can add that to HEADSCOPE_HOSTS",
            )
        if request.method not in CHANGE_NOTHING and _is_sent_elsewhere():
            abort(403, "this was sent by a page of another site")


def _is_called(names: set[str]) -> bool:
    """Whether the browser calls the server by a name of its own. By another, a page elsewhere could be its page too."""
    try:
        host = urlsplit(f"//{request.host}").hostname or ""
    except ValueError:
        return False
    return host in names or is_loopback(host)


def _is_sent_elsewhere() -> bool:
    """Whether a page of another site sent the request, by Sec-Fetch-Site, in older browsers by Origin.

    What sends neither is no browser, and has no cookie that a page elsewhere could use.
    """
    site, origin = request.headers.get("Sec-Fetch-Site"), request.headers.get("Origin")
    if site is not None:
        return site not in ("same-origin", "none")
    return origin is not None and origin not in (f"http://{request.host}", f"https://{request.host}")


def _ask(server: Flask, who: Callable[[], User | None]) -> None:
    """Have every request be somebody's, but those that everybody may make."""

    @server.before_request
    def refuse_nobody() -> Any:
        if _is_for_everybody():
            return None
        if (user := who()) is not None:
            g.user = user
            return None
        if request.endpoint in PAGES and request.method in ("GET", "HEAD"):
            return redirect(f"{sign_in.IN}?next={quote(request.full_path.rstrip('?'))}")
        return abort(401, "nobody is signed in; open the page of this server and sign in")


def _is_for_everybody() -> bool:
    if request.endpoint == ASSETS:
        return request.view_args == {"filename": sign_in.SCRIPT}
    return request.endpoint in OPEN


def by_header(accounts: Accounts, header: str) -> Callable[[], User]:
    """Who asks, as the lab's own proxy says."""

    def who() -> User:
        name = request.headers.get(header, "")
        if not name:
            abort(401, f"the lab's proxy says nobody's name in {header}; call this server through that proxy")
        try:
            return accounts.known(name)
        except AccountError as error:
            return abort(401, str(error))

    return who


def _keep_private(server: Flask) -> None:
    """Have nothing between here and the browser keep what only some may see, and no other site's page show it."""

    @server.after_request
    def keep_private(response: Response) -> Response:
        if response.cache_control.public:
            del response.cache_control.public
            response.cache_control.private = True
        response.headers.setdefault("Cache-Control", "no-store")
        response.headers["Cross-Origin-Opener-Policy"] = "same-origin"
        response.headers["Cross-Origin-Resource-Policy"] = "same-origin"
        return response
