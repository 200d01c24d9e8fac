"""When a webhook's answer is a start, when the call is made again, and when n8n is asked first."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import islice
from typing import Any

import pytest

from prefect_n8n.blocks import starting
from prefect_n8n.blocks.answers import Execution, WebhookAnswer
from prefect_n8n.blocks.arrivals import Arrival
from prefect_n8n.blocks.identity import Delivery
from prefect_n8n.blocks.starting import (
    Meaning,
    Order,
    Started,
    Starter,
    execution_id_in,
    meaning_of,
    pauses,
)
from prefect_n8n.core.errors import (
    CallNotSent,
    CallRefused,
    N8nTriggerFailed,
    OutcomeUnknown,
)
from prefect_n8n.core.signing import StandardScheme, claim_of, verify

SECRET = b"unit-secret-of-printable-text-0042"
NOT_LIVE = b'{"code":404,"message":"The requested webhook \\"POST t1\\" is not registered."}'


def answer(
    status: int = 202, body: object = b"", type: str = "application/json", **headers: str
) -> WebhookAnswer:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return WebhookAnswer(status, {"content-type": type} | named, raw, 0.01)


STARTED = answer(202, {"execution_id": "57"})
STARTING = answer(200, b"n8n is starting up. Please wait", "text/html; charset=utf-8")


@pytest.mark.parametrize(
    ("given", "meaning", "execution_id"),
    [
        (STARTED, Meaning.STARTED, "57"),
        (answer(200, {"executionId": 58}), Meaning.STARTED, "58"),
        (answer(200, b"done", "text/plain", x_n8n_execution_id="59"), Meaning.STARTED, "59"),
        (answer(200, b"<p>", "text/html", x_n8n_execution_id="59"), Meaning.STARTED, "59"),
        (answer(200, {"message": "Workflow was started"}), Meaning.STARTED, None),
        (answer(200, b""), Meaning.STARTED, None),
        (answer(200, [{"execution_id": "57"}]), Meaning.STARTED, None),
        (answer(200, {"execution_id": {"a": 1}}), Meaning.STARTED, None),
        (answer(200, {"execution_id": True}), Meaning.STARTED, None),
        (answer(200, {"execution_id": "../../workflows"}), Meaning.STARTED, None),
        (STARTING, Meaning.NOT_YET, None),
        (answer(200, b"<h1>Thanks</h1>", "text/html"), Meaning.UNSURE, None),
        (answer(404, NOT_LIVE), Meaning.NOT_YET, None),
        (answer(404, b"Cannot POST /webhook/t1", "text/html"), Meaning.NOT_YET, None),
        (answer(404, {"code": 404, "message": "Cannot find workflow"}), Meaning.NOT_YET, None),
        (answer(404, {"message": "no such customer"}), Meaning.UNSURE, None),
        (answer(404, {"execution_id": "57"}), Meaning.UNSURE, "57"),
        (answer(500, {"message": "Error in workflow"}), Meaning.UNSURE, None),
        (answer(503, b""), Meaning.UNSURE, None),
        (answer(429, b""), Meaning.UNSURE, None),
        (answer(401, {"error": "no"}), Meaning.REFUSED, None),
        (answer(403, b"Authorization data is wrong!", "text/plain"), Meaning.REFUSED, None),
        (answer(422, {"message": "Failed to parse request body"}), Meaning.REFUSED, None),
        (answer(302, b""), Meaning.REFUSED, None),
        (answer(410, b""), Meaning.REFUSED, None),
    ],
)
def test_what_an_answer_means(
    given: WebhookAnswer, meaning: Meaning, execution_id: str | None
) -> None:
    assert meaning_of(given) is meaning
    assert execution_id_in(given) == execution_id


def test_pauses_double_up_to_the_longest() -> None:
    for _ in range(50):
        found = list(islice(pauses(0.25, 5.0), 8))
        for pause, middle in zip(found, [0.25, 0.5, 1, 2, 4, 5, 5, 5], strict=True):
            assert middle * 0.8 <= pause <= middle * 1.2


Step = WebhookAnswer | Exception
Verdict = Arrival | Callable[[str], Arrival]


@dataclass
class FakeN8n:
    """Answers calls and questions in turn; the last of each goes on for ever."""

    answers: Sequence[Step] = (STARTED,)
    arrivals: Sequence[Verdict] = ()
    calls: list[dict[bytes, bytes]] = field(default_factory=list[dict[bytes, bytes]])
    bodies: list[bytes] = field(default_factory=list[bytes])
    asked: list[str] = field(default_factory=list[str])
    stopped: list[str] = field(default_factory=list[str])

    def webhook_address(self, path: str) -> str:
        return f"http://n8n.test:5678/webhook/{path}"

    async def post_webhook(self, path: str, body: bytes, headers: Any, *, timeout: float) -> Any:
        step = self.answers[min(len(self.calls), len(self.answers) - 1)]
        self.calls.append(dict(headers))
        self.bodies.append(body)
        if isinstance(step, Exception):
            raise step
        return step

    async def stop_execution(self, id: str) -> None:
        self.stopped.append(id)

    async def find_arrival(self, client: Any, *, delivery_id: str, **more: Any) -> Arrival:
        assert client is self
        assert more["target"] == "http://n8n.test:5678/webhook/orders/secret-path"
        assert more["workflow_id"] == "wf1"
        step = self.arrivals[min(len(self.asked), len(self.arrivals) - 1)]
        self.asked.append(delivery_id)
        return step if isinstance(step, Arrival) else step(delivery_id)


ORDER = Order(
    webhook="orders/secret-path",
    content=b'{"a":1}',
    scheme=StandardScheme(),
    secret=SECRET,
    delivery=Delivery("dlv_1", False, datetime.now(UTC), "flow-run-1"),
    workflow_id="wf1",
    call_seconds=1.0,
    start_seconds=5.0,
    trace="00-" + "a" * 32 + "-" + "b" * 16 + "-01",
)
AGAIN = replace(ORDER, delivery=replace(ORDER.delivery, again=True))


def execution(id: str, status: str = "running") -> Execution:
    return Execution.model_validate({"id": id, "workflowId": "wf1", "status": status})


def arrived(id: str, status: str = "running") -> Arrival:
    return Arrival("arrived", "It is there.", execution(id, status))


NOT_ARRIVED = Arrival("not_arrived", "It is not there.")
NOT_KNOWN = Arrival("not_known", "The block has no API key.")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pauses are of no time; the deadline still counts the tries."""
    monkeypatch.setattr(starting, "FIRST_PAUSE", 0.001)
    monkeypatch.setattr(starting, "MOST_PAUSE", 0.02)


