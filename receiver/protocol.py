"""uvicorn's h11 protocol with what it lacks: a deadline for receiving one request.

h11 also keeps chunk trailers out of the headers, which other parsers merge into them.
"""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol

_TIMEOUT = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


def protocol_with_deadline(seconds: float) -> type[H11Protocol]:
    """Return a protocol class that closes a connection whose request takes longer to arrive.

    The time runs from the connection's opening, or from the first byte of a later request on it,
    to the last byte of the body.
    """

    class DeadlineProtocol(H11Protocol):
        deadline: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._start()

        def data_received(self, data: bytes) -> None:
            # A repeated call keeps the first request's time: slow senders do not extend it.
            self._start()
            super().data_received(data)
            if self._received():
                self._stop()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            # A pipelined request may have begun to arrive behind the one just answered.
            if self.conn.their_state is h11.SEND_BODY or (
                self.conn.their_state is h11.IDLE and self.conn.trailing_data[0]
            ):
                self._start()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop()
            super().connection_lost(exc)

        def _received(self) -> bool:
            return self.conn.their_state not in (h11.IDLE, h11.SEND_BODY)

        def _start(self) -> None:
            if self.deadline is None:
                self.deadline = self.loop.call_later(seconds, self._expire)

        def _stop(self) -> None:
            if self.deadline is not None:
                self.deadline.cancel()
                self.deadline = None

        def _expire(self) -> None:
            self.deadline = None
            if self._received() or self.transport.is_closing():
                return
            if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
                self.transport.write(_TIMEOUT)
            self.transport.close()

    return DeadlineProtocol


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
        h11_max_incomplete_event_size=65_536,
        backlog=1024,
    )
