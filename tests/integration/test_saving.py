"""Blocks that are made where they are missing, on a Prefect that refuses a save."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

import httpx
import pytest
from prefect.client.orchestration import PrefectClient
from prefect.exceptions import ObjectAlreadyExists
from prefect.filesystems import LocalFileSystem

from prefect_n8n.blocks.saving import ATTEMPTS, ensure_block
from prefect_n8n.core.errors import ConfigurationError


def refuse(client: PrefectClient, monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    """Let the client's next saves be answered as a fresh server answers the second of two."""
    save, refused = client.create_block_document, 0

    async def create(**given: Any) -> Any:
        nonlocal refused
        if refused < times:
            refused += 1
            request = httpx.Request("POST", "http://prefect")
            answer = httpx.Response(409, request=request)
            raise ObjectAlreadyExists(httpx.HTTPStatusError("", request=request, response=answer))
        return await save(**given)

    monkeypatch.setattr(client, "create_block_document", create)


async def test_a_refused_first_block_is_saved_again(
    prefect: PrefectClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse(prefect, monkeypatch, times=2)
    name = uuid4().hex
    await ensure_block(prefect, LocalFileSystem, name, lambda: LocalFileSystem(basepath="/tmp/a"))
    assert (await LocalFileSystem.aload(name, client=prefect)).basepath == "/tmp/a"


async def test_a_block_refused_for_ever_is_said(
    prefect: PrefectClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse(prefect, monkeypatch, times=ATTEMPTS)
    with pytest.raises(ConfigurationError, match="local-file-system/"):
        await ensure_block(prefect, LocalFileSystem, uuid4().hex, LocalFileSystem)


async def test_of_several_at_once_one_makes_it_and_all_get_it(prefect: PrefectClient) -> None:
    name = uuid4().hex
    made = await asyncio.gather(
        *(
            ensure_block(
                prefect, LocalFileSystem, name, lambda n=n: LocalFileSystem(basepath=f"/tmp/{n}")
            )
            for n in range(6)
        )
    )
    assert len({block.basepath for block in made}) == 1
