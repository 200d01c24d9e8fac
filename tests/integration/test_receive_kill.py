"""What a 202 is worth: receivers killed, PostgreSQL taken away, and the commit held back."""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, LiteralString

import psycopg
import pytest

from prefect_n8n.ledger.database import Database
from support.edge_server import SLACK, EdgeServer, Stored, receiver, running_receiver
from support.pg_proxy import PgProxy
from support.postgres import Ledger
from support.receiver import add_endpoint
from support.wire import PATIENCE, Answer, accepted, refusal, request, signed

pytestmark = pytest.mark.xdist_group("receive_kill")

EVENTS = 200
AT_COMMIT: LiteralString = """
    CREATE FUNCTION public.at_commit() RETURNS trigger LANGUAGE plpgsql SET lock_timeout = '4s' AS
      'BEGIN ACTION; RETURN NULL; END';
    CREATE CONSTRAINT TRIGGER at_commit AFTER INSERT ON prefect_n8n.webhook_events
      DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION public.at_commit()
"""
END_AT_COMMIT = "DROP TRIGGER at_commit ON prefect_n8n.webhook_events; DROP FUNCTION at_commit"
RECEIVERS = (
    "FROM pg_stat_activity WHERE usename = 'prefect_n8n_app' AND datname = current_database()"
)


class Bench:
    """A ledger of the test's own with the endpoint ``orders``, and an eye on it."""

    def __init__(self, ledger: Ledger, folder: Path) -> None:
        self.url = ledger.app_url
        self.folder = folder
        self.stored = Stored(ledger.admin_url)
        self._admin_url = ledger.admin_url

    def run(self, statement: LiteralString) -> list[Any]:
        """Run SQL as superuser; return the rows of a query."""
        with psycopg.connect(self._admin_url, autocommit=True) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    @contextmanager
    def held_commit(self) -> Iterator[None]:
        """Let no commit of an event end within the block."""
        self.run(AT_COMMIT.replace("ACTION", "PERFORM pg_advisory_xact_lock(42)"))
        with psycopg.connect(self._admin_url, autocommit=True) as connection:
            connection.execute("SELECT pg_advisory_lock(42)")
            yield

    def at_commit(self) -> bool:
        """Whether a receiver waits in its commit."""
        waits = " AND query = 'COMMIT' AND wait_event_type = 'Lock'"
        return self.run(f"SELECT count(*) {RECEIVERS}{waits}") != [(0,)]

    def left(self) -> bool:
        """Whether PostgreSQL works for a receiver no more."""
        return self.run(f"SELECT count(*) {RECEIVERS}") == [(0,)]

    def check(self, events: dict[str, bytes]) -> None:
        """Each of ``events`` is there once, as it was sent; nothing else is; the audit agrees."""
        assert self.stored.bodies() == events
        ids = self.stored.ids()
        assert sorted(ids.values()) == sorted(events)
        audit = "SELECT jsonb_array_elements_text(after -> 'ids') FROM prefect_n8n.audit_log"
        named = [row[0] for row in self.run(audit + " WHERE action = 'event.accepted'")]
        assert sorted(named) == sorted(ids)


@pytest.fixture
async def bench(ledger: Ledger, database: Database, tmp_path: Path) -> Bench:
    await add_endpoint(database, "orders")
    await database.close()
    return Bench(ledger, tmp_path)


async def until(condition: Callable[[], bool | Awaitable[bool]]) -> None:
    """Wait until the condition holds."""
    give_up = time.monotonic() + PATIENCE
    while True:
        holds = condition()
        if holds if isinstance(holds, bool) else await holds:
            return
        assert time.monotonic() < give_up, "it never came true"
        await asyncio.sleep(0.01)


async def post(server: EdgeServer, event_id: str, body: bytes) -> Answer | None:
    """Send an event; None when no answer comes."""
    sent = request(body, headers=[*signed(body, event_id=event_id), b"Connection: close"])
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        with closing(writer):
            writer.write(sent)
            return Answer.read(io.BytesIO(await reader.read()))
    except ConnectionError:
        return None


async def post_all(server: EdgeServer, events: dict[str, bytes]) -> dict[str, Answer | None]:
    """Send all events at once."""
    answers = await asyncio.gather(*(post(server, *event) for event in events.items()))
    return dict(zip(events, answers, strict=True))


