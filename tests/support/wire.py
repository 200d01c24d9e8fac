"""Raw connections to a receiver, requests that no client sends, and what must not come back."""

from __future__ import annotations

import itertools
import json
import re
import select
import socket
import time
from dataclasses import dataclass
from typing import BinaryIO

from prefect_n8n.core.signing import Scheme, StandardScheme, sign
from prefect_n8n.receiver.app import PREFIX
from support.receiver import SECRET

PATIENCE = 10.0
"""Seconds after which a test gives up on an answer that should have come."""

OTHER_SECRET = b"another-secret-of-thirty-two-bytes"

CHUNKED = b"Transfer-Encoding: chunked"

_LEAK = re.compile(
    rb"Traceback|File \"|\.py\b|SELECT|INSERT|psycopg|sqlalchemy|starlette|uvicorn|webhook_events",
    re.IGNORECASE,
)
_ids = itertools.count()


@dataclass(frozen=True)
class Answer:
    """One response as it came over the wire."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, object]:
        """The body's object."""
        value = json.loads(self.body)
        assert isinstance(value, dict)
        return value

    @classmethod
    def read(cls, file: BinaryIO) -> Answer | None:
        """Read the next response, or None where there is none any more."""
        line = file.readline()
        if not line:
            return None
        headers: dict[str, str] = {}
        while (header := file.readline().strip()) != b"":
            name, _, value = header.decode("latin-1").partition(":")
            headers[name.lower()] = value.strip()
        return cls(
            int(line.split()[1]), headers, file.read(int(headers.get("content-length", "0")))
        )


class Wire:
    """A raw connection."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        self._file = self.socket.makefile("rb")

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close it."""
        self._file.close()
        self.socket.close()

    def send(self, data: bytes) -> None:
        """Send all of ``data``, unless the other side has closed meanwhile."""
        try:
            self.socket.sendall(data)
        except OSError:
            # What it said before may still be read.
            return

    def answer(self) -> Answer | None:
        """Return the next response, or None when the connection ends without one."""
        try:
            return Answer.read(self._file)
        except ConnectionResetError:
            return None

    def answers(self) -> list[Answer]:
        """Return every response until the connection ends."""
        found: list[Answer] = []
        while (answer := self.answer()) is not None:
            found.append(answer)
        return found

    def silent(self, seconds: float = 0.0) -> bool:
        """Whether nothing (no answer, no end) has come by then."""
        return not select.select([self.socket], [], [], seconds)[0]


def request(
    body: bytes = b"{}",
    *,
    method: str = "POST",
    target: str = f"{PREFIX}/orders",
    version: str = "HTTP/1.1",
    headers: list[bytes] | None = None,
    host: bytes | None = b"Host: test",
    length: bytes | None = None,
    end: bytes = b"\r\n",
) -> bytes:
    """Build a request; ``headers`` are whole lines and are those of a signed event unless given."""
    lines = [f"{method} {target} {version}".encode("latin-1")]
    lines += [] if host is None else [host]
    lines += signed(body) if headers is None else headers
    lines += [b"Content-Length: %d" % len(body) if length is None else length] if body else []
    return end.join([*filter(None, lines), b"", b""]) + body


def signed(
    body: bytes,
    *,
    event_id: str = "evt_1",
    at: float | None = None,
    secret: bytes = SECRET,
    scheme: Scheme | None = None,
) -> list[bytes]:
    """Return the header lines of a signed JSON event."""
    stamp = int(time.time() if at is None else at)
    pairs = sign(scheme or StandardScheme(), secret, body, event_id=event_id, timestamp=stamp)
    return [b"Content-Type: application/json", *(b"%b: %b" % pair for pair in pairs)]


def without(name: bytes) -> list[bytes]:
    """Return the header lines of a signed event but one."""
    return [line for line in signed(b"{}") if not line.startswith(name)]


def chunks(*pieces: bytes) -> bytes:
    """Encode a chunked body up to its last chunk: trailers or an empty line have to follow."""
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n"


def chunked(body: bytes, encoded: bytes, event_id: str = "chunked") -> bytes:
    """A signed request for ``body`` whose body on the wire is ``encoded``."""
    head = request(body, headers=signed(body, event_id=event_id), length=CHUNKED)
    return head.removesuffix(body) + encoded


HEALTH = request(b"", method="GET", target="/healthz", headers=[])
LAST = request(b"", method="GET", target="/healthz", headers=[b"Connection: close"])


def new_id() -> str:
    """Return an event id that no other request of this process has."""
    return f"evt_{next(_ids)}"


def refusal(answer: Answer | None, *statuses: int) -> Answer:
    """Check that ``answer`` is a problem of one of these statuses, and tells nothing else."""
    assert answer is not None
    assert answer.status in statuses, answer
    assert answer.headers["content-type"] == "application/problem+json"
    assert set(answer.json) == {"type", "title", "status", "detail"}
    assert answer.json["status"] == answer.status
    assert str(answer.json["type"]).startswith("urn:prefect-n8n:problem:")
    assert "server" not in answer.headers
    assert not _LEAK.search(answer.body), answer
    return answer


def accepted(answer: Answer | None) -> Answer:
    """Check that ``answer`` is a 202."""
    assert answer is not None
    assert answer.status == 202, answer
    assert set(answer.json) == {"id", "state", "duplicate"}
    return answer
