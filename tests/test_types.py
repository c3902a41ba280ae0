import pytest
from hypothesis import given
from hypothesis import strategies as st

from outcrop.errors import ConfigError
from outcrop.types import CoderKey, Hookpoint, Message, Request, Vocabulary

PATHS = st.text("abc._/-%, ü", min_size=1)


@given(st.text(min_size=1), PATHS, st.sampled_from(["input", "output"]), st.integers(0, 10**9))
def test_a_coder_key_comes_back_from_its_file_name(setting: str, path: str, side: str, seed: int) -> None:
    key = CoderKey(setting, Hookpoint(path, side), Hookpoint(path), seed)  # type: ignore[arg-type]
    assert CoderKey.parse(str(key)) == key
    assert "/" not in str(key)


def test_the_input_side_is_written_behind_the_path() -> None:
    assert str(Hookpoint("model.layers.3.mlp", "input")) == "model.layers.3.mlp:input"
    assert Hookpoint.parse("model.layers.3.mlp:input") == Hookpoint("model.layers.3.mlp", "input")


def test_a_mistyped_side_is_refused() -> None:
    with pytest.raises(ConfigError, match="inptu"):
        Hookpoint.parse("model.layers.3:inptu")


@given(st.text(max_size=30), st.lists(st.integers(1, 3), max_size=40))
def test_token_strings_join_to_the_text_however_it_is_cut(text: str, cuts: list[int]) -> None:
    data, pieces = text.encode("utf-8", "ignore"), []
    for cut in cuts:
        pieces.append(data[:cut])
        data = data[cut:]
    pieces.append(data)
    vocabulary = Vocabulary(tuple(pieces))
    tokens = list(range(len(pieces)))
    assert len(vocabulary.strings(tokens)) == len(tokens)
    assert vocabulary.text(tokens) == text.encode("utf-8", "ignore").decode()


def test_a_broken_character_is_shown_as_such() -> None:
    assert Vocabulary((b"\xc3", b"a")).strings([0, 1]) == ["", "\ufffda"]
    assert Vocabulary((b"\xc3",)).strings([0]) == ["\ufffd"]


def test_a_request_hash_covers_messages_sampling_and_model() -> None:
    def request(text: str = "a", **other: object) -> Request:
        return Request((Message("user", text),), 8, **other)  # type: ignore[arg-type]

    hashes = {
        request().hash("m"),
        request().hash("n"),
        request("b").hash("m"),
        request(labels=("Yes",)).hash("m"),
        request(temperature=0.5).hash("m"),
        request(seed=1).hash("m"),
    }
    assert len(hashes) == 6
    assert request().hash("m") == request().hash("m")
