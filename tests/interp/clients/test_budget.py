from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from outcrop.config import JudgeConfig
from outcrop.config.judge import Price
from outcrop.errors import BudgetError, ConfigError
from outcrop.interp.clients.budget import Budget, BudgetClient
from outcrop.interp.clients.client import RememberingClient, connect
from outcrop.judges import Judges
from outcrop.replies import Replies
from outcrop.types import Failure, Message, Reply, Request
from tests.llm_server import Body, LLMServer, Status

PRICE = Price(1e6, 1e6)  # a dollar for each token


def ask(text: str) -> Request:
    return Request((Message("user", text),), 10)


ASKED = [ask(f"{i} {'word ' * 10}") for i in range(20)]


class Paid:
    """Ten tokens of prompt and two of answer for all requests but those whose text is `fails`."""

    model = "paid"

    def __init__(self, tokens: int = 10) -> None:
        self.rounds: list[int] = []
        self._tokens = tokens

    def answer(self, requests: Sequence[Request]) -> Iterator[tuple[int, Reply | Failure]]:
        self.rounds.append(len(requests))
        for index, request in enumerate(requests):
            fails = request.messages[0].content == "fails"
            yield index, Failure("timeout", "late") if fails else Reply("word", None, self._tokens, 2, 0.0)


def test_each_reply_gets_its_cost_and_a_failure_has_none() -> None:
    budget = Budget(None, None)
    (_, reply), (_, failure) = BudgetClient(Paid(), PRICE, budget).answer([ask("a"), ask("fails")])
    assert isinstance(reply, Reply) and reply.cost == budget.cost == 12.0
    assert isinstance(failure, Failure) and budget.requests == 2


def test_without_a_price_there_is_no_cost() -> None:
    ((_, reply),) = BudgetClient(Paid(), None, Budget(None, None)).answer([ask("a")])
    assert isinstance(reply, Reply) and reply.cost is None


def test_where_tokens_are_not_counted_the_bound_is_spent_but_is_no_cost() -> None:
    budget = Budget(None, 1e9)
    ((_, reply),) = BudgetClient(Paid(tokens=0), PRICE, budget).answer([ask("abcd")])
    assert isinstance(reply, Reply) and reply.cost is None and budget.cost == 4 + 16 + 10


def test_an_answer_that_cannot_be_used_costs_its_bound() -> None:
    class Thinks(Paid):
        def answer(self, requests: Sequence[Request]) -> Iterator[tuple[int, Reply | Failure]]:
            yield from ((i, Failure("empty", "an answer without text")) for i in range(len(requests)))

    budget = Budget(None, 50.0)
    with pytest.raises(BudgetError):
        list(BudgetClient(Thinks(), PRICE, budget).answer([ask("abcd")] * 4))
    assert (budget.requests, budget.cost) == (2, 2 * (4 + 16 + 10))


def test_no_more_requests_are_sent_than_allowed_and_all_their_answers_come() -> None:
    client = Paid()
    found = BudgetClient(client, None, Budget(7, None)).answer(ASKED)
    assert [next(found)[0] for _ in range(7)] == list(range(7))
    with pytest.raises(BudgetError, match=r"--judge\.max-requests is 7.*at least 13 are left.*same command.*larger"):
        next(found)
    assert client.rounds == [7]


def test_nothing_is_sent_once_the_cost_is_reached_and_little_is_spent_beyond() -> None:
    budget, client = Budget(None, 100.0), Paid()
    found, n = BudgetClient(client, PRICE, budget).answer(ASKED), 0
    with pytest.raises(BudgetError, match=r"--judge\.max-cost is US\$ 100\.0, and 9 requests for US\$ 108"):
        for _ in found:
            n += 1
    assert n == sum(client.rounds) == 9 and budget.cost == 108.0


def test_an_ample_budget_takes_one_round() -> None:
    client = Paid()
    assert len(list(BudgetClient(client, PRICE, Budget(20, 1e6)).answer(ASKED))) == 20
    assert client.rounds == [20]


