"""The shipped n8n workflows that receive our calls: a real n8n tells genuine calls from forged."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from typing import Any
from uuid import uuid4

import httpx
import pytest
import pytest_asyncio

from prefect_n8n.core.signing import scheme_of, sign
from support.n8n import Execution, N8n, n8n_workflow, node_of

pytestmark = [
    pytest.mark.n8n,
    pytest.mark.xdist_group("n8n"),
    pytest.mark.parametrize("scheme", ["standard", "hmac"]),
]

CREDENTIAL = "Prefect webhook secret"
SECRET = b"acceptance-secret-of-printable-text-42"
BODY: dict[str, Any] = {"order_id": "o-1", "total": 12.5, "name": "Zoë ☕", "lines": [{"n": 1}]}
SIGNATURE = {"standard": "webhook-signature", "hmac": "x-n8n-signature"}
TIMESTAMP = {"standard": "webhook-timestamp", "hmac": "x-n8n-timestamp"}


@dataclass(frozen=True)
class Call:
    """One call as the wire has it."""

    body: bytes
    headers: dict[str, str]

    def header(self, name: str, value: str | None) -> Call:
        """The same call with one header changed, or left out."""
        others = {key: text for key, text in self.headers.items() if key != name}
        return replace(self, headers=others if value is None else others | {name: value})


@dataclass(frozen=True)
class Receiver:
    """The published template."""

    n8n: N8n
    workflow_id: str
    url: str

    async def post(self, call: Call) -> httpx.Response:
        """Make the call."""
        async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
            return await client.post(self.url, content=call.body, headers=call.headers)

    async def executions(self) -> list[Execution]:
        """Every execution so far, ended."""
        path = f"/executions?workflowId={self.workflow_id}"
        ids = [
            each["id"]
            for status in ("&status=running", "")
            for each in (await self.n8n.api("GET", path + status))["data"]
        ]
        return [await self.n8n.execution(id) for id in dict.fromkeys(ids)]


@pytest_asyncio.fixture
async def receiver(scheme: str, n8n: N8n) -> AsyncIterator[Receiver]:
    """The template of the scheme, live at an address of this test alone."""
    workflow = n8n_workflow(f"receive-delivery-{scheme}.json")
    path = f"receive-{uuid4().hex}"
    webhook = node_of(workflow, "Webhook")
    webhook["parameters"]["path"] = path
    async with n8n.secret(CREDENTIAL, SECRET.decode()):
        id = await n8n.add(workflow)
        await n8n.publish(id)
        yield Receiver(n8n, id, f"{n8n.url}/webhook/{path}")
        await n8n.api("POST", f"/workflows/{id}/deactivate")


def signed(
    scheme: str, body: bytes | None = None, *, secret: bytes = SECRET, seconds_ago: int = 0
) -> Call:
    """A call as we make it."""
    body = json.dumps(BODY, ensure_ascii=False).encode() if body is None else body
    id = f"dlv_{uuid4().hex}"
    at = int(time.time()) - seconds_ago
    pairs = sign(scheme_of(scheme), secret, body, event_id=id, timestamp=at)
    headers = {name.decode(): value.decode() for name, value in pairs}
    more = {"x-prefect-n8n-delivery": id, "content-type": "application/json"}
    return Call(body, headers | more)


async def test_a_genuine_call_is_accepted_and_reaches_the_work(
    scheme: str, n8n: N8n, receiver: Receiver
) -> None:
    call = signed(scheme)
    answer = await receiver.post(call)

    assert answer.status_code == 202, answer.text
    assert answer.headers["content-type"].startswith("application/json")
    id = answer.json()["execution_id"]
    assert answer.json() == {"execution_id": id}
    assert answer.headers["x-n8n-execution-id"] == id
    execution = await n8n.execution(id)
    assert execution.status == "success", execution.error
    (got,) = execution.output("Your work")
    assert got == {"delivery_id": call.headers["x-prefect-n8n-delivery"], "body": BODY}


@pytest.mark.parametrize(
    "body",
    [
        b'{\n  "pretty":   "printed",\t"n": 1.0 }\n',
        '{"text": "{{ $json.raw }} \\u0000 \\ud83d\\ude00 日本"}'.encode(),
        b"[1, [2], {}]",
        b'"text"',
        b"{}",
    ],
    ids=["spaces", "odd characters", "list", "text", "empty object"],
)
async def test_the_bytes_are_signed_not_what_they_mean(
    scheme: str, n8n: N8n, receiver: Receiver, body: bytes
) -> None:
    answer = await receiver.post(signed(scheme, body))

    assert answer.status_code == 202, answer.text
    execution = await n8n.execution(answer.json()["execution_id"])
    assert execution.output("Your work")[0]["body"] == json.loads(body)


async def test_the_answer_does_not_wait_for_the_work(scheme: str, n8n: N8n) -> None:
    workflow = n8n_workflow(f"receive-delivery-{scheme}.json")
    node_of(workflow, "Webhook")["parameters"]["path"] = path = f"slow-{uuid4().hex}"
    work = node_of(workflow, "Your work")
    work |= {"type": "n8n-nodes-base.wait", "typeVersion": 1.1}
    work["parameters"] = {"resume": "timeInterval", "amount": 3, "unit": "seconds"}
    async with n8n.secret(CREDENTIAL, SECRET.decode()):
        id = await n8n.add(workflow)
        await n8n.publish(id)
        slow = Receiver(n8n, id, f"{n8n.url}/webhook/{path}")
        call = signed(scheme)
        answer = await slow.post(call)
        running = await n8n.api(
            "GET", f"/executions/{answer.json()['execution_id']}?includeData=true"
        )
        await n8n.api("POST", f"/workflows/{id}/deactivate")

    assert answer.status_code == 202
    assert running["status"] == "running"
    # What an execution was called with is seen while it runs.
    (run,) = running["data"]["resultData"]["runData"]["Webhook"]
    headers = run["data"]["main"][0][0]["json"]["headers"]
    assert headers["x-prefect-n8n-delivery"] == call.headers["x-prefect-n8n-delivery"]


async def test_several_signatures_are_tried(scheme: str, receiver: Receiver) -> None:
    """While a secret is rotated a call is signed with the old one and the new one."""
    call = signed(scheme)
    name = SIGNATURE[scheme]
    other = replace(signed(scheme, call.body, secret=b"the-secret-that-comes-or-goes"))
    separator = " " if scheme == "standard" else ", "
    for both in ([call, other], [other, call]):
        value = separator.join(each.headers[name] for each in both)
        assert (await receiver.post(call.header(name, value))).status_code == 202
    neither = separator.join([other.headers[name]] * 2)
    assert (await receiver.post(call.header(name, neither))).status_code == 401


def flip(text: str, at: int) -> str:
    """The text with the letter at ``at`` replaced by another of its alphabet."""
    old = text[at]
    return text[:at] + ("1" if old == "0" else "0") + text[at + 1 :]


FORM = b'--x\r\ncontent-disposition: form-data; name="order_id"\r\n\r\no-1\r\n--x--\r\n'
Forgery = Callable[[str, Call], Call]
FORGERIES: dict[str, Forgery] = {
    "one bit of the body": lambda _, call: replace(call, body=call.body.replace(b"12.5", b"13.5")),
    "one letter of the signature": lambda scheme, call: call.header(
        SIGNATURE[scheme], flip(call.headers[SIGNATURE[scheme]], 12)
    ),
    "the start of the signature": lambda scheme, call: call.header(
        SIGNATURE[scheme], call.headers[SIGNATURE[scheme]][:-1]
    ),
    "wrong secret": lambda scheme, call: signed(scheme, secret=b"not-the-secret-of-this-n8n"),
    "too old": lambda scheme, call: signed(scheme, seconds_ago=310),
    "from the future": lambda scheme, call: signed(scheme, seconds_ago=-310),
    "a later timestamp": lambda scheme, call: call.header(
        TIMESTAMP[scheme], str(int(call.headers[TIMESTAMP[scheme]]) + 1)
    ),
    "a timestamp that is no number": lambda scheme, call: call.header(TIMESTAMP[scheme], "now"),
    "no timestamp": lambda scheme, call: call.header(TIMESTAMP[scheme], None),
    "no signature": lambda scheme, call: call.header(SIGNATURE[scheme], None),
    "an empty signature": lambda scheme, call: call.header(SIGNATURE[scheme], ""),
    "the signature of undefined": lambda scheme, call: call.header(
        SIGNATURE[scheme], {"standard": "v1,undefined", "hmac": "sha256=undefined"}[scheme]
    ),
    "no body": lambda _, call: replace(call, body=b""),
    "not JSON": lambda _, call: replace(call, body=b"a=b").header("content-type", "text/plain"),
    "a form": lambda _, call: replace(call, body=FORM).header(
        "content-type", "multipart/form-data; boundary=x"
    ),
    "a signature of no body": lambda scheme, _: signed(scheme, b""),
    "a form with a signature of no body": lambda scheme, call: replace(
        signed(scheme, b""), body=FORM
    ).header("content-type", "multipart/form-data; boundary=x"),
    "nothing of ours": lambda _, call: Call(call.body, {"content-type": "application/json"}),
}


@pytest.mark.parametrize("forgery", FORGERIES)
async def test_a_forged_call_is_refused(scheme: str, receiver: Receiver, forgery: str) -> None:
    answer = await receiver.post(FORGERIES[forgery](scheme, signed(scheme)))

    await expect_refusal(answer, receiver)


@pytest.mark.parametrize("name", ["webhook-id", "x-prefect-n8n-delivery"])
async def test_a_replaced_delivery_id_is_refused(
    scheme: str, receiver: Receiver, name: str
) -> None:
    answer = await receiver.post(signed(scheme).header(name, "dlv_other"))

    if scheme == "standard":
        await expect_refusal(answer, receiver)
    else:
        # This scheme signs no id, here as everywhere; the template and its page say so.
        assert answer.status_code == 202


async def expect_refusal(answer: httpx.Response, receiver: Receiver) -> None:
    """401 as JSON that tells a forger nothing, and nothing of the user's ran."""
    assert answer.status_code == 401, answer.text
    assert answer.json() == {"error": "The signature is missing or not valid."}
    (execution,) = await receiver.executions()
    assert execution.output("Delivery") == []
    assert execution.output("Your work") == []
    assert "Your work" not in execution.raw["data"]["resultData"]["runData"]
    # An execution that ended in success would look like a delivery that was done.
    assert execution.status == "error"
    assert (execution.error or {})["message"].startswith("Refused")


async def test_without_the_secret_nothing_is_accepted(scheme: str, n8n: N8n) -> None:
    """The credential was deleted: nothing proves a call, so none passes."""
    workflow = n8n_workflow(f"receive-delivery-{scheme}.json")
    node_of(workflow, "Webhook")["parameters"]["path"] = path = f"bare-{uuid4().hex}"
    async with n8n.secret(CREDENTIAL, SECRET.decode()):
        id = await n8n.add(workflow)
        await n8n.publish(id)
    bare = Receiver(n8n, id, f"{n8n.url}/webhook/{path}")
    answer = await bare.post(signed(scheme))
    await n8n.api("POST", f"/workflows/{id}/deactivate")

    assert answer.status_code == 500
    (execution,) = await bare.executions()
    assert (execution.status, execution.output("Your work")) == ("error", [])
