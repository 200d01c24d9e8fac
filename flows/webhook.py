"""``@webhook``: turns a user's flow into one that Prefect starts with an event's id alone."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from uuid import UUID

from prefect import Flow
from prefect.flows import InfrastructureBoundFlow

from ..core.ladder import parse_ladder
from ..core.slugs import SLUG
from .binding import Binding
from .calling import call
from .inbox import load_event
from .receipt import show_receipt


class WebhookFlow(Flow[[UUID], Any]):
    """A flow over the events of an endpoint. Its one parameter is ``event_id``.

    A body never becomes a Prefect parameter: there it could read variables and blocks.

    Attributes:
        handler: The user's flow; its function can be called in tests as ``handler.fn(...)``.
        endpoint: The slug of the endpoint whose events start it.
        types: Globs of the event types that start it.
        scheme: The endpoint's signature scheme.
        fallback: What is done, step by step, for an event whose run fails for good.
    """

    def __init__(
        self,
        handler: Flow[..., Any],
        *,
        endpoint: str,
        types: tuple[str, ...],
        scheme: str,
        fallback: tuple[dict[str, Any], ...] = (),
    ) -> None:
        self.handler = handler
        self.endpoint = endpoint
        self.types = types
        self.scheme = scheme
        self.fallback = fallback
        super().__init__(
            fn=_entry(handler),
            name=handler.name,
            version=handler.version,
            description=handler.description,
            flow_run_name=handler.flow_run_name,
            task_runner=handler.task_runner,
            retries=handler.retries,
            retry_delay_seconds=handler.retry_delay_seconds,
            timeout_seconds=handler.timeout_seconds,
            persist_result=handler.persist_result,
            result_storage=handler.result_storage,
            result_serializer=handler.result_serializer,
            cache_result_in_memory=handler.cache_result_in_memory,
            log_prints=handler.log_prints,
            on_completion=handler.on_completion_hooks,
            on_failure=handler.on_failure_hooks,
            on_cancellation=handler.on_cancellation_hooks,
            on_crashed=handler.on_crashed_hooks,
            on_running=handler.on_running_hooks,
        )

    @property
    def deployment(self) -> str:
        """The name of its deployment: ``<flow>/<endpoint>``."""
        return f"{self.name}/{self.endpoint}"


def webhook(
    endpoint: str = "default",
    *,
    types: Sequence[str] = ("*",),
    scheme: str = "standard",
    fallback: Sequence[dict[str, Any]] = (),
) -> Callable[[Flow[..., Any]], WebhookFlow]:
    """Start the decorated flow for every event of ``types`` on ``endpoint``.

    Args:
        endpoint: The endpoint's slug, the last part of its address.
        types: Globs of event types, such as ``order.*``.
        scheme: How n8n signs: ``standard`` (Standard Webhooks) or ``hmac`` (over the body).
        fallback: Steps for an event whose run fails for good, one after the other until one does
            it: ``{"endpoint": slug}``, ``{"workflow": block}``, ``{"deployment": "flow/name"}`` or
            ``{"notification": "type/name"}``, each with a ``timeout`` in seconds at will.

    Example:
        ```python
        from prefect import flow
        from prefect_n8n import WebhookEvent, webhook

        @webhook("orders", types=["order.*"])
        @flow(log_prints=True)
        async def on_order(event: WebhookEvent):
            print(event.body["total"])
        ```

    Raises:
        TypeError: it does not stand above ``@flow``, or the function cannot be given by name.
        ValueError: a slug, type or scheme that cannot be.
        ConfigurationError: a fallback that cannot be; the message names the step.
    """
    if not SLUG.fullmatch(endpoint):
        raise ValueError(f"@webhook: {endpoint!r} is no slug: a-z, 0-9, - and _, at most 63.")
    if isinstance(types, str) or not types:
        raise ValueError("@webhook: types is a list of globs, such as ['order.*'].")
    if scheme not in ("standard", "hmac"):
        raise ValueError(f"@webhook: unknown scheme {scheme!r}: use 'standard' or 'hmac'.")

    parse_ladder(fallback)

    def decorate(handler: Flow[..., Any]) -> WebhookFlow:
        if not isinstance(handler, Flow) or isinstance(handler, WebhookFlow):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError("@webhook stands above @flow, once.")
        if isinstance(handler, InfrastructureBoundFlow):
            raise TypeError("@webhook: deploy an infrastructure-bound flow to its own work pool.")
        return WebhookFlow(
            handler,
            endpoint=endpoint,
            types=tuple(types),
            scheme=scheme,
            fallback=tuple(fallback),
        )

    return decorate


def _entry(handler: Flow[..., Any]) -> Callable[[UUID], Awaitable[Any]]:
    binding = Binding(handler.fn)

    async def entry(event_id: UUID) -> Any:
        event = await load_event(event_id)
        # Beside the user's code, not before it: two calls to Prefect would delay its start.
        receipt = asyncio.create_task(show_receipt(event))
        try:
            return await call(handler.fn, binding.arguments(event))
        finally:
            await receipt

    # What Prefect shows and finds: the user's name, file and text, but the entry's own signature.
    entry.__name__ = handler.fn.__name__
    entry.__qualname__ = handler.fn.__qualname__
    entry.__module__ = handler.fn.__module__
    entry.__doc__ = handler.fn.__doc__
    return entry
