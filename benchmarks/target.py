"""A target for deliveries, in a process of its own: answers at once, and remembers when."""

from __future__ import annotations

import asyncio
import json
import sys
import time

ANSWER = b'{"execution_id": "1"}'


async def main(port: int) -> None:
    """Serve until killed. GET gives the times of arrival by delivery id, and forgets them."""
    seen: dict[str, float] = {}

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                lines = (line.partition(":") for line in head.split("\r\n")[1:])
                headers = {name.lower(): value.strip() for name, _, value in lines}
                await reader.readexactly(int(headers.get("content-length", 0)))
                body = ANSWER
                if head.startswith("GET"):
                    body = json.dumps(seen).encode()
                    seen.clear()
                else:
                    seen[headers.get("x-prefect-n8n-delivery", "")] = time.time()
                writer.write(
                    b"HTTP/1.1 202 Accepted\r\ncontent-type: application/json\r\n"
                    b"content-length: %d\r\n\r\n%b" % (len(body), body)
                )
        except (asyncio.IncompleteReadError, OSError):
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
