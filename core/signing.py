"""Signatures of webhooks, without I/O: headers and bytes in, a proof or one exception out.

Two schemes: ``standard`` is Standard Webhooks (https://www.standardwebhooks.com), ``hmac`` is a
header over the raw body, as n8n's Crypto node makes it. Verification has two steps, so that a
request with a malformed signature costs no body: :func:`claim_of` looks at the headers alone,
:func:`verify` then at the raw bytes. Whatever the bytes are, they raise nothing but
:class:`SignatureInvalid`.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import secrets as random_secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from .errors import ConfigurationError, SignatureInvalid

Headers = Sequence[tuple[bytes, bytes]]
"""Raw header pairs as ASGI gives them: names in lower case, duplicates kept."""

TOLERANCE_SECONDS = 300
"""How far a signed timestamp may lie from our clock, both ways (the field's custom)."""

MIN_SECRET_BYTES = 24
MAX_SIGNATURES = 10

_ID = re.compile(rb"[\x21-\x7e]{1,256}")
_TIMESTAMP = re.compile(rb"[0-9]{1,12}")
_STANDARD_TOKEN = re.compile(rb"v[0-9]{1,3}[a-z]?,[A-Za-z0-9+/=]{1,256}")
_PREFIX = re.compile(r"[\x21-\x7e]{0,64}")
_HEADER_NAME = re.compile(r"[A-Za-z0-9-]{1,64}")
_WHSEC = "whsec_"


@dataclass(frozen=True, slots=True)
class StandardScheme:
    """Standard Webhooks: ``v1,<base64>`` over ``id.timestamp.body``."""

    id_header: bytes = b"webhook-id"
    timestamp_header: bytes = b"webhook-timestamp"
    signature_header: bytes = b"webhook-signature"


@dataclass(frozen=True, slots=True)
class HmacScheme:
    """HMAC-SHA256 over the raw body in one header.

    With ``timestamp_header`` set, a request that carries that header is signed over
    ``timestamp.body`` and must lie within the tolerance; ``timestamp_required`` refuses one
    without it.
    """

    signature_header: bytes = b"x-n8n-signature"
    prefix: bytes = b"sha256="
    encoding: Literal["hex", "base64"] = "hex"
    timestamp_header: bytes | None = b"x-n8n-timestamp"
    timestamp_required: bool = False


Scheme = StandardScheme | HmacScheme


@dataclass(frozen=True, slots=True)
class Claim:
    """What the headers say, well-formed but not yet proven."""

    scheme: Scheme
    signatures: tuple[bytes, ...]
    event_id: str | None
    timestamp: bytes | None

    def signed_text(self, body: bytes) -> bytes:
        """Return the bytes that the sender must have signed for this ``body``."""
        if isinstance(self.scheme, StandardScheme):
            return b"%b.%b.%b" % ((self.event_id or "").encode(), self.timestamp or b"", body)
        return body if self.timestamp is None else b"%b.%b" % (self.timestamp, body)


@dataclass(frozen=True, slots=True)
class Proof:
    """What a valid signature proves: the body, and the id and timestamp where they are signed."""

    event_id: str | None
    timestamp: int | None


def claim_of(scheme: Scheme, headers: Headers) -> Claim:
    """Read the scheme's headers; no secret and no body is needed.

    Raises:
        SignatureInvalid: a header is missing, repeated, or not of its shape.
    """
    if isinstance(scheme, StandardScheme):
        event_id = _one(headers, scheme.id_header, _ID)
        timestamp = _one(headers, scheme.timestamp_header, _TIMESTAMP)
        tokens = _one(headers, scheme.signature_header).split(b" ")
        if len(tokens) > MAX_SIGNATURES or not all(map(_STANDARD_TOKEN.fullmatch, tokens)):
            raise SignatureInvalid
        signatures = tuple(t[3:] for t in tokens if t.startswith(b"v1,"))
        return Claim(scheme, signatures, event_id.decode("ascii"), timestamp)
    value = _one(headers, scheme.signature_header, re.compile(rb"[\x21-\x7e]{1,512}"))
    if not value.startswith(scheme.prefix):
        raise SignatureInvalid
    return Claim(scheme, (value[len(scheme.prefix) :],), None, _hmac_timestamp(scheme, headers))


def verify(claim: Claim, body: bytes, secrets: Sequence[bytes], *, now: float) -> Proof:
    """Prove the claim over the raw ``body`` with any of the live ``secrets``.

    Every secret is tried against every signature, without an early end, so that the time taken
    tells nothing. ``now`` is in seconds since the epoch.

    Raises:
        SignatureInvalid: no secret matches, there is none, or the timestamp is out of tolerance.
    """
    text = claim.signed_text(body)
    proven = False
    for secret in filter(None, secrets):  # anyone can sign with an empty key: it proves nothing
        expected = _encode(claim.scheme, hmac.digest(secret, text, hashlib.sha256))
        for signature in claim.signatures:
            proven |= hmac.compare_digest(expected, _canonical(claim.scheme, signature))
    timestamp = None if claim.timestamp is None else int(claim.timestamp)
    if not proven or (timestamp is not None and abs(now - timestamp) > TOLERANCE_SECONDS):
        raise SignatureInvalid
    return Proof(claim.event_id, timestamp)


def sign(
    scheme: Scheme, secret: bytes, body: bytes, *, event_id: str, timestamp: int
) -> list[tuple[bytes, bytes]]:
    """Return the header pairs that make ``body`` verifiable under ``scheme``."""
    stamp = str(timestamp).encode()
    if isinstance(scheme, StandardScheme):
        claim = Claim(scheme, (), event_id, stamp)
        digest = _encode(scheme, hmac.digest(secret, claim.signed_text(body), hashlib.sha256))
        return [
            (scheme.id_header, event_id.encode("ascii")),
            (scheme.timestamp_header, stamp),
            (scheme.signature_header, b"v1," + digest),
        ]
    claim = Claim(scheme, (), None, stamp if scheme.timestamp_header else None)
    digest = _encode(scheme, hmac.digest(secret, claim.signed_text(body), hashlib.sha256))
    pairs = [(scheme.signature_header, scheme.prefix + digest)]
    if scheme.timestamp_header:
        pairs.append((scheme.timestamp_header, stamp))
    return pairs


def scheme_of(name: str, options: dict[str, object] | None = None) -> Scheme:
    """Build the scheme of an endpoint from its stored name and options.

    Raises:
        ConfigurationError: an unknown scheme, option, or value.
    """
    options = dict(options or {})
    if name == "standard" and not options:
        return StandardScheme()
    if name != "hmac":
        raise ConfigurationError(f"Unknown signature scheme {name!r} or option {sorted(options)}.")
    default = HmacScheme()
    header = _header_option(options.pop("header", default.signature_header.decode()))
    stamp = options.pop("timestamp_header", "x-n8n-timestamp")
    prefix = options.pop("prefix", default.prefix.decode())
    encoding = options.pop("encoding", default.encoding)
    required = options.pop("timestamp_required", False)
    if not isinstance(prefix, str) or not _PREFIX.fullmatch(prefix):
        raise ConfigurationError(f"Not a signature prefix: {prefix!r}")
    if options or encoding not in ("hex", "base64") or not isinstance(required, bool):
        raise ConfigurationError(f"Signature options not understood: {sorted(options) or encoding}")
    if required and stamp is None:
        raise ConfigurationError("timestamp_required needs a timestamp_header.")
    return HmacScheme(
        signature_header=header,
        prefix=prefix.encode("ascii"),
        encoding="hex" if encoding == "hex" else "base64",
        timestamp_header=None if stamp is None else _header_option(stamp),
        timestamp_required=required,
    )


def secret_bytes(text: str) -> bytes:
    """Return the HMAC key of a secret as users write it.

    ``whsec_<base64>`` is decoded, as Standard Webhooks says; any other text is keyed by its UTF-8
    bytes, as n8n's Crypto node does.

    Raises:
        ConfigurationError: fewer than 24 bytes, or not base64 behind ``whsec_``.
    """
    if text.startswith(_WHSEC):
        try:
            key = base64.b64decode(text[len(_WHSEC) :].encode(), validate=True)
        except (binascii.Error, ValueError) as error:
            raise ConfigurationError("A secret 'whsec_…' must be base64 behind the _.") from error
    else:
        try:
            key = text.encode()
        except UnicodeEncodeError as error:
            raise ConfigurationError("A webhook secret must be valid Unicode text.") from error
    if len(key) < MIN_SECRET_BYTES:
        raise ConfigurationError(
            f"A webhook secret of {len(key)} bytes is too short: use {MIN_SECRET_BYTES} or more."
        )
    return key


def new_secret() -> str:
    """Return a new secret of 43 printable characters (256 random bits).

    Printable, because n8n's Crypto node keys with the text's UTF-8 bytes.
    """
    return random_secrets.token_urlsafe(32)


def whsec(text: str) -> str:
    """Return the Standard Webhooks notation (``whsec_<base64>``) of a secret's key."""
    return _WHSEC + base64.b64encode(secret_bytes(text)).decode()


def _one(headers: Headers, name: bytes, shape: re.Pattern[bytes] | None = None) -> bytes:
    found = [value for key, value in headers if key == name]
    if len(found) != 1 or (shape is not None and not shape.fullmatch(found[0])):
        raise SignatureInvalid
    return found[0]


def _hmac_timestamp(scheme: HmacScheme, headers: Headers) -> bytes | None:
    if scheme.timestamp_header is None:
        return None
    if not scheme.timestamp_required and not _has(headers, scheme.timestamp_header):
        return None
    return _one(headers, scheme.timestamp_header, _TIMESTAMP)


def _has(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> bool:
    return any(key == name for key, _ in headers)


def _encode(scheme: Scheme, digest: bytes) -> bytes:
    if isinstance(scheme, HmacScheme) and scheme.encoding == "hex":
        return digest.hex().encode()
    return base64.b64encode(digest)


def _canonical(scheme: Scheme, signature: bytes) -> bytes:
    # Hex is the same number in either case; bytes.lower() touches ASCII letters only.
    if isinstance(scheme, HmacScheme) and scheme.encoding == "hex":
        return signature.lower()
    return signature


def _header_option(value: object) -> bytes:
    if not isinstance(value, str) or not _HEADER_NAME.fullmatch(value):
        raise ConfigurationError(f"Not a header name: {value!r}")
    return value.lower().encode()
