"""Where does a request end? Waitress decides that alone; what a proxy before it could read otherwise is refused."""

from typing import Any

import waitress
from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser, ParsingError
from waitress.server import BaseWSGIServer

MOST_HEAD = 32_768  # bytes of a request's first line and headers: a selection is an address, named in each request
_MOST_DIGITS = 15
_LENGTHS = (b"content-length", b"transfer-encoding")


class OneLengthParser(HTTPRequestParser):  # type: ignore[misc]
    """Takes a request whose head says once, and plainly, how long it is."""

    def parse_header(self, header_plus: bytes) -> None:
        """As waitress does.

        Raises:
            ParsingError: Two lengths, a line that goes on with the next, or a length that is none.
        """
        lines = header_plus.split(b"\r\n")[1:]
        if any(line.startswith((b" ", b"\t")) for line in lines):
            raise ParsingError("a header goes on in a second line")
        named = [line.partition(b":") for line in lines]
        lengths = [value.strip(b" \t") for name, _, value in named if name.strip().lower() in _LENGTHS]
        if len(lengths) > 1 or any(b"," in value for value in lengths):
            raise ParsingError("the length is said twice")
        if any(value.isdigit() and len(value) > _MOST_DIGITS for value in lengths):
            raise ParsingError("the length is too long")
        super().parse_header(header_plus)


class OneLengthChannel(HTTPChannel):  # type: ignore[misc]
    """A connection whose requests are read so."""

    parser_class = OneLengthParser


def waitress_server(application: Any, **adjustments: Any) -> Any:
    """As `waitress.create_server`, on the sockets of which each connection is a `OneLengthChannel`."""
    sockets: dict[int, Any] = {}  # by file descriptor; one for each address of the host, and their triggers
    server = waitress.create_server(application, map=sockets, **adjustments)
    for each in sockets.values():
        if isinstance(each, BaseWSGIServer):
            each.channel_class = OneLengthChannel
    return server
