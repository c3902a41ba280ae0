"""Metrics across quantiles, tried on populations of latents whose truth is planted.

Of each kind of latent it is given which share of the windows of a band, or of a stratum, the rule of E_low, E_middle
and E_high matches. A judge follows the rule, but misses 10, 5, 2% of the matches in the low, middle, high band, and
takes 2% of the other random and 8% of the other hard windows for matches.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from scipy import special, stats

from outcrop.metrics.dropoff import PairedPosteriors, cell_weights, drop_off
from outcrop.metrics.pings import BROADENING, CLEAN, LABELS, NOISE, POLYSEMANTIC, UNDECIDED, labels
from outcrop.metrics.quantiles import HIGH, LOW, BandCounts, Bands, across_bands
from outcrop.metrics.rates import Estimate

CONFIDENCE = 0.95
SIZES = ((7, 20), (13, 30), (20, 50), (50, 100))  # activating windows per band, non-activating windows
SHARES = np.array([0.98, 0.02])  # of random and hard windows among the non-activating
_MISSED = np.array([0.1, 0.05, 0.02])  # by band
_FALSE = np.array([0.02, 0.08])  # by stratum; in the bands as in random windows
_EVEN = np.array([0.2, 0.3, 0.5])  # mass of the bands

_ABOVE = (0.2, 0.6, 1.0)  # a rule of the high band, of which some is left below
_FEW_HARD = (0.0, 0.1)


@dataclass(frozen=True)
class Kind:
    name: str
    label: str  # what the rule of the labels should say of it
    least: float  # share so labelled at 20 windows per band and 50 others
    activating: tuple[tuple[float, float, float], ...]  # explanation × band
    others: tuple[tuple[float, float], ...] = (_FEW_HARD,) * 3  # explanation × (random, hard)


KINDS = (
    Kind("clean", CLEAN, 0.97, ((1, 1, 1),) * 3),
    Kind("clean, harder to see below", CLEAN, 0.5, ((0.85, 0.95, 1),) * 3),
    Kind("A above, also B below", POLYSEMANTIC, 0.97, ((0.8, 0.4, 0), (1, 1, 1), _ABOVE)),
    Kind("the same, E_low names A and B", BROADENING, 0.97, ((1, 1, 1), (1, 1, 1), _ABOVE)),
    Kind("broadening", BROADENING, 0.97, ((1, 1, 1), (1, 1, 1), _ABOVE), ((0.03, 0.6), (0.03, 0.6), _FEW_HARD)),
    Kind("noise below, E_low at random", NOISE, 0.94, ((0.1,) * 3, _ABOVE, _ABOVE), ((0.1, 0.1), *(_FEW_HARD,) * 2)),
    Kind("noise below, E_low as E_high", UNDECIDED, 0.7, ((0.3, 0.7, 1),) * 3),
)


def table(draws: int) -> list[dict[str, object]]:
    """Every row of every proof; `draws` latents are planted for each."""
    proofs = (label_rows, agreement_rows, drop_off_rows, seen_rows, mass_rows)
    return [{"proof": proof.__name__.removesuffix("_rows"), **row} for proof in proofs for row in proof(draws)]


def label_rows(draws: int) -> Iterator[dict[str, object]]:
    """Shares of each label by planted kind; pings also by a rule of ends instead of values."""
    for n_band, n_others in SIZES:
        for kind in KINDS:
            bands = across_bands(judged(kind, n_band, n_others, draws, np.random.default_rng(0)), CONFIDENCE)
            found = labels(bands, np.tile(_EVEN, (draws, 1)))
            shares = {label: _share(found == label) for label in LABELS}
            sizes = {"per band": n_band, "others": n_others}
            yield {**sizes, "planted": kind.name, **shares, "pinged by ends": _share(_pinged_by_ends(bands))}


def agreement_rows(draws: int) -> Iterator[dict[str, object]]:
    """Planted against estimated agreement and low-activation polysemanticity."""
    for n_band, n_others in SIZES:
        for kind in KINDS:
            for shared in (False, True):
                counts = judged(kind, n_band, n_others, draws, np.random.default_rng(1), shared=shared)
                bands, (agreement, lost) = across_bands(counts, CONFIDENCE), _truth(kind)
                row = {"per band": n_band, "others": n_others, "planted": kind.name, "errors shared": shared}
                yield (
                    row
                    | _compared("agreement", agreement, bands.agreement)
                    | _compared("polysemanticity", lost, bands.low_polysemanticity)
                )


def judged(
    kind: Kind, n_band: int, n_others: int, n_latents: int, rng: np.random.Generator, *, shared: bool = False
) -> BandCounts:
    """One third of the others are hard. `shared`: a window that one explanation's judge errs on, others' err on too."""
    tpr, fpr = _verdict_rates(kind)
    n_strata = np.array([n_others - n_others // 3, n_others // 3])
    sizes = np.concatenate([np.full(3, n_band), n_strata])
    rates = np.concatenate([tpr, fpr], axis=1)
    hits = np.empty((n_latents, 3, len(sizes)), dtype=np.int64)
    for cell, n in enumerate(sizes):
        luck = rng.random((n_latents, 1 if shared else 3, n))
        hits[:, :, cell] = (luck < rates[:, cell, None]).sum(axis=-1)
    return BandCounts(
        hits[:, :, :3],
        np.full((n_latents, 3, 3), n_band),
        hits[:, :, 3:],
        np.broadcast_to(n_strata, (n_latents, 3, 2)),
        np.broadcast_to(SHARES, (n_latents, 2)),
    )


def _verdict_rates(kind: Kind) -> tuple[Float[ndarray, "3 3"], Float[ndarray, "3 2"]]:
    activating, others = np.array(kind.activating), np.array(kind.others)
    tpr = activating * (1 - _MISSED) + (1 - activating) * _FALSE[0]
    return tpr, others * (1 - _MISSED[LOW]) + (1 - others) * _FALSE


def _truth(kind: Kind) -> tuple[float, float]:
    """Agreement and low-activation polysemanticity of the judge's expected rates."""
    tpr, fpr = _verdict_rates(kind)
    j = tpr - (fpr @ SHARES)[:, None]
    diagonal = np.trace(j)
    return float((j.sum() - diagonal) / 6 / (diagonal / 3)), float(1 - j[HIGH, LOW] / j[HIGH, HIGH])


