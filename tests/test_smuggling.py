"""What one server could read as two requests and another as one: it is refused, and nothing behind it is read."""

import re
import socket
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from dashboard.app import room_for_connections
from tests.test_deploy import SOON, data, environment, free_port, gunicorn, running

__all__ = ["data"]

ROOT = Path(__file__).parents[1]
WAITRESS = "from dashboard.app import serve\nfrom store.settings import Settings\nserve(Settings())"
SMUGGLED = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
HONEST = SMUGGLED[:-2] + b"Connection: close\r\n\r\n"
CHUNK = b"0\r\n\r\n" + SMUGGLED

# The lines of a head, and what comes behind it.
SHAPES: dict[str, tuple[bytes, bytes]] = {
    "both lengths": (b"Content-Length: 4\r\nTransfer-Encoding: chunked", CHUNK),
    "both lengths, the other way": (b"Transfer-Encoding: chunked\r\nContent-Length: 6", CHUNK),
    "two lengths": (b"Content-Length: 4\r\nContent-Length: 40", CHUNK),
    "two lengths in one": (b"Content-Length: 4, 40", CHUNK),
    "a length below zero": (b"Content-Length: -5", CHUNK),
    "a length with a sign": (b"Content-Length: +4", CHUNK),
    "a length in two parts": (b"Content-Length: 4 4", CHUNK),
    "a length in another base": (b"Content-Length: 0x4", CHUNK),
    "a length with underscores": (b"Content-Length: 1_0", CHUNK),
    "a length without a number": (b"Content-Length: ", CHUNK),
    "a length in other digits": ("Content-Length: ٤".encode(), CHUNK),
    "a length past all numbers": (b"Content-Length: " + b"9" * 5000, CHUNK),
    "a space before the colon": (b"Transfer-Encoding : chunked", CHUNK),
    "a tab before the colon": (b"Content-Length\t: 4", CHUNK),
    "another coding": (b"Transfer-Encoding: xchunked", CHUNK),
    "a coding after chunks": (b"Transfer-Encoding: chunked, identity", CHUNK),
    "a second coding": (b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", CHUNK),
    "chunks twice": (b"Transfer-Encoding: chunked, chunked", CHUNK),
    "a coding behind a control": (b"Transfer-Encoding: \x0bchunked", CHUNK),
    "a coding in quotes": (b'Transfer-Encoding: "chunked"', CHUNK),
    "a folded coding": (b"Transfer-Encoding:\r\n chunked", CHUNK),
    "a folded length": (b"X: y\r\n Content-Length: 40", CHUNK),
    "a NUL in a head": (b"X: a\0b", CHUNK),
    "a name with a NUL": (b"Content-Length\0: 4", CHUNK),
    "a carriage return alone": (b"X: a\rContent-Length: 40", CHUNK),
    "no colon": (b"Content-Length 4", CHUNK),
    "no name": (b": 4", CHUNK),
    "a head of 70 kB": (b"X: " + b"x" * 70_000, CHUNK),
    "4,000 heads of 70 B": (b"\r\n".join(b"X-%d: " % n + b"x" * 60 for n in range(4000)), CHUNK),
}
# The same within a body, which a server may learn only after it has answered the head.
CHUNKS: dict[str, bytes] = {
    "a chunk below zero": b"-1\r\n\r\n" + SMUGGLED,
    "a chunk past all numbers": b"f" * 40 + b"\r\n" + SMUGGLED,
    "a chunk in another base": b"0x0\r\n\r\n" + SMUGGLED,
    "a chunk with a sign": b"+0\r\n\r\n" + SMUGGLED,
    "a chunk with underscores": b"0_0\r\n\r\n" + SMUGGLED,
    "a chunk without its end": b"3\r\nabcd0\r\n\r\n" + SMUGGLED,
    "no chunk": b"zz\r\n" + SMUGGLED,
}
FIRST_LINES = {
    "no version": b"POST /sign-in",
    "another version": b"POST /sign-in HTTP/1.1x",
    "two spaces": b"POST /sign-in  HTTP/1.1 HTTP/1.1",
    "a NUL in the address": b"POST /\0 HTTP/1.1\0",
    "no method": b" /sign-in HTTP/1.1",
    "an address of 70 kB": b"POST /" + b"x" * 70_000 + b" HTTP/1.1",
}


@pytest.fixture(scope="module", params=["waitress", "gunicorn"])
def port(request: pytest.FixtureRequest, data: Path) -> Iterator[int]:
    """The page where people sign in, as each of the two servers serves it."""
    found = free_port()
    command = [sys.executable, "-c", WAITRESS] if request.param == "waitress" else [*gunicorn(), "--workers", "1"]
    environ = environment(data, host="127.0.0.1", sign_in="true", port=str(found), proxies="0")
    with running(command, found, environ):
        assert statuses(found, HONEST, SOON) == [200]  # it has loaded
        assert statuses(found, SMUGGLED + HONEST) == [200, 200]  # two honest ones on one connection are two
        yield found
        assert statuses(found, HONEST) == [200]


def statuses(port: int, sent: bytes, patience: float = 2.0) -> list[int]:
    """Of all answers that come to what is sent, until the server ends the connection or is silent for so long."""
    said = b""
    with socket.create_connection(("127.0.0.1", port), SOON) as client, suppress(OSError):
        client.sendall(sent)
        client.settimeout(patience)
        while piece := client.recv(65_536):
            said += piece
    return [int(status) for status in re.findall(rb"HTTP/1\.[01] (\d{3}) ", said)]


@pytest.mark.parametrize("name", SHAPES)
def test_a_head_that_could_end_in_two_places_has_one_answer_which_is_no(port: int, name: str):
    lines, behind = SHAPES[name]
    for address in (b"/sign-in", b"/health"):
        head = b"POST " + address + b" HTTP/1.1\r\nHost: localhost\r\n" + lines + b"\r\n\r\n"
        found = statuses(port, head + behind)
        assert len(found) == 1, (address, found)
        assert all(400 <= status < 500 or status == 501 for status in found), (address, found)


@pytest.mark.parametrize("name", CHUNKS)
def test_a_chunk_that_is_none_ends_the_connection(port: int, name: str):
    for address in (b"/sign-in", b"/health"):
        head = b"POST " + address + b" HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
        found = statuses(port, head + CHUNKS[name])
        # What the head has been told, and that the rest is no request; one that is not ended is waited for.
        assert all(400 <= status < 500 for status in found), (address, found)
        assert found[1:] in ([], [400]), (address, found)


@pytest.mark.parametrize("name", FIRST_LINES)
def test_a_first_line_that_is_none_has_one_answer_which_is_no(port: int, name: str):
    found = statuses(port, FIRST_LINES[name] + b"\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n" + SMUGGLED)
    assert len(found) == 1
    assert found[0] // 100 == 4 or found[0] in (501, 505)


def test_a_thousand_connections_that_are_only_held_keep_nobody_out(port: int, request: pytest.FixtureRequest):
    if request.node.callspec.params["port"] == "gunicorn":
        pytest.skip("gunicorn stands behind the proxy, which holds them in its place")
    room_for_connections()  # of this process too
    held = [socket.create_connection(("127.0.0.1", port), SOON) for _ in range(1000)]
    try:
        for client in held[1::2]:
            client.sendall(SMUGGLED[:20])  # half a head
        for client in held[::100]:
            client.sendall(SMUGGLED)
            assert client.recv(100).startswith(b"HTTP/1.1 200 ")
        assert statuses(port, HONEST, SOON) == [200]
    finally:
        for client in held:
            client.close()
