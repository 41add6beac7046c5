"""Which addresses are there beside the page? Pictures, attention, jobs, and what is refused before it reaches Dash."""

import io
import json
import logging
import secrets
from base64 import b64encode
from collections.abc import Iterable
from functools import lru_cache
from hashlib import sha256
from typing import Any

import numpy as np
from dash import Dash
from dash.exceptions import DependencyException
from flask import Flask, Response, abort, request
from PIL import Image
from werkzeug.exceptions import HTTPException

from dashboard import bodies
from dashboard.data import Shelf, StudyFacts, predictions, read
from dashboard.selection import head_label
from dashboard.views import jobs
from dashboard.words import number, short_name
from jobs.client import Desk
from jobs.database import LedgerUnavailableError
from store.errors import StoreError
from store.study import Study

log = logging.getLogger(__name__)

HASH_DIGITS = 16  # of the content hash in an address: 64 bits, enough that no two studies of a name share it
MOST_BYTES = 1_000_000  # of a request: a selection and a click are some hundred
HTTPS_ONLY = "max-age=2592000"  # 30 days, in which a browser that came by https calls this name by nothing else


def pictures_url(known: StudyFacts) -> str:
    """Where the study's pictures are. It has the content's hash, so that a browser may keep them for good."""
    return f"/studies/{known.name}/{known.content[:HASH_DIGITS]}"


def image_url(known: StudyFacts, index: int) -> str:
    """One image as the model saw it."""
    return f"{pictures_url(known)}/image/{index}.png"


def add_routes(server: Flask, shelf: Shelf, desk: Desk) -> None:
    """Jobs, pictures, thumbnails, captions and attention. What is not there or damaged is 404, with the reason."""
    jobs.add_routes(server, shelf, desk)

    @server.get("/studies/<name>/<digest>/image/<int:index>.png")
    def image(name: str, digest: str, index: int) -> Response:
        return _kept(lambda study: png(study, index), "image/png", name, digest, index)

    @server.get("/studies/<name>/<digest>/thumbnail/<int:index>.webp")
    def thumbnail(name: str, digest: str, index: int) -> Response:
        return _kept(lambda study: webp(study, index), "image/webp", name, digest, index)

    @server.get("/studies/<name>/<digest>/attention/<int:index>/<int:layer>/<int:head>.f16")
    def attention(name: str, digest: str, index: int, layer: int, head: int) -> Response:
        return _kept(
            lambda study: half_floats(study, index, layer, head), "application/octet-stream", name, digest, index
        )

    @server.get("/studies/<name>/<digest>/image/<int:index>.json")
    def caption(name: str, digest: str, index: int) -> Response:
        return _kept(
            lambda study: json.dumps(image_words(study, index)).encode(),
            "application/json",
            name,
            digest,
            index,
        )

    def _kept(made: Any, mimetype: str, name: str, digest: str, index: int) -> Response:
        try:
            study = shelf.open(name)
            if digest != study.manifest.content[:HASH_DIGITS]:
                abort(404, f"study {name} has another content now; reload the page")
            if index >= len(study.image_ids):
                abort(404, f"study {name} has images 0 to {len(study.image_ids) - 1}")
            response = Response(made(study), mimetype=mimetype)
        except (StoreError, IndexError) as error:
            abort(404, str(error))
        response.cache_control.public = True
        response.cache_control.immutable = True
        response.cache_control.max_age = 31_536_000
        response.add_etag()
        response.make_conditional(request)
        return response


@lru_cache(maxsize=256)
def png(study: Study, index: int) -> bytes:
    """What the model saw of an image."""
    return _encoded(study.read("pixels", index), "PNG", compress_level=1)


@lru_cache(maxsize=2048)
def webp(study: Study, index: int) -> bytes:
    """A small picture of an image."""
    return _encoded(study.read("thumbnail", index), "WEBP", quality=80, method=2)


def half_floats(study: Study, index: int, layer: int, head: int) -> bytes:
    """Attention of one head on one image, (query, key), as float16 in C order, little-endian.

    Raises:
        StoreError: It is damaged, not in the study, or not finite.
        IndexError: There is no such layer or head.
    """
    attn = study.attention(index, layer, head)
    if not np.isfinite(attn).all():
        where = f"{head_label(layer, head)} on {study.image_ids[index]}"
        raise StoreError(f"attention of {where} is not finite; other heads and images may be")
    return attn.astype("<f2").tobytes()


