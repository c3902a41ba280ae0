"""AUROC and average precision: by counting pairs and thresholds, with strata, ties and missing parts."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outcrop.metrics.ranking import Ranking, order_within
from outcrop.metrics.rates import Estimate

Cells = Sequence[Sequence[float] | np.ndarray]


def ranking(rows: Sequence[tuple[Cells, Cells]], u: Sequence[float], v: Sequence[float]) -> Ranking:
    """Of latents, each given by the scores in its activating and in its other cells."""
    score, row, cell = [], [], []
    for i, (up, down) in enumerate(rows):
        for c, scores in enumerate((*up, *down)):
            score += list(scores)
            row += [i] * len(scores)
            cell += [c] * len(scores)
    weights = np.tile([*u, *v], (len(rows), 1))
    order = np.random.default_rng(0).permutation(len(score))  # windows need not lie in any order
    columns = (np.array(score)[order], np.array(row, int)[order], np.array(cell, int)[order])
    return Ranking.of(*columns, weights, len(u), 0.95)


def auroc(up: Cells, down: Cells, u: Sequence[float], v: Sequence[float]) -> Estimate:
    found = ranking([(up, down)], u, v).auroc()
    return Estimate(*(np.asarray(end[0]) for end in (found.value, found.low, found.high)))


def test_ties_count_half() -> None:
    assert auroc([[0.9, 0.5]], [[0.5, 0.1]], [1.0], [1.0]).value == pytest.approx((1 + 1 + 0.5 + 1) / 4)


def test_strata_are_weighted_and_not_pooled() -> None:
    """Against the easy stratum 1, against the hard one 0: the value is the easy one's share."""
    assert auroc([[0.5]], [[0.1] * 2, [0.9] * 50], [1.0], [0.9, 0.1]).value == pytest.approx(0.9)


def test_a_stratum_without_weight_is_left_out() -> None:
    assert auroc([[0.5]], [[0.1], [0.9]], [1.0], [1.0, 0.0]).value == 1


def test_a_stratum_with_weight_but_no_probability_makes_it_missing() -> None:
    assert np.isnan(auroc([[0.5]], [[0.1], []], [1.0], [0.9, 0.1]).value)
    assert np.isnan(auroc([[0.5]], [[0.1], [np.nan]], [1.0], [0.9, 0.1]).value)


def test_a_sample_that_separates_perfectly_has_a_value_but_no_interval() -> None:
    found = auroc([[0.8, 0.9]], [[0.1, 0.2]], [1.0], [1.0])
    assert found.value == 1
    assert np.isnan([found.low, found.high]).all()


def test_the_variance_is_that_of_the_structural_components() -> None:
    """By hand: of the activating windows 1 and ½ of the others lie below, of these 1 and ½ above."""
    found = auroc([[0.9, 0.5]], [[0.6, 0.1]], [1.0], [1.0])
    error = np.sqrt(np.var([1.0, 0.5], ddof=1) / 2 + np.var([0.5, 1.0], ddof=1) / 2)
    reach = 1.959964 * error / (0.75 * 0.25)
    assert found.value == pytest.approx(0.75)
    assert np.log(found.high / (1 - found.high)) == pytest.approx(np.log(3) + reach, abs=1e-5)


def test_many_latents_at_once_give_what_each_gives_alone() -> None:
    rng = np.random.default_rng(1)
    rows = [([rng.random(4), rng.random(3)], [rng.random(5), rng.random(2)]) for _ in range(5)]
    together = ranking(rows, [0.5, 0.5], [0.9, 0.1]).auroc()
    for i, (up, down) in enumerate(rows):
        alone = auroc(up, down, [0.5, 0.5], [0.9, 0.1])
        assert [alone.value, alone.low, alone.high] == pytest.approx(
            [together.value[i], together.low[i], together.high[i]]
        )


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_the_value_is_the_weighted_share_of_pairs_won(data: st.DataObject) -> None:
    scores = st.lists(st.sampled_from([0.1, 0.3, 0.5, 0.7]), min_size=1, max_size=5)
    up, down = ([data.draw(scores) for _ in range(2)] for _ in range(2))
    u, v = (0.5, 0.5), (0.8, 0.2)
    pairs = [
        (wu / len(us) * wv / len(vs), (p > q) + 0.5 * (p == q))
        for us, wu in zip(up, u, strict=True)
        for vs, wv in zip(down, v, strict=True)
        for p in us
        for q in vs
    ]
    found = auroc(up, down, u, v)
    assert found.value == pytest.approx(sum(w * won for w, won in pairs))
    if not np.isnan(found.low):
        assert 0 <= found.low <= found.value <= found.high <= 1


def precision_at(
    threshold: float, up: Cells, down: Cells, u: Sequence[float], v: Sequence[float], rate: float
) -> float:
    hits, alarms = (
        sum(w * np.mean(np.asarray(cell) >= threshold) for cell, w in zip(cells, weights, strict=True))
        for cells, weights in ((up, u), (down, v))
    )
    return float(rate * hits / (rate * hits + (1 - rate) * alarms))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_average_precision_is_the_mean_precision_at_the_activating_windows(data: st.DataObject) -> None:
    scores = st.lists(st.sampled_from([0.1, 0.3, 0.5, 0.7]), min_size=1, max_size=5)
    up, down = ([data.draw(scores) for _ in range(2)] for _ in range(2))
    u, v, rate = (0.5, 0.5), (0.8, 0.2), 0.03
    expected = sum(
        w / len(cell) * precision_at(p, up, down, u, v, rate) for cell, w in zip(up, u, strict=True) for p in cell
    )
    found = ranking([(up, down)], u, v).average_precision(np.array([rate]))
    assert found.value[0] == pytest.approx(expected)


def test_average_precision_of_a_judge_that_says_the_same_of_all_is_the_context_rate() -> None:
    found = ranking([([[0.5] * 4], [[0.5] * 9])], [1.0], [1.0]).average_precision(np.array([0.02]))
    assert found.value[0] == pytest.approx(0.02)


def test_intervals_cover_the_truth() -> None:
    """Normal scores one standard deviation apart: AUROC = Φ(1/√2) = 0.760; AP by a large sample."""
    rng = np.random.default_rng(5)

    def drawn(n: int, up: int, down: int) -> Ranking:
        normal = [
            ([rng.normal(1, 1, up), rng.normal(1, 1, up)], [rng.normal(0, 1, down), rng.normal(0, 1, down)])
            for _ in range(n)
        ]
        return ranking(normal, [0.5, 0.5], [0.6, 0.4])

    many, rate = drawn(400, 20, 30), np.full(400, 0.3)
    area, precision = many.auroc(), many.average_precision(rate)
    truth = drawn(1, 100_000, 100_000).average_precision(rate[:1]).value[0]
    assert np.mean((area.low <= 0.760) & (area.high >= 0.760)) > 0.92
    assert np.mean((precision.low <= truth) & (precision.high >= truth)) > 0.9


@given(
    st.lists(st.tuples(st.integers(0, 5), st.sampled_from([0.0, -0.5, 0.25, 1.0, np.inf])), max_size=40), st.booleans()
)
def test_the_order_within_groups_is_lexsorts(items: list[tuple[int, float]], together: bool) -> None:
    items = sorted(items, key=lambda item: item[0]) if together else items
    group = np.array([group for group, _ in items], dtype=np.int64)
    key = np.array([key for _, key in items], dtype=np.float64)
    np.testing.assert_array_equal(order_within(group, key), np.lexsort((key, group)))