def _pinged_by_ends(bands: Bands) -> ndarray:
    """As in `pings`, but E_low reaches 0.4 below, and not above, by the ends of the intervals."""
    j = bands.informedness
    return (bands.low_polysemanticity.low > 0.3) & (j.low[:, LOW, LOW] >= 0.4) & (j.high[:, LOW, HIGH] < 0.4)


@dataclass(frozen=True)
class Design:
    """A latent whose E_high matches as many windows as it fires in, and whose E_low matches 2^bits times as many.

    `error`: the judge's rate of errors, its score N(±m, 1) for a match or none, m = −Φ⁻¹(error).
    """

    context_rate: float
    bits: float  # 0, or at least ½
    error: float
    n_random: int
    n_cell: int = 20  # windows of each band and of the hard stratum; 0: no strata, n_random windows of the whole grid

    @property
    def weights(self) -> Float[ndarray, "5"]:
        return cell_weights(np.array([self.context_rate]), SHARES[None, ::-1])[0]  # bands, hard, random

    @property
    def matches(self) -> tuple[Float[ndarray, "5"], Float[ndarray, "5"]]:
        """Share of the windows of each cell that E_low and E_high match; what E_high matches, E_low does."""
        w, rate = self.weights, self.context_rate
        bands, more = np.array([0.3, 0.7, 1.0]), (2**self.bits - 1) * rate
        filled = min(1.0, more / (rate / 3))  # the bands lack a third of the windows
        wider = bands + (1 - bands) * filled
        return self._outside(wider, w, rate + more), self._outside(bands, w, rate)

    def _outside(self, bands: ndarray, w: ndarray, total: float) -> Float[ndarray, "5"]:
        """Half of the matches that do not fire are hard, as far as there are hard windows."""
        rest = total - bands @ w[:3]
        hard = min(rest / 2 / w[3], 0.9)
        return np.array([*bands, hard, (rest - hard * w[3]) / w[4]])

    @property
    def seen_bits(self) -> float:
        """The drop-off in what the judge is expected to answer."""
        low, high = (self._predicted(share) for share in self.matches)
        return float(np.log2(low / high))

    def _predicted(self, share: ndarray) -> float:
        nodes, weights = np.polynomial.hermite_e.hermegauss(80)
        mean = [weights @ self.posterior(np.full(80, match), nodes) / weights.sum() for match in (True, False)]
        return float(self.weights @ (share * mean[0] + (1 - share) * mean[1]))

    def posterior(self, match: ndarray, noise: ndarray) -> ndarray:
        """p′ of scores ±m + noise, whose log-likelihood ratio is 2 m times the score."""
        m = -stats.norm.ppf(self.error)
        return np.asarray(special.expit(2 * m * (np.where(match, m, -m) + noise) + special.logit(self.context_rate)))


