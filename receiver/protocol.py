"""uvicorn's h11 protocol with what it lacks: deadlines, and errors as problem+json.

h11 also keeps chunk trailers out of the headers, which other parsers merge into them.
"""

from __future__ import annotations

import asyncio
import re
from http import HTTPStatus
from typing import Any, ClassVar

import h11
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol

from ..core.errors import RequestError
from .edge import BAD_FRAMING, MAX_HEAD
from .problems import refused

STOPPING = "stopping"
"""Name in the lifespan's state of what is called, once or more, when the server begins to stop."""

_NOT_HTTP = RequestError("This is not a request of HTTP/1.1, or its head is too large.")
_TIMEOUT = RequestError("The request took too long to arrive.", code="timeout", status=408)

_HEAD_END = re.compile(rb"\n\r?\n")
# With the lines that a folded value goes on in.
_LENGTHS = re.compile(
    rb"^content-length[ \t]*:([^\n]*(?:\n[ \t][^\n]*)*)", re.IGNORECASE | re.MULTILINE
)


class DeadlineProtocol(H11Protocol):
    """Closes a connection whose request takes longer than ``seconds`` to arrive, or whose client
    does not read its answer for so long.

    The time runs from the connection's opening, or from the first byte of a later request on it,
    to the last byte of the body.
    """

    seconds: ClassVar[float]
    deadline: asyncio.TimerHandle | None = None
    unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the deadline of the first request."""
        super().connection_made(transport)
        # The first byte that has to wait for the client pauses writing.
        transport.set_write_buffer_limits(high=0)
        self._start()

    def data_received(self, data: bytes) -> None:
        """Take bytes of a request; the deadline stands until the last of them."""
        # A repeated call keeps the first request's time: slow senders do not extend it.
        self._start()
        super().data_received(data)
        if self._received():
            self._stop()

    def handle_events(self) -> None:
        """Refuse a length that is said twice: h11 makes one of two that are equal."""
        if self.conn.their_state is h11.IDLE and says_length_twice(self.conn.trailing_data[0]):
            self._refuse(BAD_FRAMING)
        else:
            super().handle_events()

    def on_response_complete(self) -> None:
        """Start the deadline of a request that came behind the one just answered."""
        super().on_response_complete()
        # A pipelined request may have begun to arrive behind the one just answered.
        if self.conn.their_state is h11.SEND_BODY or (
            self.conn.their_state is h11.IDLE and self.conn.trailing_data[0]
        ):
            self._start()

    def shutdown(self) -> None:
        """Let the application end answers that wait, then end the connection."""
        stopping = self.app_state.get(STOPPING)
        if stopping is not None:
            stopping()
        super().shutdown()

    def pause_writing(self) -> None:
        """The client does not read: give it so long to go on."""
        super().pause_writing()
        self.unread = self.loop.call_later(self.seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """The client reads again."""
        super().resume_writing()
        if self.unread is not None:
            self.unread.cancel()

    def connection_lost(self, exc: Exception | None) -> None:
        """End the timers with the connection."""
        self._stop()
        if self.unread is not None:
            self.unread.cancel()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002  uvicorn's words
        """Answer what is no HTTP/1.1 as all else is refused."""
        self._refuse(_NOT_HTTP)

    def _received(self) -> bool:
        return self.conn.their_state not in (h11.IDLE, h11.SEND_BODY)

    def _start(self) -> None:
        if self.deadline is None:
            self.deadline = self.loop.call_later(self.seconds, self._expire)

    def _stop(self) -> None:
        if self.deadline is not None:
            self.deadline.cancel()
            self.deadline = None

    def _expire(self) -> None:
        self.deadline = None
        if self._received() or self.transport.is_closing():
            return
        if self.conn.their_state is h11.IDLE and not self.conn.trailing_data[0]:
            self.transport.close()  # nothing was asked
        else:
            self._refuse(_TIMEOUT)

    def _refuse(self, error: RequestError) -> None:
        # h11 may not let us answer any more, but nothing was said to this request yet.
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.write(_bytes_of(error))
        self.transport.close()


def says_length_twice(raw: bytes) -> bool:
    """Whether a request's head, if ``raw`` has the whole of it, gives several body lengths."""
    end = _HEAD_END.search(raw)
    if end is None:
        return False
    lengths = _LENGTHS.findall(raw, 0, end.start() + 1)
    return len(lengths) > 1 or any(b"," in length for length in lengths)


def protocol_with_deadline(seconds: float) -> type[DeadlineProtocol]:
    """Return the protocol class with that deadline; uvicorn takes a class, not an instance."""
    return type("DeadlineProtocol", (DeadlineProtocol,), {"seconds": seconds})


def _bytes_of(error: RequestError) -> bytes:
    answer = refused(error)
    status = HTTPStatus(answer.status_code)
    lines = [b"HTTP/1.1 %d %b" % (status, status.phrase.encode())]
    lines += [b"%b: %b" % pair for pair in answer.raw_headers]
    return b"\r\n".join([*lines, b"", bytes(answer.body)])


def uvicorn_config(app: Any, *, host: str, port: int, receive_deadline: float) -> Config:
    """Return the server settings of the edge."""
    return Config(
        app,
        host=host,
        port=port,
        http=protocol_with_deadline(receive_deadline),
        ws="none",
        lifespan="on",
        server_header=False,
        access_log=False,
        log_config=None,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=10,
        h11_max_incomplete_event_size=MAX_HEAD,
        backlog=1024,
    )
