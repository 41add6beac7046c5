"""What of a request can be read? Every body of JSON is parsed here, and every address looked at, before anything else.

Browsers send text, not lone surrogates; numbers that they can count with; lists in lists, but not a thousand. Anything
else overflows, recurses or cannot be written down somewhere below, and is refused in one line, under a number.
"""

import json
import logging
import math
import secrets
from typing import Any, NoReturn
from urllib.parse import unquote_to_bytes

from flask import Flask, Request, abort, request
from flask.json.provider import DefaultJSONProvider
from werkzeug.routing import IntegerConverter

log = logging.getLogger(__name__)

MOST_DEPTH = 64  # the page's own bodies have 8
MOST_INTEGER = 2**53  # beyond, browsers do not count one by one
MOST_INDEX = 10**9 - 1  # what a longer number of an address is taken for: no study has so many of anything


class OddError(ValueError):
    """JSON, or an address, that no browser would send."""


def parse(text: str | bytes) -> Any:
    """A piece of JSON that a browser sent.

    Raises:
        OddError: A number is too large or none, a text is no text, or it is nested too deeply.
        ValueError: It is no JSON.
    """
    try:
        found = json.loads(text, parse_int=_integer, parse_float=_float, parse_constant=_float)
    except RecursionError:
        raise OddError("the body is nested too deeply") from None
    inside = [(found, 1)]
    while inside:
        value, depth = inside.pop()
        if depth > MOST_DEPTH:
            raise OddError("the body is nested too deeply")
        if isinstance(value, dict):
            inside += ((each, depth + 1) for pair in value.items() for each in pair)
        elif isinstance(value, list):
            inside += ((each, depth + 1) for each in value)
        elif isinstance(value, str):
            _need_text(value)
    return found


def _integer(digits: str) -> int:
    if len(digits) > 17 or abs(value := int(digits)) > MOST_INTEGER:
        raise OddError("a number in the body is too large")
    return value


def _float(digits: str) -> float:
    if not math.isfinite(value := float(digits)):
        raise OddError("a number in the body is too large, or none")
    return value


def _need_text(text: str) -> None:
    if "\0" in text:
        raise OddError("a text has a NUL in it")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise OddError("a text is half a character") from None


def guard(server: Flask) -> None:
    """Have the server read no others."""
    server.json = _Json(server)
    server.request_class = _Request
    server.url_map.converters["int"] = _Index

    @server.before_request
    def refuse_odd_addresses() -> None:
        raw = request.environ.get("PATH_INFO", "").encode("latin-1") + b"?" + unquote_to_bytes(request.query_string)
        try:
            _need_text(raw.decode())
        except UnicodeDecodeError:
            refuse("the address is no UTF-8")
        except OddError as error:
            refuse(f"the address cannot be read: {error}")


def field(name: str) -> str:
    """What was typed into a field of a form; empty if it has none."""
    text = request.form.get(name, "")
    try:
        _need_text(text)
    except OddError as error:
        refuse(str(error))
    return text


def refuse(why: str) -> NoReturn:
    """Answer 400 with the reason and a number, under which the log has it too."""
    number = secrets.token_hex(4)
    log.warning("error %s: %s %.200s: %s", number, request.method, request.path.encode("unicode_escape").decode(), why)
    abort(400, f"{why}; in the log as error {number}")


class _Json(DefaultJSONProvider):
    def loads(self, s: str | bytes, **kwargs: Any) -> Any:  # noqa: ARG002 (Flask's signature)
        return parse(s)


class _Request(Request):
    def on_json_loading_failed(self, e: ValueError | None) -> Any:
        if e is None:
            abort(415, "the body is not said to be JSON")
        refuse(str(e) if isinstance(e, OddError) else "the body is not JSON")


class _Index(IntegerConverter):
    """A count of an address. Python reads no number of 5,000 digits, and NumPy none of 20."""

    def to_python(self, value: str) -> int:
        return int(value) if len(value) < len(str(MOST_INDEX)) else MOST_INDEX
