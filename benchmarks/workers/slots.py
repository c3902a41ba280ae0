"""An OpenAI-compatible server with so many slots, each of which takes a fixed time for a request, and nothing else.

    python slots.py SLOTS SECONDS      prints its port

A request waits until a slot is free. The answer suits both peers: "[1]", with the probability of "Yes" where asked.
`/busy` tells how many requests were answered, and which share of the slots was busy between the first request's
coming and the last one's end; then it begins anew.

Stands alone: the standard library only.
"""

from __future__ import annotations

import asyncio
import json
import math
import sys
import time

_CHOICE = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "[1]"}}
_LOGPROBS = {"content": [{"token": "Yes", "logprob": math.log(0.7), "top_logprobs": [
    {"token": "Yes", "logprob": math.log(0.7)}, {"token": "No", "logprob": math.log(0.2)}]}]}  # fmt: skip


class Slots:
    def __init__(self, n: int, seconds: float) -> None:
        self._n, self._seconds, self._free = n, seconds, asyncio.Semaphore(n)
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._first, self._last, self._answered = math.inf, 0.0, 0

    async def take(self) -> None:
        self._first = min(self._first, time.monotonic())
        async with self._free:
            await asyncio.sleep(self._seconds)
        self._answered, self._last = self._answered + 1, time.monotonic()

    def busy(self) -> dict[str, float]:
        seconds = self._last - self._first
        busy = self._answered * self._seconds / (self._n * seconds) if self._answered else 0.0
        told = {"answered": self._answered, "seconds": seconds, "busy": busy}
        self._begin_anew()
        return told


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, slots: Slots) -> None:
    try:
        while head := (await reader.readuntil(b"\r\n\r\n")).decode():
            lines = head.split("\r\n")
            length = next((int(line.split(":")[1]) for line in lines if line.lower().startswith("content-length")), 0)
            asked = json.loads(await reader.readexactly(length) or b"{}")
            body = json.dumps(await _answer(lines[0].split()[1], asked, slots)).encode()
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n")
            writer.write(f"content-length: {len(body)}\r\n\r\n".encode() + body)
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def _answer(path: str, asked: dict[str, object], slots: Slots) -> object:
    if path.endswith("/models"):
        return {"object": "list", "data": [{"id": "slots", "object": "model"}]}
    if path.endswith("/busy"):
        return slots.busy()
    await slots.take()
    choice = _CHOICE | ({"logprobs": _LOGPROBS} if asked.get("logprobs") else {})
    return {"id": "1", "object": "chat.completion", "created": 0, "model": "slots", "choices": [choice],
            "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}}  # fmt: skip


async def main(n: int, seconds: float) -> None:
    slots = Slots(n, seconds)
    server = await asyncio.start_server(lambda reader, writer: _serve(reader, writer, slots), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), float(sys.argv[2])))
