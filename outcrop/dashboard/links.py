"""Where the pages of a run stand: on the server, or in a folder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable
from urllib.parse import quote


@runtime_checkable
class Links(Protocol):
    """Addresses as they stand in the pages of one run."""

    @property
    def home(self) -> str: ...

    @property
    def run(self) -> str: ...

    @property
    def latents(self) -> str: ...

    @property
    def fresh(self) -> bool:
        """Whether a page that is asked for again shows what has become of the run."""

    @property
    def live(self) -> str | None:
        """Where a text is tried; None where none can be."""

    @property
    def policy(self) -> str | None:
        """Content security policy that a page states itself; None where the server does."""

    def latent(self, coder: str, latent: int) -> str: ...

    def asked(self, coder: str, latent: int) -> str:
        """What language models were asked about it; behind # stands the hash of one request."""

    def document(self, coder: str, latent: int, query: str, number: int, context: int) -> str:
        """One of its contexts; `query` is the view that the latent came from."""

    def static(self, name: str) -> str:
        """A style sheet or a script."""


class ServerLinks:
    """Of the run with this number."""

    home, policy, fresh = "/", None, True

    def __init__(self, run: int, *, live: bool = False) -> None:
        self.run = f"/{run}/"
        self.live = f"{self.run}try" if live else None
        self.latents = f"{self.run}latents"

    def latent(self, coder: str, latent: int) -> str:
        return f"{self.run}latent/{quote(coder, safe=',')}/{latent}"

    def asked(self, coder: str, latent: int) -> str:
        return f"{self.run}asked/{quote(coder, safe=',')}/{latent}"

    def document(self, coder: str, latent: int, query: str, number: int, context: int) -> str:
        return f"{self.run}document/{quote(coder, safe=',')}/{latent}/{number}{query}#context-{context}"

    def static(self, name: str) -> str:
        return f"/static/{name}"


class FileLinks:
    """From a page that lies so many folders deep."""

    live, fresh = None, False
    policy = (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src data:; base-uri 'none'; form-action 'none'"
    )

    def __init__(self, coders: Sequence[str], depth: int) -> None:
        self._coders, self._up = list(coders), "../" * depth
        self.home = self.run = f"{self._up}index.html"
        self.latents = f"{self._up}latents.html"

    def latent(self, coder: str, latent: int) -> str:
        return f"{self._up}latent/{self.stem(coder, latent)}.html"

    def asked(self, coder: str, latent: int) -> str:
        return f"{self._up}asked/{self.stem(coder, latent)}.html"

    def document(self, coder: str, latent: int, query: str, number: int, context: int) -> str:
        return f"{self._up}document.html#{self.stem(coder, latent)}-{number}-{context}"

    def stem(self, coder: str, latent: int) -> str:
        """What files about a latent are called."""
        return f"{self._coders.index(coder)}-{latent}"

    def static(self, name: str) -> str:
        return f"{self._up}static/{name}"
