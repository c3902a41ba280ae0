"""Foreign text made visible, and numbers that never round to what was not reached."""

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from outcrop.report.text import foreign, interval, number, one_in, percent, probability, visible, visible_token


def test_whitespace_and_hidden_characters_become_signs() -> None:
    assert visible("a\n\tb\u202ec\u0000\ufeff", 99) == "a↵⇥b⟨U+202E⟩c⟨U+0000⟩⟨U+FEFF⟩"
    assert visible("a lone surrogate \ud800", 99) == "a lone surrogate ⟨U+D800⟩"
    assert visible("a\u00a0b\u3000c\u3164d\U000e0141 e", 99) == "a⟨U+00A0⟩b⟨U+3000⟩c⟨U+3164⟩d⟨U+E0141⟩ e"


def test_a_token_of_spaces_is_seen_and_other_spaces_are_left() -> None:
    assert visible_token("   ") == "␣␣␣"
    assert visible_token(" dog") == " dog"


def test_long_text_is_cut_and_says_so() -> None:
    assert visible("x" * 100_000, 3) == "xxx⟨99,997 more characters⟩"
    note = "⟨21 more characters⟩"
    assert visible("x" * 23, 3) == "x" * 23, "the note would be as long"
    assert visible("x" * 24, 3) == f"xxx{note}" and len(note) == 20


@given(st.text())
def test_no_markup_and_no_hidden_character_survives(text: str) -> None:
    shown = foreign(text).replace('<span class="sign">', "").replace("</span>", "")
    assert "<" not in shown
    assert '"' not in shown
    assert not any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp", "Zs") for c in shown.replace(" ", ""))
    shown.encode("utf-8")


def test_a_probability_near_a_half_shows_on_which_side_it_is() -> None:
    assert [probability(p) for p in (0.5001, 0.4986, 0.51, 0.2, 1.0)] == ["0.5001", "0.4986", "0.51", "0.20", "1.00"]


def test_numbers_near_the_ends_are_not_rounded_onto_them() -> None:
    assert [number(x) for x in (0.0, 1.0, 0.995, 0.99995, 0.0004, -0.25, -17.31, None)] == [
        "0.00", "1.00", "0.9950", ">0.9999", "4.0×10⁻⁴", "−0.25", "−17.3", "—",
    ]  # fmt: skip


def test_differences_that_are_only_rounding_are_zero() -> None:
    assert number(-1.1e-17) == "0.00"


def test_intervals_are_rounded_outwards() -> None:
    assert interval({"low": 0.896, "high": 0.9917}) == "[0.89, 1.00]"
    assert interval({"low": 0.002, "high": 0.05}) == "[0.002, 0.05]"
    assert interval({"low": None, "high": None}) == "no interval"


def test_shares_are_never_all_or_nothing_unless_they_are() -> None:
    assert [percent(x) for x in (0.0, 1e-5, 0.123, 0.99999, 1.0)] == ["0.0%", "<0.1%", "12.3%", ">99.9%", "100.0%"]
    assert [one_in(x) for x in (0.00125, 0.5, 0.0)] == ["1 in 800", "50.0%", "0.0%"]
