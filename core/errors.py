"""Every error this package raises, split by what the caller does next.

::

    PrefectN8nError
    ├── ConfigurationError      a human changes a setting; the message says which
    ├── RequestError            the sender fixes the request (has a code and an HTTP status)
    │   ├── SignatureInvalid    401: not proven to come from the holder of a secret
    │   ├── BodyInvalid         400: not the strict JSON object that is asked for
    │   └── EventConflict       409: a known event id with another body
    ├── EventUnprocessable      the event itself can never run: it is dead until redriven
    └── Unavailable             try again later, nothing was lost
        ├── LedgerUnavailable   PostgreSQL is away or overloaded
        └── PrefectUnavailable  the Prefect API is away
"""

from __future__ import annotations


class PrefectN8nError(Exception):
    """Base of all errors of this package."""


class ConfigurationError(PrefectN8nError):
    """A setting is missing or wrong; retrying does not help."""


class RequestError(PrefectN8nError):
    """A request that its sender has to change.

    ``code`` is the stable name of the problem (the ``type`` of the problem+json answer),
    ``status`` its HTTP status. The message is safe to send to a stranger.
    """

    status: int = 400
    code: str = "bad-request"

    def __init__(self, message: str, *, code: str | None = None, status: int | None = None) -> None:
        super().__init__(message)
        self.code = code or type(self).code
        self.status = status or type(self).status


class SignatureInvalid(RequestError):
    """The request is not proven to come from a holder of the endpoint's secret."""

    status = 401
    code = "signature-invalid"

    def __init__(self) -> None:
        # One message for every cause: a forger must not learn which part was wrong.
        super().__init__("The signature is missing or not valid.")


class BodyInvalid(RequestError):
    """The body is not a strict JSON object."""

    code = "body-invalid"


class EventConflict(RequestError):
    """The event id is known with another body."""

    status = 409
    code = "event-conflict"


class EventUnprocessable(PrefectN8nError):
    """The event can never run as it is; its message says why."""


class PrefectRefused(PrefectN8nError):
    """Prefect will not have this call, however often it is repeated; its message says why."""


class Unavailable(PrefectN8nError):
    """Something we depend on is away; the same call may succeed later."""


class LedgerUnavailable(Unavailable):
    """PostgreSQL is away, overloaded, or did not commit in time."""


class PrefectUnavailable(Unavailable):
    """The Prefect API is away or did not answer in time."""
