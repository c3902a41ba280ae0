"""What three explanations of a latent say of its bands: by hand, and of latents whose truth is planted."""

import numpy as np
import pytest

from outcrop.metrics.dropoff import PairedPosteriors, cell_weights, drop_off
from outcrop.metrics.forms import Linear, estimate
from outcrop.metrics.pings import (
    BROADENING,
    CLEAN,
    LABELS,
    LITTLE_MASS,
    NOISE,
    POLYSEMANTIC,
    UNDECIDED,
    labels,
)
from outcrop.metrics.quantiles import HIGH, LOW, BandCounts, Bands, across_bands
from outcrop.metrics.rates import weighted_rate
from tests.proofs.quantiles import KINDS, Design, Kind, judged, paired

EVEN = np.array([[0.2, 0.3, 0.5]])


def counts(hits: list[list[int]], alarms: tuple[int, int, int] = (1, 1, 1), n: int = 20) -> BandCounts:
    """One latent: hits by explanation × band, alarms by explanation, one stratum of non-activating windows."""
    return BandCounts(
        np.array([hits]),
        np.full((1, 3, 3), n),
        np.array(alarms).reshape(1, 3, 1),
        np.full((1, 3, 1), n),
        np.ones((1, 1)),
    )


def bands(hits: list[list[int]], n: int = 20) -> Bands:
    return across_bands(counts(hits, n=n), 0.95)


def label(hits: list[list[int]], mass: np.ndarray = EVEN, n: int = 20) -> str:
    return str(labels(bands(hits, n), mass)[0])


ABOVE_ONLY = [2, 12, 19]  # hits of an explanation that holds in the high band and not in the low


def test_the_matrix_holds_the_j_of_each_explanation_in_each_band() -> None:
    found = across_bands(counts([[18, 9, 1], [10, 20, 10], ABOVE_ONLY], alarms=(2, 0, 1)), 0.95).informedness
    expected = [[0.8, 0.35, -0.05], [0.5, 1, 0.5], [0.05, 0.55, 0.9]]
    assert found.value[0] == pytest.approx(np.array(expected))
    assert np.all((found.low <= found.value) & (found.value <= found.high))


def test_false_positives_are_weighted_by_the_share_of_their_stratum() -> None:
    counted = BandCounts(
        np.full((1, 3, 3), 10),
        np.full((1, 3, 3), 10),
        np.array([[[0, 5]] * 3]),
        np.full((1, 3, 2), 10),
        np.array([[0.9, 0.1]]),
    )
    assert across_bands(counted, 0.95).informedness.value == pytest.approx(1 - 0.1 * 0.5)


def test_agreement_is_the_mean_off_the_diagonal_over_the_mean_on_it() -> None:
    found = across_bands(counts([[18, 9, 1], [10, 20, 10], ABOVE_ONLY], alarms=(2, 0, 1)), 0.95).agreement
    assert found.value[0] == pytest.approx((0.35 - 0.05 + 0.5 + 0.5 + 0.05 + 0.55) / 6 / (2.7 / 3))
    assert found.low[0] < found.value[0] < found.high[0]


def test_agreement_is_one_where_each_explanation_holds_in_every_band() -> None:
    assert bands([[19] * 3] * 3).agreement.value[0] == pytest.approx(1)


def test_low_activation_polysemanticity_is_the_share_of_j_that_is_lost_below() -> None:
    found = bands([[0] * 3, [0] * 3, ABOVE_ONLY]).low_polysemanticity
    assert found.value[0] == pytest.approx(1 - (0.1 - 0.05) / (0.95 - 0.05))