def paired(
    design: Design, n_latents: int, rng: np.random.Generator
) -> tuple[PairedPosteriors, Float[ndarray, "N C"], float]:
    """Windows of as many latents, W, and the true drop-off; the two scores of a window correlate ½."""
    if not design.n_cell:
        cell = rng.choice(5, p=design.weights, size=(n_latents, design.n_random))
    else:
        cell = np.tile(np.repeat(np.arange(5), [*[design.n_cell] * 4, design.n_random]), (n_latents, 1))
    luck, common, *own = rng.random(cell.shape), *rng.standard_normal((3, *cell.shape))
    low, high = (
        design.posterior(luck < share[cell], (common + alone) / np.sqrt(2)).ravel()
        for share, alone in zip(design.matches, own, strict=True)
    )
    row = np.repeat(np.arange(n_latents), cell.shape[1])
    if not design.n_cell:
        return PairedPosteriors(low, high, row, np.zeros_like(row)), np.ones((n_latents, 1)), design.seen_bits
    return PairedPosteriors(low, high, row, cell.ravel()), np.tile(design.weights, (n_latents, 1)), design.seen_bits


def drop_off_rows(draws: int) -> Iterator[dict[str, object]]:
    """Estimates, coverage, and what is withheld, by the number of random windows."""
    for n_cell in (0, 20, 100):
        for rate in (0.001, 0.01, 0.05):
            for bits in (0, 2):
                for n_random in (50, 200, 1_000, 5_000):
                    yield _drop_off_row(Design(rate, bits, 0.05, n_random, n_cell), draws)


def _drop_off_row(design: Design, draws: int) -> dict[str, object]:
    windows, weights, truth = paired(design, draws, np.random.default_rng(2))
    found, delta = drop_off(windows, weights, CONFIDENCE), _delta_ends(windows, weights)
    shown, held = ~np.isnan(found.value), (found.low <= truth) & (truth <= found.high)
    return {
        "per stratum": design.n_cell,
        "context rate": design.context_rate,
        "random": design.n_random,
        "planted bits": design.bits,
        "seen bits": truth,
        "mean of shown": float(found.value[shown].mean()) if shown.any() else None,
        "withheld": _share(~shown),
        "median width": float(np.median(found.high - found.low)),
        "covers": _share(held),
        "covers where shown": _share(held[shown]) if shown.any() else None,
        "delta covers": _share((delta[0] <= truth) & (truth <= delta[1])),
    }


def _delta_ends(windows: PairedPosteriors, weights: Float[ndarray, "N C"]) -> tuple[ndarray, ndarray]:
    """The textbook interval for comparison: the variance of paired differences p′/π̂ within cells."""
    index, size = windows.row * weights.shape[1] + windows.cell, weights.size

    def mean(x: ndarray) -> ndarray:
        return np.asarray(np.bincount(index, x, minlength=size).reshape(weights.shape)) / n

    n = np.bincount(index, minlength=size).reshape(weights.shape)
    low, high = ((weights * mean(p)).sum(axis=1) for p in (windows.low, windows.high))
    difference = windows.low / low[windows.row] - windows.high / high[windows.row]
    variance = (weights**2 * (mean(difference**2) - mean(difference) ** 2) / (n - 1)).sum(axis=1)
    value, reach = np.log2(low / high), stats.norm.ppf((1 + CONFIDENCE) / 2) * np.sqrt(variance) / np.log(2)
    return value - reach, value + reach


def seen_rows(draws: int) -> Iterator[dict[str, object]]:
    """What is left of planted bits in the posteriors of a judge that errs; exact, without draws."""
    for rate in (0.001, 0.01, 0.05):
        for error in (0.02, 0.05, 0.1):
            seen = {f"{bits} bits": Design(rate, bits, error, 1).seen_bits for bits in (1, 2, 3, 4)}
            yield {"context rate": rate, "error": error, **seen}


_PEAKS = {
    "uniform from 0": stats.uniform(),
    "half-normal": stats.halfnorm(),
    "exponential": stats.expon(),
    "log-normal, σ = ½": stats.lognorm(0.5),
    "log-normal, σ = 1": stats.lognorm(1.0),
    "exponential above a threshold of half its mean": stats.expon(loc=0.5),
    "exponential above a threshold of its mean": stats.expon(loc=1.0),
}


def mass_rows(draws: int) -> Iterator[dict[str, object]]:
    """Share of the low third in the sum of peaks, by their distribution; exact, without draws."""
    places = (np.arange(300_000) + 0.5) / 300_000
    for name, law in _PEAKS.items():
        peaks = law.ppf(places)
        yield {"peaks": name, "low band's mass": float(peaks[:100_000].sum() / peaks.sum())}


def _share(which: ndarray) -> float:
    return float(which.mean())


def _compared(name: str, truth: float, found: Estimate) -> dict[str, object]:
    """Planted and mean value, and how often the interval holds the truth."""
    held = (found.low <= truth) & (truth <= found.high)
    return {name: truth, f"{name}, mean": float(np.nanmean(found.value)), f"{name} covers": _share(held)}