async def get(server: EdgeServer, path: str) -> Answer | None:
    """Get a path."""
    sent = request(b"", method="GET", target=path, headers=[])
    return await asyncio.to_thread(server.ask, sent)


def events_of(name: str, count: int = EVENTS) -> dict[str, bytes]:
    """Events with ids that begin with ``name``."""
    return {f"{name}-{n}": b'{"n": %d, "pad": "%b"}' % (n, b"x" * n) for n in range(count)}


# The receiver is killed


@pytest.mark.parametrize("answers_first", [1, 100])
async def test_a_killed_receiver_has_stored_what_it_answered(
    bench: Bench, answers_first: int
) -> None:
    sent: dict[str, bytes] = {}
    for attempt in range(5):
        events = events_of(f"round{attempt}")
        sent |= events
        with receiver(bench.url, bench.folder) as server:
            posts = {id: asyncio.create_task(post(server, id, events[id])) for id in events}
            for done in islice(asyncio.as_completed(posts.values()), answers_first):
                await done
            server.kill()
            answers = {id: await task for id, task in posts.items()}
        # What PostgreSQL was told before the kill, it may still do.
        await until(bench.left)
        there = bench.stored.bodies()
        answered = {id for id, answer in answers.items() if answer is not None}
        assert all(accepted(answers[id]).status for id in answered)
        assert {id: there.get(id) for id in answered} == {id: events[id] for id in answered}
        with receiver(bench.url, bench.folder) as server:
            again = await post_all(server, {i: b for i, b in events.items() if i not in answered})
        for id, answer in again.items():
            assert accepted(answer).json["duplicate"] is (id in there)
        bench.check(sent)
        if answered and again:
            return
    pytest.fail("no kill came in between")


async def test_a_stopped_receiver_answers_what_it_has_begun(bench: Bench) -> None:
    events = events_of("stop", 20)
    with receiver(bench.url, bench.folder) as server:
        with bench.held_commit():
            posts = asyncio.create_task(post_all(server, events))
            await until(bench.at_commit)
            stopping = asyncio.create_task(asyncio.to_thread(server.stop))
            await until(server.refuses)
        answers = await posts
        await stopping
    answered = {id for id, answer in answers.items() if answer is not None}
    assert all(accepted(answers[id]) for id in answered)
    assert answered
    bench.check({id: events[id] for id in answered})


# The commit


async def test_no_answer_comes_before_the_commit(bench: Bench) -> None:
    with receiver(bench.url, bench.folder) as server, server.wire() as wire:
        with bench.held_commit():
            wire.send(request(headers=signed(b"{}", event_id="held")))
            await until(bench.at_commit)
            # Every statement is done; of the transaction only its end is missing.
            assert wire.silent(0.2)
            assert bench.stored.bodies() == {}
        accepted(wire.answer())
        assert bench.stored.bodies() == {"held": b"{}"}


@pytest.mark.parametrize("code", ["serialization_failure", "check_violation", "disk_full"])
async def test_a_failed_commit_is_no_answer_but_503(bench: Bench, code: str) -> None:
    with receiver(bench.url, bench.folder) as server:
        bench.run(AT_COMMIT.replace("ACTION", f"RAISE EXCEPTION USING ERRCODE = ''{code}''"))
        answers = await post_all(server, events_of("failed", 10))
        for answer in answers.values():
            assert refusal(answer, 503).headers["retry-after"].isdigit()
        bench.check({})
        bench.run(END_AT_COMMIT)
        assert accepted(await post(server, "failed-1", b"{}")).json["duplicate"] is False


async def test_a_commit_whose_answer_is_lost_is_found_by_the_repeat(bench: Bench) -> None:
    async with (
        PgProxy.before(bench.url) as proxy,
        running_receiver(proxy.url, bench.folder) as server,
    ):
        # The endpoint is known then, and no other commit is to come.
        accepted(await post(server, "before", b"{}"))
        proxy.hold_commits()
        first = asyncio.create_task(post(server, "lost", b"{}"))
        await until(lambda: "lost" in bench.stored.bodies())
        # It is committed, but the receiver does not know.
        assert not (await asyncio.wait({first}, timeout=0.2))[0]
        proxy.drop()
        assert refusal(await first, 503).headers["retry-after"].isdigit()
        assert accepted(await post(server, "lost", b"{}")).json["duplicate"] is True
    bench.check({"before": b"{}", "lost": b"{}"})


