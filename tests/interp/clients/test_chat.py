"""Expected values of the numbers that a model writes."""

from __future__ import annotations

import math

import pytest

from outcrop.interp.clients.chat import expected_numbers


def place(**probabilities: float) -> list[tuple[str, float]]:
    """The likeliest tokens: n3 is the token 3, s3 the same with a space before it, anything else a word."""
    texts = {name: name[1:] if name[0] == "n" else f" {name[1:]}" if name[0] == "s" else name for name in probabilities}
    return [(texts[name], math.log(p)) for name, p in probabilities.items()]


OTHER = place(x=1.0)


def test_a_number_is_expected_by_what_might_have_stood_there() -> None:
    written = ["[", "0", ",", " 10", "]"]
    places = [OTHER, place(n0=0.5, n10=0.2, s10=0.1, n1=0.1, x=0.1), OTHER, place(s10=0.6, n4=0.2, n11=0.1), OTHER]
    found = expected_numbers(written, places, 10)
    assert found == pytest.approx(((3 + 0.1) / 0.9, (6 + 0.8) / 0.8))


def test_where_digits_are_written_one_by_one_a_one_is_parted_by_what_follows_it() -> None:
    written = ["[", "1", "0", ",", "1", ",", "0", "]"]
    ten, one = place(n0=0.8, x=0.2), place(n0=0.3, x=0.7)
    places = [OTHER, place(n1=0.9, n0=0.1), ten, OTHER, place(n1=0.5, n3=0.5), one, place(n0=0.75, n1=0.25), OTHER]
    found = expected_numbers(written, places, 10)
    assert found == pytest.approx((0.9 * (0.8 * 10 + 0.2), 0.5 * (0.3 * 10 + 0.7) + 1.5, 2.5))


def test_a_place_without_probable_numbers_has_the_number_that_was_written() -> None:
    written = ["1", "0", " ", "7"]
    places = [place(x=0.99, n1=0.001), place(x=0.99), OTHER, place(x=0.99)]
    assert expected_numbers(written, places, 10) == (10.0, 7.0)


@pytest.mark.parametrize("written", [["[0", ",", "1]"], ["0,", "1"], ["3.5"]])
def test_numbers_that_share_a_token_with_something_else_have_none(written: list[str]) -> None:
    assert expected_numbers(written, [place(n0=1.0)] * len(written), 10) is None


def test_what_are_no_probabilities_is_refused() -> None:
    with pytest.raises(ValueError, match="more than 1 together"):
        expected_numbers(["0"], [place(n0=0.9, n1=0.9)], 10)


def test_an_answer_without_numbers_has_none_to_expect() -> None:
    assert expected_numbers(["none", "!"], [OTHER, OTHER], 10) == ()
