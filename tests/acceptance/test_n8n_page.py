"""What docs/run-n8n-workflows.md says, done on a real n8n as it is written there."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest

from prefect_n8n.core import errors
from support.n8n import N8n
from support.n8n_receiving import SECRET, receiving

pytestmark = [
    pytest.mark.n8n,
    pytest.mark.xdist_group("n8n"),
    pytest.mark.usefixtures("calls_n8n", "prefect"),
]

PAGE = (Path(__file__).parents[2] / "docs" / "run-n8n-workflows.md").read_text("utf-8")


async def test_its_snippets_run(n8n: N8n) -> None:
    async with receiving(n8n) as there:
        values = {
            "http://localhost:5678": n8n.url,
            "the API key": n8n.api_key,
            "the text of n8n's credential `Prefect webhook secret`": SECRET,
            "prefect-delivery-standard": there.path,
        }
        page = PAGE
        for old, new in values.items():
            assert f'"{old}"' in page
            page = page.replace(f'"{old}"', f'"{new}"')
        names: dict[str, Any] = {}
        blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
        # A thread has no event loop: in it Prefect's dual methods are sync, as in a user's script.
        await asyncio.to_thread(lambda: [exec(block, names) for block in blocks])
        sync_result = await asyncio.to_thread(names["ship"], 7)
        async_result = await names["ship_async"](8)

    assert [sync_result[0]["body"], async_result[0]["body"]] == [{"order": 7}, {"order": 8}]


def test_its_errors_exist() -> None:
    named = set(re.findall(r"`((?:N8n|Call|Outcome)\w+)`", PAGE.partition("## Ends")[2]))
    assert len(named) > 8
    assert all(hasattr(errors, name) for name in named)