async def start(n8n: FakeN8n, monkeypatch: pytest.MonkeyPatch, order: Order = ORDER) -> Started:
    monkeypatch.setattr(starting, "find_arrival", n8n.find_arrival)
    return await Starter(n8n, order).start()  # type: ignore[arg-type]


async def fails(
    n8n: FakeN8n, monkeypatch: pytest.MonkeyPatch, order: Order, kind: type[Exception]
) -> Exception:
    with pytest.raises(kind) as caught:
        await start(n8n, monkeypatch, replace(order, start_seconds=0.1))
    assert "secret-path" not in str(caught.value), "paths of webhooks are secrets"
    return caught.value


async def test_a_call_is_signed_and_says_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    n8n = FakeN8n()
    assert await start(n8n, monkeypatch) == Started("57", "dlv_1", False)
    ((call,), (body,)) = n8n.calls, n8n.bodies
    assert n8n.asked == []
    assert body == ORDER.content
    assert call[b"x-prefect-n8n-delivery"] == call[b"webhook-id"] == b"dlv_1"
    assert call[b"x-prefect-flow-run"] == b"flow-run-1"
    assert call[b"traceparent"].startswith(b"00-")
    assert call[b"content-type"] == b"application/json"
    claim = claim_of(StandardScheme(), list(call.items()))
    assert verify(claim, body, [SECRET], now=time.time()).event_id == "dlv_1"


@pytest.mark.parametrize(
    "first",
    [
        STARTING,
        answer(404, NOT_LIVE),
        CallNotSent("refused"),
        answer(404, b"Cannot POST /", "text/html"),
    ],
)
async def test_what_started_nothing_is_called_again_without_asking(
    monkeypatch: pytest.MonkeyPatch, first: Step
) -> None:
    n8n = FakeN8n([first, first, STARTED])
    assert (await start(n8n, monkeypatch)).execution_id == "57"
    assert len(n8n.calls) == 3
    assert n8n.asked == []
    assert {call[b"webhook-id"] for call in n8n.calls} == {b"dlv_1"}


@pytest.mark.parametrize(
    "first",
    [OutcomeUnknown("reset"), answer(500, b"{}"), answer(503), answer(200, b"<p>", "text/html")],
)
async def test_what_may_have_started_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, first: Step
) -> None:
    n8n = FakeN8n([first], [NOT_KNOWN, arrived("58")])
    assert (await start(n8n, monkeypatch)).execution_id == "58"
    assert len(n8n.calls) == 1
    assert n8n.asked == ["dlv_1", "dlv_1"]


@pytest.mark.parametrize("first", [OutcomeUnknown("reset"), answer(502), answer(429)])
async def test_what_has_not_arrived_is_called_again(
    monkeypatch: pytest.MonkeyPatch, first: Step
) -> None:
    n8n = FakeN8n([first, STARTED], [NOT_ARRIVED])
    assert (await start(n8n, monkeypatch)).execution_id == "57"
    assert len(n8n.calls) == 2


@pytest.mark.parametrize("first", [OutcomeUnknown("reset"), answer(503)])
async def test_what_is_not_known_is_never_called_again(
    monkeypatch: pytest.MonkeyPatch, first: Step
) -> None:
    n8n = FakeN8n([first], [NOT_KNOWN])
    error = await fails(n8n, monkeypatch, ORDER, OutcomeUnknown)
    assert len(n8n.calls) == 1
    assert "The block has no API key." in str(error)


