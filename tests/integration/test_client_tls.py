"""TLS: the name's certificate is asked for at the address that was checked."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from prefect_n8n.blocks import network
from prefect_n8n.blocks.client import N8nClient
from prefect_n8n.blocks.network import GuardedTransport
from prefect_n8n.core.errors import CallNotSent
from prefect_n8n.core.urls import Address
from support.hostile import HEADERS, LOOPBACK


def certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """A certificate for a name, signed by itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    files = folder / "certificate.pem", folder / "key.pem"
    files[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    files[1].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return files


@dataclass
class Secure:
    """A running TLS server: the names that were asked for, and the requests that came."""

    port: int = 0
    names: list[str | None] = field(default_factory=list[str | None])
    requests: list[bytes] = field(default_factory=list[bytes])


@asynccontextmanager
async def secure(certificate: Path, key: Path) -> AsyncIterator[Secure]:
    server = Secure()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    context.sni_callback = lambda _socket, name, _context: server.names.append(name)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server.requests.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    server.port = listener.sockets[0].getsockname()[1]
    yield server
    listener.close()
    await listener.wait_closed()


async def loopback(host: str, port: int) -> list[Address]:
    return [ip_address("127.0.0.1")]


def client(port: int, host: str = "n8n.example") -> N8nClient:
    transport = GuardedTransport(LOOPBACK, loopback)
    return N8nClient(f"https://{host}:{port}", allowed=LOOPBACK, transport=transport, timeout=5)


@pytest.fixture
def trusted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """A certificate for n8n.example that SSL_CERT_FILE trusts."""
    files = certificate(tmp_path, "n8n.example")
    monkeypatch.setenv("SSL_CERT_FILE", str(files[0]))
    network._tls.cache_clear()  # pyright: ignore[reportPrivateUsage]
    yield files
    network._tls.cache_clear()  # pyright: ignore[reportPrivateUsage]


async def test_the_name_is_asked_for_and_proven(trusted: tuple[Path, Path]) -> None:
    async with secure(*trusted) as server, client(server.port) as n8n:
        assert (await n8n.post_webhook("orders", b"{}", HEADERS)).status == 200
    assert server.names == ["n8n.example"]
    assert f"host: n8n.example:{server.port}".encode() in server.requests[0]


async def test_another_names_certificate_is_not_taken(trusted: tuple[Path, Path]) -> None:
    async with secure(*trusted) as server, client(server.port, "crm.example") as n8n:
        with pytest.raises(CallNotSent, match="certificate is not trusted: Hostname mismatch"):
            await n8n.post_webhook("orders", b"{}", HEADERS)
    assert server.requests == []


async def test_a_certificate_that_nobody_vouches_for(tmp_path: Path) -> None:
    network._tls.cache_clear()  # pyright: ignore[reportPrivateUsage]
    files = certificate(tmp_path, "n8n.example")
    async with secure(*files) as server, client(server.port) as n8n:
        with pytest.raises(CallNotSent, match="certificate is not trusted"):
            await n8n.post_webhook("orders", b"{}", HEADERS)
    assert server.requests == []