# Two receivers


async def test_two_receivers_take_the_same_events_once(bench: Bench) -> None:
    events = events_of("both", 100)
    with receiver(bench.url, bench.folder) as one, receiver(bench.url, bench.folder) as two:
        backwards = dict(reversed(events.items()))
        for_one, for_two = await asyncio.gather(post_all(one, events), post_all(two, backwards))
        for id in events:
            pair = [accepted(answers[id]).json for answers in (for_one, for_two)]
            assert sorted(bool(answer["duplicate"]) for answer in pair) == [False, True]
            assert pair[0]["id"] == pair[1]["id"]
        bench.check(events)
        other = {id: body + b" " for id, body in events.items()}
        for answer in (await post_all(two, other)).values():
            refusal(answer, 409)
        bench.check(events)


async def test_of_two_bodies_with_one_id_one_is_taken(bench: Bench) -> None:
    events = events_of("either", 50)
    others = {id: body + b" " for id, body in events.items()}
    with receiver(bench.url, bench.folder) as one, receiver(bench.url, bench.folder) as two:
        for_one, for_two = await asyncio.gather(post_all(one, events), post_all(two, others))
    taken: dict[str, bytes] = {}
    for id in events:
        pair = [(for_one[id], events[id]), (for_two[id], others[id])]
        ((_, taken[id]),) = [(a, body) for a, body in pair if a is not None and a.status == 202]
        refusal(*[a for a, body in pair if body != taken[id]], 409)
    bench.check(taken)


# PostgreSQL is away


async def test_without_postgres_nothing_is_taken_and_it_comes_back_by_itself(bench: Bench) -> None:
    events = events_of("away", 50)
    async with (
        PgProxy.before(bench.url) as proxy,
        running_receiver(proxy.url, bench.folder) as server,
    ):
        accepted(await post(server, "before", b"{}"))
        await proxy.stop()
        for answer in (await post_all(server, events)).values():
            assert refusal(answer, 503).headers["retry-after"].isdigit()
        refusal(await get(server, "/readyz"), 503)
        assert server.healthy()
        bench.check({"before": b"{}"})
        await proxy.start()
        for answer in (await post_all(server, events)).values():
            assert accepted(answer).json["duplicate"] is False
    bench.check({"before": b"{}"} | events)


async def test_lost_connections_lose_and_repeat_nothing(bench: Bench) -> None:
    events = events_of("cut")
    refused: set[str] = set()

    async def send(id: str) -> None:
        while (answer := await post(server, id, events[id])) is None or answer.status != 202:
            refusal(answer, 503)
            refused.add(id)

    with receiver(bench.url, bench.folder) as server:
        with bench.held_commit():
            sending = asyncio.gather(*map(send, events))
            for _ in range(3):
                await until(bench.at_commit)
                bench.run(f"SELECT pg_terminate_backend(pid) {RECEIVERS}")
        await sending
    assert refused
    bench.check(events)


async def test_a_database_that_does_not_answer_is_503_in_time(bench: Bench) -> None:
    short = {"receiver.admission.ANSWER_SECONDS": 1.0, "receiver.admission.QUERY_SECONDS": 1.0}
    events = events_of("still", 100)
    async with (
        PgProxy.before(bench.url) as proxy,
        running_receiver(proxy.url, bench.folder, constants=short) as server,
    ):
        accepted(await post(server, "before", b"{}"))
        proxy.stall()
        started = time.monotonic()
        for answer in (await post_all(server, events)).values():
            assert refusal(answer, 503).headers["retry-after"].isdigit()
        assert time.monotonic() - started < 1 + SLACK
        proxy.resume()

        async def taken() -> bool:
            answer = await post(server, "after", b"{}")
            return answer is not None and answer.status == 202

        await until(taken)
        for answer in (await post_all(server, events)).values():
            accepted(answer)
    bench.check({"before": b"{}", "after": b"{}"} | events)
