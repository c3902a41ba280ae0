"""A small OpenAI-compatible server on loopback whose answers are a function of the request.

    with LLMServer([RateLimit(1), Garbage()]) as server:
        OpenAIClient(server.address, None, config)

Each fault befalls one chat request, in the order of their coming; then all goes well, but for what
`befalls` gives for a request and how often it has come. Every body is counted. `python -m
tests.llm_server` serves in a process of its own and prints its address; what it was asked is listed
at `/asked`.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class RateLimit:
    """429, with the seconds to wait."""

    retry_after: float


@dataclass(frozen=True)
class Status:
    """Any other HTTP status; the body repeats the key, as some servers do."""

    status: int


@dataclass(frozen=True)
class Closed:
    """The connection is closed without a word."""


@dataclass(frozen=True)
class Silence:
    """No answer for so many seconds, then none at all."""

    seconds: float


@dataclass(frozen=True)
class Body:
    """200 with this body, whatever it is."""

    body: bytes


@dataclass(frozen=True)
class Says:
    """This text; with `logprobs`, its first word has all the probability that is given."""

    text: str
    logprobs: bool = True


Fault = RateLimit | Status | Closed | Silence | Body | Says
NOT_JSON = Body(b"<html>Bad gateway</html>")
NO_CHOICES = Body(b'{"choices": []}')


@dataclass(frozen=True)
class Completion:
    """What is said, and the likeliest first tokens."""

    text: str
    alternatives: dict[str, float] | None


def by_hash(request: dict[str, Any]) -> Completion:
    """p(yes) is uniform over requests; half of a label's probability is on a variant of it."""
    digest = hashlib.sha256(json.dumps(request["messages"], sort_keys=True).encode()).digest()
    if not request.get("logprobs"):
        return Completion(f"words that start with {digest[0]:02x}", None)
    yes = (0.5 + digest[0]) / 256 * 0.9
    no = 0.9 - yes
    alternatives = {"Yes": yes / 2, " yes": yes / 2, "No": no / 2, "NO": no / 2, "Maybe": 0.1}
    return Completion("Yes" if yes > no else "No", alternatives)


def talkative(request: dict[str, Any]) -> Completion:
    """Lists where a list is wanted, a number where one is, and else as `by_hash`."""
    last = request["messages"][-1]["content"]
    if wanted := re.search(r"JSON list of (\d+) (integers|words)", last):
        said = [i % 11 for i in range(int(wanted[1]))]
        return Completion(json.dumps(said if wanted[2] == "integers" else [("Yes", "No")[i % 2] for i in said]), None)
    if "what description 2 describes" in last:
        return Completion("B", {"A": 0.1, "B": 0.8, "D": 0.05})
    if request.get("logprobs") and "does not belong" in last:
        return Completion("2", {"1": 0.2, "2": 0.5, "3": 0.1})
    return by_hash(request)


@dataclass
class LLMServer:
    """Serves in a background thread while the context is open."""

    faults: Iterable[Fault] = ()
    model: str = "small-judge"
    answer: Callable[[dict[str, Any]], Completion] = by_hash
    befalls: Callable[[dict[str, Any], int], Fault | None] = lambda request, time: None
    delay_seconds: float = 0.0
    port: int = 0
    asked: Counter[str] = field(default_factory=Counter)  # chat bodies, faults included
    answered: Counter[str] = field(default_factory=Counter)  # of these, answered well
    times: list[float] = field(default_factory=list)  # of the chat requests
    keys: set[str] = field(default_factory=set)
    most_at_once: int = 0

    def __post_init__(self) -> None:
        self._script = iter(self.faults)
        self._lock = threading.Lock()
        self._now = 0
        self._closing = threading.Event()
        self._server = _Server(("127.0.0.1", self.port), _handler(self))

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def __enter__(self) -> LLMServer:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()

    def serve_forever(self) -> None:
        self._server.serve_forever()

    def chat(self, body: bytes, handler: _Handler) -> None:
        with self._lock:
            self.asked[body.decode()] += 1
            self.times.append(time.monotonic())
            self.keys.add(handler.headers.get("Authorization", "").removeprefix("Bearer "))
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
            fault = next(self._script, None) or self.befalls(json.loads(body), self.asked[body.decode()])
        try:
            self._closing.wait(self.delay_seconds)
            self._reply(fault, body, handler)
        finally:
            with self._lock:
                self._now -= 1

    def _reply(self, fault: Fault | None, body: bytes, handler: _Handler) -> None:
        match fault:
            case RateLimit(seconds):
                handler.send(429, b'{"error": {"message": "too many"}}', {"Retry-After": f"{seconds:g}"})
            case Status(status):
                message = f"no, {handler.headers.get('Authorization')}"
                handler.send(status, json.dumps({"error": {"message": message}}).encode())
            case Closed():
                handler.close_connection = True
            case Silence(seconds):
                self._closing.wait(seconds)
                handler.close_connection = True
            case Body(content):
                handler.send(200, content)
            case Says(text, logprobs):
                first = {text.split(" ")[0]: 0.9} if logprobs else None
                handler.send(200, completion(Completion(text, first)))
            case None:
                with self._lock:
                    self.answered[body.decode()] += 1
                handler.send(200, completion(self.answer(json.loads(body))))


def completion(answer: Completion) -> bytes:
    choice: dict[str, Any] = {"index": 0, "message": {"role": "assistant", "content": answer.text}}
    if answer.alternatives:
        top = [{"token": token, "logprob": math.log(p)} for token, p in answer.alternatives.items()]
        choice["logprobs"] = {"content": [{**top[0], "top_logprobs": top}]}
    body = {"object": "chat.completion", "choices": [choice], "usage": {"prompt_tokens": 11, "completion_tokens": 2}}
    return json.dumps(body).encode()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, *_: object) -> None:
        """A client that hangs up is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    llm: LLMServer

    def do_GET(self) -> None:
        match self.path:
            case "/v1/models":
                self.send(200, json.dumps({"object": "list", "data": [{"id": self.llm.model}]}).encode())
            case "/asked":
                self.send(200, json.dumps({"asked": self.llm.asked, "answered": self.llm.answered}).encode())
            case _:
                self.send(404, b'{"error": {"message": "no such page"}}')

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/v1/chat/completions":
            self.llm.chat(body, self)
        else:
            self.send(404, b'{"error": {"message": "no such page"}}')

    def send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Quiet."""


def _handler(llm: LLMServer) -> type[_Handler]:
    return type("Handler", (_Handler,), {"llm": llm})


if __name__ == "__main__":
    alone = LLMServer()
    print(alone.address, flush=True)  # noqa: T201
    alone.serve_forever()