def test_its_interval_ends_where_an_end_of_top_less_c_bottom_is_zero() -> None:
    found = bands([[0] * 3, [0] * 3, ABOVE_ONLY]).low_polysemanticity
    below, above, fpr = (weighted_rate([hits], [20], [1.0], 0.95) for hits in (2, 19, 1))
    for c, end in ((found.low[0], "low"), (found.high[0], "high")):
        # top − c bottom = TPR_high − TPR_low − c (TPR_high − FPR)
        at_end = estimate(Linear((-1, 1 - c, c)), (below, above, fpr))
        assert getattr(at_end, end) == pytest.approx(0, abs=1e-9)


def test_a_quotient_by_a_j_that_may_be_nothing_is_missing() -> None:
    found = bands([[3] * 3] * 3)
    for quotient in (found.agreement, found.low_polysemanticity):
        assert np.isnan([quotient.value, quotient.low, quotient.high]).all()


def test_an_unjudged_band_leaves_a_j_without_a_value_but_with_bounds() -> None:
    whole = counts([[19] * 3] * 3)
    n = whole.n_activating.copy()
    n[0, :, LOW] = 0
    hits = np.minimum(whole.hits, n)
    found = across_bands(BandCounts(hits, n, whole.alarms, whole.n_others, whole.shares), 0.95)
    assert np.isnan(found.informedness.value[0, :, LOW]).all()
    assert found.informedness.value[0, :, HIGH] == pytest.approx(0.9)
    assert found.informedness.low[0, LOW, LOW] < 0 < 0.9 < found.informedness.high[0, LOW, LOW]
    assert labels(found, EVEN)[0] == UNDECIDED


def test_only_explanations_that_surely_tell_their_own_band_can_be_broader_than_each_other() -> None:
    assert bands([[19] * 3] * 3).telling[0]
    assert not bands([[3] * 3, [19] * 3, [19] * 3]).telling[0]
    assert not bands([[19] * 3, [19] * 3, [3] * 3]).telling[0]


def test_every_label_by_hand() -> None:
    assert label([[19] * 3] * 3) == CLEAN
    assert label([[2, 2, 2], [9, 18, 19], ABOVE_ONLY]) == NOISE
    assert label([[19, 19, 19], [19, 19, 19], ABOVE_ONLY]) == BROADENING
    assert label([[18, 9, 1], [10, 19, 10], ABOVE_ONLY]) == POLYSEMANTIC
    assert label([[8, 3, 1], [10, 19, 10], ABOVE_ONLY]) == UNDECIDED  # E_low has a J of 0.35: neither 0.4 nor chance
    assert label([[3] * 3] * 3) == UNDECIDED  # E_high explains nothing


def test_a_low_band_of_little_mass_is_not_pinged() -> None:
    hits = [[18, 9, 1], [10, 19, 10], ABOVE_ONLY]
    assert label(hits, np.array([[0.1, 0.3, 0.6]])) == POLYSEMANTIC
    assert label(hits, np.array([[0.09, 0.3, 0.61]])) == LITTLE_MASS
    assert label(hits, np.full((1, 3), np.nan)) == UNDECIDED


def test_few_windows_leave_a_latent_undecided() -> None:
    assert label([[4] * 3, [4] * 3, [3, 4, 4]], n=4) == UNDECIDED


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_planted_latents_get_their_label_and_clean_ones_no_ping(kind: Kind) -> None:
    found = labels(across_bands(judged(kind, 20, 50, 1_000, np.random.default_rng(1)), 0.95), EVEN)
    assert np.isin(found, LABELS).all()
    assert np.mean(found == kind.label) > kind.least
    if kind.label != POLYSEMANTIC:
        assert np.mean(found == POLYSEMANTIC) < 0.002


def test_cells_weigh_as_much_as_they_hold_of_the_grid() -> None:
    weights = cell_weights(np.array([0.03]), np.array([[0.9, 0.1]]))
    assert weights[0] == pytest.approx([0.01, 0.01, 0.01, 0.873, 0.097])


