from dataclasses import replace

import pytest
import torch

from outcrop.coders.placed import PlacedCoder
from outcrop.coders.stack import SparseStack
from outcrop.config import Architecture
from outcrop.model.corpus import Corpus
from outcrop.model.load import LanguageModel
from outcrop.train.evaluate import cross_entropies, measure
from outcrop.train.stream import load_block
from outcrop.types import CoderKey, CrossEntropy, Hookpoint

POINT = Hookpoint("model.layers.0")
WIDTH = 32


def signed_identity(width: int, k: int) -> SparseStack:
    """A coder with a latent for every direction and its opposite: with k = width it copies."""
    coder = SparseStack(Architecture(n_latents=2 * width, k=k), width)
    rows = torch.cat([torch.eye(width), -torch.eye(width)])
    with torch.no_grad():
        coder.layers[0].encoder.copy_(rows)
        coder.layers[0].decoder.copy_(rows)
    return coder.eval().requires_grad_(False)


def test_fvu_l0_and_firings_of_four_tokens_by_hand() -> None:
    """One latent per token: the larger coordinate is copied, the smaller lost."""
    x = torch.tensor([[3.0, 1.0], [-3.0, 1.0], [1.0, -3.0], [-1.0, 1.5]])
    held = measure(signed_identity(2, k=1), x, x)
    lost = 1 + 1 + 1 + 1
    total = (9 + 9 + 1 + 1) + (1 + 1 + 9 + 2.25) - 4 * 0.125**2  # the means are 0 and 1/8
    assert held.fvu == [pytest.approx(lost / total)]
    assert held.l0 == [1.0] and held.norm_share == [1.0]
    assert held.fired.tolist() == [[1, 1, 1, 1]] and held.unfired_share == [0.0]
    assert held.rate_histogram == [[0] * 11 + [4, 0]]  # a rate of 1/4 lies between 10^-1 and 10^-0.5
    once = replace(held, n_tokens=2_000_000, fired=torch.tensor([[0, 1, 1, 2]]))
    assert once.rate_histogram == [[1, 3, *[0] * 11]], "once in so many tokens is not never"


def spliced_in(
    model: LanguageModel, corpora: dict[str, Corpus], coder: SparseStack, max_norm: float | None = None
) -> tuple[CrossEntropy, torch.Tensor]:
    text = corpora["held_out"]
    activations = load_block(model, text, range(text.n_contexts), [(POINT, POINT)], 4_096, lambda n: None)
    mean = activations[POINT, POINT].source.mean(dim=0)
    placed = PlacedCoder(CoderKey("hand", POINT, POINT, 0), coder, max_norm)
    (ce,) = cross_entropies(model, [placed], [mean], text, 400, 4_096, lambda n: None)
    return ce, mean


def test_a_coder_that_copies_leaves_the_loss_as_it_was(model: LanguageModel, corpora: dict[str, Corpus]) -> None:
    ce, _ = spliced_in(model, corpora, signed_identity(WIDTH, k=WIDTH))
    assert ce.coder == pytest.approx(ce.clean, abs=1e-6) and ce.kl == pytest.approx(0, abs=1e-6)
    assert ce.recovered == pytest.approx(1, abs=1e-4) and ce.zero != ce.clean != ce.mean


def test_a_coder_that_never_fires_gives_the_loss_of_its_bias(model: LanguageModel, corpora: dict[str, Corpus]) -> None:
    silent = signed_identity(WIDTH, k=1)
    silent.layers[0].encoder_bias.fill_(-1e6)
    ce, mean = spliced_in(model, corpora, silent)
    assert ce.coder == pytest.approx(ce.zero, abs=1e-6) and ce.recovered == pytest.approx(0, abs=1e-5)
    silent.decoder_bias.copy_(mean)
    ce, _ = spliced_in(model, corpora, silent)
    assert ce.coder == pytest.approx(ce.mean, abs=1e-6) and ce.recovered_from_mean == pytest.approx(0, abs=1e-5)


def test_a_sink_stays_as_it_is(model: LanguageModel, corpora: dict[str, Corpus]) -> None:
    ce, _ = spliced_in(model, corpora, signed_identity(WIDTH, k=1), max_norm=0.0)
    assert ce.clean == ce.coder == ce.zero == ce.mean


def test_coders_at_once_are_measured_as_each_alone(model: LanguageModel, corpora: dict[str, Corpus]) -> None:
    """Of two at one place with other sinks each has its own zero, though the clean model runs once."""
    text = corpora["held_out"]
    coders = [
        PlacedCoder(CoderKey(name, POINT, POINT, 0), signed_identity(WIDTH, k), max_norm)
        for name, k, max_norm in (("one", 1, None), ("two", 3, None), ("sinks", 3, 5.0))
    ]
    means = [torch.full((WIDTH,), 0.1 * i) for i in (1, 1, 2)]
    together = cross_entropies(model, coders, means, text, 400, 4_096, lambda n: None)
    for placed, mean, ce in zip(coders, means, together, strict=True):
        assert cross_entropies(model, [placed], [mean], text, 400, 4_096, lambda n: None) == [ce]
    one, two, sinks = together
    assert one.coder != two.coder and one.zero == two.zero != sinks.zero and one.mean == two.mean != sinks.mean