def _encoded(pixels: np.ndarray, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def image_words(study: Study, index: int) -> dict[str, str]:
    """What is said of an image where there is little room."""
    words = {"id": study.image_ids[index]}
    if "probability" not in study:
        return words
    told, names = predictions(study), study.class_names
    label, predicted = int(told.label[index]), int(told.predicted[index])
    words["true"] = short_name(names[label]) if label >= 0 else ""
    words["predicted"] = short_name(names[predicted]) if predicted >= 0 else "not finite"
    words["probability"] = number(float(read(study, "probability", index)[predicted])) if predicted >= 0 else "–"
    return words


# --- what is refused ---


def guard(app: Dash, *inline: str) -> None:
    """Answer with 4xx and one line what the page cannot have sent, and let the page load from here only.

    Args:
        inline: Scripts that stand in the page itself, besides Dash's own.
    """
    server: Flask = app.server
    server.config["MAX_CONTENT_LENGTH"] = MOST_BYTES
    callbacks = f"{app.config.requests_pathname_prefix}_dash-update-component"
    policy = _content_policy(app, inline)

    @server.before_request
    def refuse_malformed() -> None:
        if request.path != callbacks or request.method != "POST":
            return
        if wrong := misfit(app.callback_map, request.get_json() if request.is_json else None):
            bodies.refuse(wrong)

    @server.errorhandler(HTTPException)
    def say_shortly(error: HTTPException) -> Response:
        return Response(error.description or error.name, status=error.code, mimetype="text/plain")

    @server.errorhandler(DependencyException)
    def say_absent(error: DependencyException) -> Response:
        return Response("there is no such script", 404, mimetype="text/plain")

    @server.errorhandler(LedgerUnavailableError)
    def say_later(error: LedgerUnavailableError) -> Response:
        log.error("%s", error)
        return Response(error.said, 503, mimetype="text/plain")

    @server.errorhandler(Exception)
    def say_fault(error: Exception) -> Response:
        fault = secrets.token_hex(4)
        log.error("fault %s at %s %s", fault, request.method, request.path, exc_info=error)
        said = f"this is an error of Headscope; whoever runs this server finds it in the log as fault {fault}"
        return Response(said, 500, mimetype="text/plain")

    @server.after_request
    def close(response: Response) -> Response:
        response.headers.setdefault("Content-Security-Policy", policy)
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "same-origin"
        if request.is_secure:
            response.headers["Strict-Transport-Security"] = HTTPS_ONLY
        return response


def _content_policy(app: Dash, inline: Iterable[str]) -> str:
    """Only this server's scripts and pictures. plotly.js needs eval for WebGL, and Dash inline styles."""
    hashes = (b64encode(sha256(script.encode()).digest()).decode() for script in inline)
    scripts = " ".join(["'self'", "'unsafe-eval'", *app.csp_hashes(), *(f"'sha256-{each}'" for each in hashes)])
    return (
        f"default-src 'self'; script-src {scripts}; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data: blob:; object-src 'none'; base-uri 'none'; form-action 'self'; "
        "frame-ancestors 'self'"
    )


def misfit(callback_map: dict[str, Any], body: object) -> str:
    """Why `body` is no call of a callback of the page; empty if it is one.

    Checked is the shape that Dash takes for granted; values are checked by the callbacks.
    """
    if not isinstance(body, dict):
        return "the body is not a JSON object"
    output = body.get("output")
    # Those that run in the browser are in the map too, without a function to call.
    if not isinstance(output, str) or "callback" not in callback_map.get(output, {}):
        return "there is no such callback; reload the page"
    callback = callback_map[output]
    for part in ("inputs", "state"):
        given, wanted = body.get(part, []), callback[part]
        if not isinstance(given, list) or len(given) != len(wanted):
            return f"{part} should be a list of {len(wanted)}"
        if not all(_is_property(each, **want) for each, want in zip(given, wanted, strict=True)):
            return f"{part} are not those of this callback; reload the page"
    changed = body.get("changedPropIds", [])
    if not isinstance(changed, list) or not all(map(_is_name, changed)):
        return "changedPropIds should be a list of names"
    if not _fits(body.get("outputs"), output):
        return "outputs are not those of this callback; reload the page"
    return ""


def _is_property(given: object, id: str, property: str) -> bool:  # noqa: A002 (Dash's names)
    """Whether it is that property of that component; of a pattern, a list of them."""
    if not id.startswith("{"):
        return isinstance(given, dict) and (given.get("id"), given.get("property")) == (id, property)
    pattern = json.loads(id)
    return isinstance(given, list) and all(
        isinstance(each, dict)
        and isinstance(each.get("id"), dict)
        and each["id"].keys() == pattern.keys()
        and each.get("property") == property
        for each in given
    )


def _is_name(changed: object) -> bool:
    """Whether it is an id and a property, as page.value; ids of a pattern are JSON."""
    if not isinstance(changed, str) or "." not in changed:
        return False
    try:
        return not changed.startswith("{") or isinstance(bodies.parse(changed.rsplit(".", 1)[0]), dict)
    except ValueError:
        return False


def _fits(outputs: object, output: str) -> bool:
    """Whether `outputs` are those of callback `output`: one "id.property", or several as "..a.b...c.d.."."""
    several = output.startswith("..")
    names = output[2:-2].split("...") if several else [output]
    given = outputs if several else [outputs]
    if not isinstance(given, list) or len(given) != len(names):
        return False
    places = [dict(zip(("id", "property"), name.rsplit(".", 1), strict=True)) for name in names]
    if not all(_is_property(each, **place) for each, place in zip(given, places, strict=True)):
        return False
    # The properties of a pattern are of the same components.
    return len({json.dumps([part["id"] for part in each]) for each in given if isinstance(each, list)}) <= 1
