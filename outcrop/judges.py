"""Which language model has which role: one explains, one judges; often they are the same."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

from outcrop.config import JudgeConfig, Role
from outcrop.errors import ConfigError
from outcrop.interp.clients.budget import Budget, BudgetClient
from outcrop.interp.clients.client import Client, is_address, require_installed
from outcrop.run import StageMark

Connect = Callable[[str, str | None, JudgeConfig], Client]


class Judges:
    """The language models that the settings name; each is connected to when it is first needed.
    They share one budget."""

    def __init__(self, config: JudgeConfig, connect: Connect) -> None:
        self._config, self._connect = config, connect
        self._budget = Budget(config.max_requests, config.max_cost)

    def client(self, role: Role) -> Client:
        return self._explainer if role == "explainer" else self._judge

    def model(self, role: Role) -> str:
        """Which it is; a server is not asked where the settings say."""
        named = self._named(role)
        return named if named is not None and is_address(self.address(role)) else self.client(role).model

    def address(self, role: Role) -> str:
        """Where the model is, as the settings say; ConfigError if they do not."""
        address = self._config.explainer or self._config.name if role == "explainer" else self._config.name
        if address is None:
            raise ConfigError(
                "no judge is given. --judge takes the address of an OpenAI-compatible server (http://…/v1) or a "
                "transformers model; it explains and scores."
            )
        return address

    def require(self, role: Role) -> None:
        """ConfigError where the model is not named, JudgeError where it is served and does not answer or cannot be run
        here."""
        require_installed(self.address(role))
        if is_address(self.address(role)):
            self.client(role)

    def changed(self, mark: StageMark) -> dict[Role, str]:
        """The identities of the models that would do a stage now, where others did it. A model is asked who it is only
        where the settings name another address or name than before."""
        if self._config.name is None and self._config.explainer is None:
            return {}
        asked = (role for role in mark.models if not self._still_meant(role, mark))
        now = {role: self.client(role).model for role in asked}
        return {role: model for role, model in now.items() if model != mark.models[role]}

    def _still_meant(self, role: Role, mark: StageMark) -> bool:
        same_place = mark.addresses[role] == self.address(role)
        return mark.complete and same_place and self._named(role) in (None, mark.models[role])

    def _named(self, role: Role) -> str | None:
        return self._explainer_model if role == "explainer" else self._config.model

    @cached_property
    def _judge(self) -> Client:
        return self._connected(self.address("judge"), self._config.model)

    @cached_property
    def _explainer(self) -> Client:
        if self.address("explainer") == self._config.name and self._explainer_model == self._config.model:
            return self._judge
        return self._connected(self.address("explainer"), self._explainer_model)

    def _connected(self, address: str, model: str | None) -> Client:
        client = self._connect(address, model, self._config)
        price = self._config.price(client.model)
        if price is None and self._config.max_cost is not None and is_address(address):
            raise ConfigError(
                f"judge.max-cost is {self._config.max_cost}, but {client.model} at {address} has no price; "
                f"judge.prices has {', '.join(self._config.prices)}. Add {client.model}=PROMPT/COMPLETION in US$ per "
                "million tokens, 0/0 if it costs nothing."
            )
        return BudgetClient(client, price, self._budget)

    @property
    def _explainer_model(self) -> str | None:
        """The name asked for at the explainer's address; the judge's name says nothing of another server."""
        own_server = self._config.explainer not in (None, self._config.name)
        return self._config.explainer_model if own_server else self._config.explainer_model or self._config.model