async def test_a_500_that_is_nowhere_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    """n8n answers so to a body it cannot take."""
    n8n = FakeN8n([answer(500, {"message": "There was a problem"})], [NOT_ARRIVED])
    error = await fails(n8n, monkeypatch, ORDER, N8nTriggerFailed)
    assert len(n8n.calls) == 1
    assert "There was a problem" in str(error)


@pytest.mark.parametrize("given", [answer(200, b""), answer(200, {"result": 1})])
async def test_an_unnamed_execution_is_found_and_nothing_called_again(
    monkeypatch: pytest.MonkeyPatch, given: WebhookAnswer
) -> None:
    n8n = FakeN8n([given], [NOT_KNOWN, NOT_ARRIVED, arrived("58", "success")])
    assert (await start(n8n, monkeypatch)).execution_id == "58"
    assert len(n8n.calls) == 1


async def test_an_unnamed_execution_that_is_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    n8n = FakeN8n([answer(200, b"")], [NOT_ARRIVED])
    error = await fails(n8n, monkeypatch, ORDER, N8nTriggerFailed)
    assert len(n8n.calls) == 1
    assert "$execution.id" in str(error)


@pytest.mark.parametrize("status", [301, 400, 401, 403, 410, 413, 422])
async def test_a_refusal_is_final(monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    n8n = FakeN8n([answer(status, {"error": "the reason"})])
    error = await fails(n8n, monkeypatch, ORDER, N8nTriggerFailed)
    assert isinstance(error, N8nTriggerFailed)
    assert (error.status, error.target) == (status, "http://n8n.test:5678")
    assert "the reason" in str(error)
    assert len(n8n.calls) == 1


async def test_patience_ends_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    n8n = FakeN8n([answer(404, NOT_LIVE)])
    error = await fails(n8n, monkeypatch, ORDER, N8nTriggerFailed)
    assert "is not registered" in str(error)
    assert len(n8n.calls) > 2
    await fails(FakeN8n([CallNotSent("refused")]), monkeypatch, ORDER, CallNotSent)
    await fails(FakeN8n([CallRefused("not public")]), monkeypatch, ORDER, CallRefused)


# A later attempt


@pytest.mark.parametrize("status", ["new", "running", "waiting", "success"])
async def test_a_later_attempt_finds_what_runs_or_has_succeeded(
    monkeypatch: pytest.MonkeyPatch, status: str
) -> None:
    n8n = FakeN8n(arrivals=[NOT_KNOWN, arrived("58", status)])
    assert await start(n8n, monkeypatch, AGAIN) == Started("58", "dlv_1", True)
    assert n8n.calls == []


async def test_a_later_attempt_starts_what_never_arrived(monkeypatch: pytest.MonkeyPatch) -> None:
    n8n = FakeN8n(arrivals=[NOT_ARRIVED])
    assert await start(n8n, monkeypatch, AGAIN) == Started("57", "dlv_1", False)


@pytest.mark.parametrize("status", ["error", "canceled", "crashed"])
async def test_a_later_attempt_starts_anew_after_a_failure(
    monkeypatch: pytest.MonkeyPatch, status: str
) -> None:
    def failed_twice(delivery_id: str) -> Arrival:
        return NOT_ARRIVED if delivery_id.endswith(".3") else arrived("5", status)

    n8n = FakeN8n(arrivals=[failed_twice])
    assert await start(n8n, monkeypatch, AGAIN) == Started("57", "dlv_1.3", False)
    assert n8n.asked == ["dlv_1", "dlv_1.2", "dlv_1.3"]
    assert [call[b"webhook-id"] for call in n8n.calls] == [b"dlv_1.3"]


async def test_a_later_attempt_calls_nothing_while_it_is_not_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    n8n = FakeN8n(arrivals=[NOT_KNOWN])
    error = await fails(n8n, monkeypatch, AGAIN, OutcomeUnknown)
    assert n8n.calls == []
    assert "The block has no API key." in str(error)


async def test_failures_have_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    n8n = FakeN8n(arrivals=[arrived("5", "error")])
    await fails(n8n, monkeypatch, AGAIN, N8nTriggerFailed)
    assert len(n8n.asked) == starting.MAX_GENERATIONS
    assert n8n.calls == []


# Cancelled while it starts


@pytest.mark.parametrize(
    ("found", "stopped"),
    [(arrived("58"), ["58"]), (arrived("58", "success"), []), (NOT_ARRIVED, []), (NOT_KNOWN, [])],
)
async def test_what_was_started_is_stopped(
    monkeypatch: pytest.MonkeyPatch, found: Arrival, stopped: list[str]
) -> None:
    n8n = FakeN8n(arrivals=[found])
    monkeypatch.setattr(starting, "find_arrival", n8n.find_arrival)
    starter = Starter(n8n, ORDER)  # type: ignore[arg-type]
    await starter.stop()
    assert n8n.asked == [], "nothing has been sent"
    await starter._call()
    await starter.stop()
    assert n8n.stopped == stopped