def test_clients_share_a_budget_and_what_is_free_goes_on_when_the_money_is_spent() -> None:
    budget = Budget(None, 12.0)
    paid, free = BudgetClient(Paid(), PRICE, budget), BudgetClient(Paid(), None, budget)
    assert len(list(paid.answer([ask("a")]))) == 1
    with pytest.raises(BudgetError):
        list(paid.answer([ask("b")]))
    assert len(list(free.answer(ASKED))) == 20


def test_stopping_loses_no_answer_and_the_next_run_goes_on(tmp_path: Path, quick: JudgeConfig) -> None:
    config = replace(quick, prices=("small-judge=1000/1000",), max_cost=0.05)  # 13 tokens, 0.013 each
    with LLMServer() as server, Replies(tmp_path / "r") as replies:
        for n_stored in (4, 8, 12, 16, 20):
            judges = Judges(replace(config, name=server.address), connect)
            found = RememberingClient(judges.client("judge"), replies).answer(ASKED)
            if n_stored < 20:
                with pytest.raises(BudgetError):
                    list(found)
            else:
                assert len(list(found)) == 20
            rows = sqlite3.connect(tmp_path / "r").execute("SELECT cost FROM replies").fetchall()
            assert [cost for (cost,) in rows] == pytest.approx([0.013] * n_stored)
        assert set(server.asked.values()) == {1}


def test_a_retry_is_no_request_of_its_own(quick: JudgeConfig) -> None:
    with LLMServer([Status(500), Body(b"[]")]) as server:
        judges = Judges(replace(quick, name=server.address, max_requests=1), connect)
        ((_, reply),) = judges.client("judge").answer([ask("a")])
        assert isinstance(reply, Reply) and server.asked.total() == 3


def test_explainer_and_judge_share_what_one_run_may_send(quick: JudgeConfig) -> None:
    with LLMServer() as first, LLMServer() as second:
        config = replace(quick, name=first.address, explainer=second.address, max_requests=3)
        judges = Judges(config, connect)
        assert len(list(judges.client("explainer").answer(ASKED[:2]))) == 2
        with pytest.raises(BudgetError):
            list(judges.client("judge").answer(ASKED[:2]))
        assert (first.asked.total(), second.asked.total()) == (1, 2)


def test_a_cost_cannot_be_kept_without_the_price_of_the_model(quick: JudgeConfig) -> None:
    with LLMServer() as server:
        judges = Judges(replace(quick, name=server.address, prices=("gpt=1/2",), max_cost=1.0), connect)
        with pytest.raises(ConfigError, match=r"small-judge at .* has no price; judge.prices has gpt=1/2"):
            judges.require("judge")
        assert server.asked.total() == 0


def test_prices_are_read_by_the_models_name() -> None:
    config = JudgeConfig(prices=("org/a=b=0.15/0.60", "c=0/0"))
    assert config.price("org/a=b") == Price(0.15, 0.60) and config.price("d") is None
    assert Price(0.15, 0.60).cost(1_000_000, 500_000) == pytest.approx(0.45)


@pytest.mark.parametrize(
    "entry", ["gpt", "gpt=1", "gpt=1/2/3", "=1/2", "gpt=a/2", "gpt=-1/2", "gpt=nan/2", "gpt=1/inf"]
)
def test_a_price_that_is_none_is_refused_with_what_is_expected(entry: str) -> None:
    with pytest.raises(ConfigError, match=rf"has '{entry}'; expected MODEL=PROMPT/COMPLETION"):
        JudgeConfig(prices=(entry,))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prices": ("a=1/2", "a=3/4")}, "2 prices of a"),
        ({"max_cost": 0.0, "prices": ("a=1/2",)}, "must be positive"),
        ({"max_cost": 1.0}, r"give --judge\.prices"),
        ({"max_requests": 0}, "must be at least 1"),
        ({"name": "http://a/v1,b:8000/v1"}, "write http://b:8000/v1"),
        ({"name": "http://a/v1,path/to/model"}, "has 'path/to/model' beside addresses"),
        ({"name": "http://localhost:8O00/v1"}, "8O00/v1 is no address"),
        ({"name": "http://localhost:80000/v1"}, "80000/v1 is no address"),
        ({"name": "http:///v1"}, "http:///v1 is no address"),
        ({"explainer": "http://a/v1,http://a/v1"}, "names http://a/v1 twice"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        JudgeConfig(**settings)  # type: ignore[arg-type]
