"""The snippets of docs/n8n-api.md, run as they stand against a real n8n."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from pathlib import Path

import pytest

from support.n8n import N8n

pytestmark = [pytest.mark.n8n, pytest.mark.xdist_group("n8n")]

PAGE = Path(__file__).parents[2] / "docs" / "n8n-api.md"
SNIPPETS = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
PRINTED = ["", "zoe@example.com 2", "not_known"]


@pytest.mark.parametrize(("code", "printed"), list(zip(SNIPPETS, PRINTED, strict=True)))
async def test_a_snippet_runs(code: str, printed: str, n8n: N8n, tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", "-c", code),
        cwd=tmp_path,
        env=os.environ | {"N8N_BASE_URL": n8n.url, "N8N_API_KEY": n8n.api_key},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    assert printed in output.decode()
