"""The least that can be done: httpx, a split and a decode. No types, no checks, no errors."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import msgspec

HEADERS = {"x-api-key": "x", "anthropic-version": "2023-06-01"}
BODY = {
    "model": "claude-benchmark",
    "max_tokens": 8192,
    "stream": True,
    "messages": [{"role": "user", "content": "Hi"}],
}


def open_client() -> httpx.AsyncClient:
    """A client for as many streams as there are."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    return httpx.AsyncClient(limits=limits, timeout=60)


@asynccontextmanager
async def asking(client: httpx.AsyncClient, base_url: str) -> AsyncIterator[httpx.Response]:
    """Ask the question that all peers ask."""
    url = f"{base_url}/v1/messages"
    async with client.stream("POST", url, headers=HEADERS, json=BODY) as response:
        assert response.status_code == 200
        yield response


async def count_words(pieces: AsyncIterator[bytes]) -> int:
    """Read the stream to its end; how many words came."""
    decode = msgspec.json.decode
    words = 0
    rest = b""
    async for piece in pieces:
        *events, rest = (rest + piece).split(b"\n\n")
        for event in events:
            data = decode(event[event.index(b"\ndata: ") + 7 :])
            if data["type"] == "content_block_delta":
                words += 1
    return words
