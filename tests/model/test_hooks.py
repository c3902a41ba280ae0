from typing import Any

import numpy as np
import pytest
import torch

from outcrop.errors import HookpointError, NonFiniteError
from outcrop.model.activations import activations, padded_batches
from outcrop.model.corpus import Corpus
from outcrop.model.hooks import capture, find_hookpoints, hookpoint_widths, place_widths, replaced
from outcrop.model.load import LanguageModel
from outcrop.types import Hookpoint

TOKENS = torch.arange(1, 13).view(1, 12)


def test_a_wildcard_finds_modules_in_the_models_order(model: LanguageModel) -> None:
    found = find_hookpoints(model.module, ["model.layers.*.mlp", "model.layers.0"])
    assert [str(h) for h in found] == ["model.layers.0", *(f"model.layers.{i}.mlp" for i in range(3))]


def test_a_path_does_not_match_those_that_begin_with_it(model: LanguageModel) -> None:
    assert [str(h) for h in find_hookpoints(model.module, ["model.layers.1"])] == ["model.layers.1"]


def test_a_wildcard_crosses_no_dot(model: LanguageModel) -> None:
    found = find_hookpoints(model.module, ["model.layers.*"])
    assert [str(h) for h in found] == [f"model.layers.{i}" for i in range(3)]


def test_a_module_without_a_vector_per_token_is_refused(model: LanguageModel) -> None:
    with pytest.raises(HookpointError, match="does not carry one vector per token"):
        capture(model, TOKENS, [Hookpoint("model")])


def test_an_unknown_hookpoint_names_the_nearest(model: LanguageModel) -> None:
    with pytest.raises(HookpointError, match=r"'model\.layers\.1\.mpl'.*model\.layers\.1\.mlp"):
        find_hookpoints(model.module, ["model.layers.1.mpl"])


def test_widths_tell_both_sides(model: LanguageModel) -> None:
    widths = hookpoint_widths(model)
    assert widths[Hookpoint("model.layers.1")] == 32
    assert widths[Hookpoint("model.layers.1.mlp.gate_proj")] == 64
    assert widths[Hookpoint("model.layers.1.mlp.down_proj", "input")] == 64


def test_what_is_captured_is_the_hidden_state(model: LanguageModel) -> None:
    hookpoint = Hookpoint("model.layers.1")
    states = model.module(input_ids=TOKENS, output_hidden_states=True).hidden_states
    torch.testing.assert_close(capture(model, TOKENS, [hookpoint])[hookpoint], states[2])
    inside = Hookpoint("model.layers.1", "input")
    torch.testing.assert_close(capture(model, TOKENS, [inside])[inside], states[1])


def test_what_is_captured_stays_as_it_passed(model: LanguageModel) -> None:
    first, second = Hookpoint("model.layers.0"), Hookpoint("model.layers.1")
    alone = capture(model, TOKENS, [first])[first]

    def double(_: Any, args: tuple[torch.Tensor, ...]) -> None:
        args[0].mul_(2)

    doubles = model.module.model.layers[1].register_forward_pre_hook(double)
    together = capture(model, TOKENS, [first, second])[first]
    doubles.remove()
    torch.testing.assert_close(together, alone)


def test_a_transcoder_cannot_predict_what_comes_before_its_source(model: LanguageModel) -> None:
    first, second = Hookpoint("model.layers.0"), Hookpoint("model.layers.1")
    assert place_widths(model, [(first, second), (first, first)])
    with pytest.raises(HookpointError, match=r"reaches model\.layers\.0 before model\.layers\.1"):
        place_widths(model, [(second, first)])


def test_a_forward_pass_stops_after_the_last_hookpoint(model: LanguageModel) -> None:
    ran: list[int] = []
    hooks = [
        layer.register_forward_hook(lambda *_, i=i: ran.append(i)) for i, layer in enumerate(model.module.model.layers)
    ]
    capture(model, TOKENS, [Hookpoint("model.layers.0"), Hookpoint("model.layers.1.mlp")])
    for hook in hooks:
        hook.remove()
    assert ran == [0]


def test_a_replaced_hookpoint_changes_the_rest_of_the_model_and_only_within(model: LanguageModel) -> None:
    clean = model.module(input_ids=TOKENS).logits
    for hookpoint in (Hookpoint("model.layers.1"), Hookpoint("model.layers.1", "input")):
        with replaced(model, hookpoint, torch.zeros_like):
            assert not torch.allclose(model.module(input_ids=TOKENS).logits, clean)
        with replaced(model, hookpoint, torch.clone):
            torch.testing.assert_close(model.module(input_ids=TOKENS).logits, clean)
    torch.testing.assert_close(model.module(input_ids=TOKENS).logits, clean)


def test_padding_changes_no_activation(model: LanguageModel, corpora: dict[str, Corpus]) -> None:
    corpus, hookpoint = corpora["cache"], Hookpoint("model.layers.1")
    together = list(activations(model, corpus, range(20), [hookpoint], batch_tokens=400))
    alone = [next(activations(model, corpus, range(c, c + 1), [hookpoint], batch_tokens=1)) for c in range(20)]
    position = np.concatenate([batch.position for batch in together])
    values = torch.cat([batch.at[hookpoint] for batch in together])[np.argsort(position)]
    assert np.array_equal(np.sort(position), np.concatenate([batch.position for batch in alone]))
    torch.testing.assert_close(values, torch.cat([batch.at[hookpoint] for batch in alone]), atol=1e-4, rtol=1e-4)


def test_batches_stay_below_their_bound_and_hold_every_context_once(corpora: dict[str, Corpus]) -> None:
    corpus = corpora["cache"]
    batches = list(padded_batches(corpus, range(3, 40), 150))
    assert max(batch.tokens.numel() for batch in batches) <= 150
    positions = np.concatenate([batch.position[batch.position >= 0] for batch in batches])
    expected = np.arange(corpus.context_start[3], corpus.context_start[40])
    assert np.array_equal(np.sort(positions), expected)


def test_nan_activations_name_the_hookpoint_and_the_batch(model: LanguageModel, corpora: dict[str, Corpus]) -> None:
    hookpoint = Hookpoint("model.layers.1")
    with (
        replaced(model, Hookpoint("model.layers.0"), lambda x: x * float("nan")),
        pytest.raises(NonFiniteError, match=r"model\.layers\.1 gave NaN.*batch of contexts (\d, ){3}\d …"),
    ):
        list(activations(model, corpora["cache"], range(5), [hookpoint], 10_000))