def test_the_drop_off_by_hand() -> None:
    windows = PairedPosteriors(
        low=np.array([0.8, 0.6, 0.2, 0.2]),
        high=np.array([0.4, 0.3, 0.1, 0.1]),
        row=np.zeros(4, dtype=int),
        cell=np.array([0, 0, 1, 1]),
    )
    wide = drop_off(windows, np.array([[0.5, 0.5]]), 0.95)
    assert np.isnan(wide.value[0])
    assert wide.low[0] < 1 < wide.high[0]
    many = PairedPosteriors(*(np.tile(x, 500) for x in (windows.low, windows.high, windows.row, windows.cell)))
    assert drop_off(many, np.array([[0.5, 0.5]]), 0.95).value[0] == pytest.approx(1)


def test_for_verdicts_of_zero_and_one_the_ends_of_a_breadth_are_those_of_a_rate() -> None:
    """Against an explanation that always holds, D is log₂ of a rate, and its lower end that rate's."""
    hits, n = 30, 3_000
    low = np.repeat([1.0, 0.0], [hits, n - hits])
    windows = PairedPosteriors(low, np.ones(n), np.zeros(n, dtype=int), np.zeros(n, dtype=int))
    found, rate = drop_off(windows, np.ones((1, 1)), 0.95), weighted_rate([hits], [n], [1.0], 0.95)
    assert found.low[0] == pytest.approx(np.log2(rate.low), abs=2e-3)
    assert found.high[0] == pytest.approx(np.log2(rate.high), abs=2e-3)


def test_latents_do_not_touch_each_other() -> None:
    rng = np.random.default_rng(2)
    design = Design(context_rate=0.05, bits=1, error=0.05, n_random=200)
    windows, weights, _ = paired(design, 3, rng)
    whole = drop_off(windows, weights, 0.95)
    second = windows.row == 1
    one = PairedPosteriors(
        windows.low[second], windows.high[second], np.zeros(second.sum(), dtype=int), windows.cell[second]
    )
    alone = drop_off(one, weights[:1], 0.95)
    assert (whole.value[1], whole.low[1], whole.high[1]) == pytest.approx((alone.value[0], alone.low[0], alone.high[0]))


def test_posteriors_that_are_all_alike_tell_nothing() -> None:
    same = np.full(1_000, 1e-4)
    windows = PairedPosteriors(same, same, np.zeros(1_000, dtype=int), np.zeros(1_000, dtype=int))
    found = drop_off(windows, np.ones((1, 1)), 0.95)
    assert np.isnan([found.value, found.low, found.high]).all()


def test_a_cell_with_weight_and_no_window_leaves_it_missing() -> None:
    p, zeros = np.linspace(0.1, 0.9, 1_000), np.zeros(1_000, dtype=int)
    windows = PairedPosteriors(p, p, zeros, zeros)
    assert np.isnan(drop_off(windows, np.array([[0.9, 0.1]]), 0.95).low[0])
    assert drop_off(windows, np.array([[1.0, 0.0]]), 0.95).value[0] == pytest.approx(0)


@pytest.mark.parametrize("n_random", [50, 200, 1_000])
def test_intervals_of_the_drop_off_cover_and_narrow_ones_are_shown(n_random: int) -> None:
    design = Design(context_rate=0.05, bits=2, error=0.05, n_random=n_random)
    windows, weights, truth = paired(design, 500, np.random.default_rng(3))
    found = drop_off(windows, weights, 0.95)
    assert np.mean((found.low <= truth) & (truth <= found.high)) > 0.92
    assert np.array_equal(~np.isnan(found.value), found.high - found.low < 2)


def test_the_drop_off_has_the_planted_bits_where_none_is_withheld() -> None:
    design = Design(context_rate=0.05, bits=2, error=0.05, n_random=1_000)
    windows, weights, truth = paired(design, 500, np.random.default_rng(4))
    found = drop_off(windows, weights, 0.95)
    assert not np.isnan(found.value).any()
    assert found.value.mean() == pytest.approx(truth, abs=0.05)
