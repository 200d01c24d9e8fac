"""Every error this package raises, split by what the caller does next.

::

    PrefectN8nError
    ├── ConfigurationError      a human changes a setting; the message says which
    ├── RequestError            the sender fixes the request (has a code and an HTTP status)
    │   ├── SignatureInvalid    401: not proven to come from the holder of a secret
    │   ├── BodyInvalid         400: not the strict JSON object that is asked for
    │   └── EventConflict       409: a known event id with another body
    ├── EventUnprocessable      the event itself can never run: it is dead until redriven
    ├── PrefectRefused          Prefect will never have this call: a human looks at its message
    ├── LoopEnded               a part of this process ended: the process ends, to be started again
    ├── CallFailed              a call to a target did not do what was asked
    │   ├── CallRefused         our guard or limits refuse it, nothing was sent: a human changes the
    │   │                       URL, the allow-list or the size
    │   ├── CallNotSent         nothing reached the target (DNS, connect, TLS): try again
    │   ├── OutcomeUnknown      it went out and no whole answer came (timeout, reset, truncated,
    │   │                       oversized): ask whether it arrived before sending again
    │   ├── N8nTriggerFailed    the webhook's answer, or n8n's list of executions, shows that the
    │   │                       workflow was not started: its message says why
    │   └── N8nApiError         n8n's public API answered with an error; ``message`` is n8n's own
    │       ├── N8nUnauthorized     401, 403: a human gives the API key, or a scope to it
    │       ├── N8nNotFound         404: it is gone, or n8n is still loading
    │       ├── N8nConflict         409: look at the present state, then decide
    │       ├── N8nRequestInvalid   other 4xx: the caller fixes the request
    │       ├── N8nRateLimited      429: try again after ``retry_after``
    │       ├── N8nServerError      5xx: try again later
    │       └── N8nAnswerInvalid    no error, and not the JSON asked for (a starting n8n's HTML, a
    │                               redirect, another type): try again; a human if it stays
    ├── N8nExecutionError       an n8n execution has no result; it has ``execution_id`` and ``link``
    │   ├── N8nExecutionFailed      a node failed: a human looks, or it is run again
    │   ├── N8nExecutionCancelled   somebody stopped it, or the workflow's own time limit did
    │   ├── N8nExecutionCrashed     n8n was lost while it ran: run it again
    │   ├── N8nExecutionUnfinished  it still runs or waits: wait for it
    │   └── N8nExecutionGone        n8n no longer has it: how it ended is not known
    └── Unavailable             try again later, nothing was lost
        ├── LedgerUnavailable   PostgreSQL is away or overloaded
        └── PrefectUnavailable  the Prefect API is away
            └── SecretsUnusable     it answered: a human mends the credentials block, meanwhile wait
"""

from __future__ import annotations


class PrefectN8nError(Exception):
    """Base of all errors of this package."""


class ConfigurationError(PrefectN8nError):
    """A setting is missing or wrong; retrying does not help."""


class ConfigurationConflict(ConfigurationError):
    """What is to be changed is not as the caller takes it to be.

    ``precondition`` says that the caller named the version it knew, and there is another.
    """

    def __init__(self, message: str, *, precondition: bool = False) -> None:
        super().__init__(message)
        self.precondition = precondition


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


class LoopEnded(PrefectN8nError):
    """A loop that goes on for ever has ended; only a new process does all the work again."""


class CallFailed(PrefectN8nError):
    """A call to a target did not do what was asked; a leaf says what the caller does next.

    ``target`` is the called ``scheme://host:port`` and no more, because paths and queries of
    webhooks are secrets; empty where the URL has no such parts. ``status`` is the HTTP status of
    the answer, where its head came.
    """

    def __init__(self, message: str, *, target: str = "", status: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.target = target
        self.status = status

    def __str__(self) -> str:
        return f"{self.target}: {self.message}" if self.target else self.message


class CallRefused(CallFailed):
    """Our own guard or limits refuse the call, and nothing was sent; a repeat does not help."""


class CallNotSent(CallFailed):
    """No byte of the request reached the target; the same call may succeed later."""


class OutcomeUnknown(CallFailed):
    """The request went out and no whole answer came: the target may have done what was asked."""


class N8nTriggerFailed(CallFailed):
    """A workflow was not started, or no execution of it is to be found; the message says why."""


class N8nApiError(CallFailed):
    """n8n's public API answered, and not with what was asked for; ``message`` is n8n's own."""

    def __str__(self) -> str:
        return f"{self.target} answered {self.status}: {self.message}"


class N8nUnauthorized(N8nApiError):
    """401 or 403: no API key, a wrong one, one without the scope, or a feature without licence."""


class N8nNotFound(N8nApiError):
    """404: n8n does not have it (any more), or has not loaded its API yet."""


class N8nConflict(N8nApiError):
    """409: the present state forbids it, such as stopping an execution that has ended."""


class N8nRequestInvalid(N8nApiError):
    """Another 4xx: n8n does not accept the request as it is."""


class N8nRateLimited(N8nApiError):
    """429: too many calls; ``retry_after`` is in seconds, None where the answer does not say."""

    def __init__(
        self,
        message: str,
        *,
        target: str = "",
        status: int | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message, target=target, status=status)
        self.retry_after = retry_after


class N8nServerError(N8nApiError):
    """5xx: n8n failed, or a proxy before it."""


class N8nAnswerInvalid(N8nApiError):
    """Neither an error nor the JSON asked for: HTML, a redirect, or fields of another type."""


class N8nExecutionError(PrefectN8nError):
    """An n8n execution that has no result.

    ``execution_id`` and ``status`` are n8n's; ``link`` is its address in n8n's editor, None where
    it is not known. ``node`` and ``reason`` are the failed node and its message, where the
    execution's data has them.
    """

    # Defaults, because an error that is pickled is made again from its message alone.
    def __init__(
        self,
        message: str,
        *,
        execution_id: str = "",
        status: str = "",
        link: str | None = None,
        node: str | None = None,
        reason: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.execution_id = execution_id
        self.status = status
        self.link = link
        self.node = node
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.message} {self.link}" if self.link else self.message


class N8nExecutionFailed(N8nExecutionError):
    """A node of the execution failed."""


class N8nExecutionCancelled(N8nExecutionError):
    """The execution was stopped: by somebody, or by its workflow's time limit."""


class N8nExecutionCrashed(N8nExecutionError):
    """n8n was lost while the execution ran; n8n does not go on with it."""


class N8nExecutionUnfinished(N8nExecutionError):
    """The execution has not ended yet."""


class N8nExecutionGone(N8nExecutionError):
    """n8n does not have the execution any more: pruned, or deleted."""


class Unavailable(PrefectN8nError):
    """Something we depend on is away; the same call may succeed later."""


class LedgerUnavailable(Unavailable):
    """PostgreSQL is away, overloaded, or did not commit in time."""


class PrefectUnavailable(Unavailable):
    """The Prefect API is away or did not answer in time."""


class SecretsUnusable(PrefectUnavailable):
    """Prefect answered, but a credentials block is missing or has no good webhook secret."""
