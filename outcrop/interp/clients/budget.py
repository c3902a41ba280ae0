"""What asking costs, and where it ends.

    BudgetClient(client, price, budget)    the same client; replies get their cost, and the budget is kept

What a request costs is known once it is answered. Before, there is a bound: a token has at least one byte,
and no more than `max_tokens` are written. Requests are sent in rounds whose bounds fit into the money that is
left, at least one at a time. Their true cost is a fraction of that: an ample budget is one round, and a small
one is used up in a few, with nothing in flight when its end is found.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import accumulate

from outcrop.config.judge import Price
from outcrop.errors import BudgetError
from outcrop.interp.clients.client import Client, asking
from outcrop.types import Failure, Reply, Request

_TEMPLATE_TOKENS = 16  # that a chat template puts around a message, at most


class Budget:
    """What one run of the program may send and spend, and what it has; its clients share it.

    A request counts once, however often it is tried. An answer that cannot be used costs its bound, no answer nothing.
    """

    def __init__(self, max_requests: int | None, max_cost: float | None) -> None:
        self._max_requests, self._max_cost = max_requests, max_cost
        self.requests = 0
        self.cost = 0.0  # US$

    def room(self, bounds: Sequence[float]) -> int:
        """How many of the next requests, with these bounds on their costs, may be sent at once."""
        n = len(bounds)
        if self._max_requests is not None:
            n = min(n, self._max_requests - self.requests)
        if self._max_cost is not None:
            left = max(self._max_cost - self.cost, 0.0)
            fitting = sum(total <= left for total in accumulate(bounds))
            n = min(n, max(fitting, 1 if left else 0))
        return n

    def spent(self, n_left: int) -> BudgetError:
        """That there is no room."""
        flag, limit = "--judge.max-cost", f"US$ {self._max_cost}"
        if self._max_requests is not None and self.requests >= self._max_requests:
            flag, limit = "--judge.max-requests", f"{self._max_requests:,}"
        return BudgetError(
            f"{flag} is {limit}, and {self.requests:,} requests for US$ {self.cost:.4g} have been sent; at least "
            f"{n_left:,} are left to ask. Every answer is kept: the same command goes on from here, with a budget as "
            f"large again or with a larger {flag}."
        )


class BudgetClient:
    """Asks a client for as much as the budget has room for; then BudgetError.

    Without a price nothing is known to cost anything. Where a server does not count tokens, the
    bound is taken for the cost.
    """

    def __init__(self, client: Client, price: Price | None, budget: Budget) -> None:
        self._client, self._price, self._budget = client, price, budget

    @property
    def model(self) -> str:
        return self._client.model

    def answer(self, requests: Sequence[Request]) -> Iterator[tuple[int, Reply | Failure]]:
        bounds = [self._bound(request) for request in requests]
        start = 0
        while start < len(requests):
            n = self._budget.room(bounds[start:])
            if n == 0:
                raise self._budget.spent(len(requests) - start)
            self._budget.requests += n
            with asking(self._client, requests[start : start + n]) as answers:
                for i, answer in answers:
                    yield start + i, self._paid(answer, bounds[start + i])
            start += n

    def _bound(self, request: Request) -> float:
        if self._price is None:
            return 0.0
        prompt = sum(len(message.content.encode()) + _TEMPLATE_TOKENS for message in request.messages)
        return self._price.cost(prompt, request.max_tokens)

    def _paid(self, answer: Reply | Failure, bound: float) -> Reply | Failure:
        if isinstance(answer, Failure):
            self._budget.cost += bound if answer.kind in ("empty", "unreadable") else 0.0
            return answer
        if self._price is None:
            return answer
        if answer.prompt_tokens == 0:
            self._budget.cost += bound
            return answer
        cost = self._price.cost(answer.prompt_tokens, answer.completion_tokens)
        self._budget.cost += cost
        return replace(answer, cost=cost)
