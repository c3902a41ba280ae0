import numpy as np
import torch

from outcrop.coders.placed import PlacedCoder
from outcrop.config import ExamplesConfig, SelectConfig
from outcrop.latents.neighbours import find_neighbours
from outcrop.latents.outputs import on_residual_stream, outputs
from outcrop.latents.survey import survey
from outcrop.latents.table import statistics_table
from outcrop.model.load import LanguageModel
from outcrop.model.tokens import vocabulary
from outcrop.types import CoderKey, Hookpoint
from tests.latents.conftest import WINDOW, Cached


def test_only_what_is_added_to_the_residual_stream_is_on_it(model: LanguageModel) -> None:
    found = {
        path: on_residual_stream(model, Hookpoint.parse(path))
        for path in (
            "model.layers.1",
            "model.layers.0.mlp",
            "model.layers.0.self_attn",
            "model.layers.1:input",
            "model.layers.0.mlp.up_proj",
            "model.layers.0.input_layernorm",
            "model.norm",
            "lm_head",
        )
    }
    assert [path for path, there in found.items() if there] == [
        "model.layers.1",
        "model.layers.0.mlp",
        "model.layers.0.self_attn",
    ]


@torch.no_grad()
def test_raised_and_lowered_tokens_are_those_of_the_norm_and_the_unembedding(
    cached: Cached, model: LanguageModel
) -> None:
    found = outputs(model, cached.placed, n=5)
    assert found is not None
    gain, head = model.module.model.norm.weight.float(), model.module.lm_head.weight.float()
    for latent in range(0, 256, 31):
        row = cached.placed.coder.decoder_rows()[latent]
        logits = (head @ (gain * row / row.pow(2).mean().sqrt())).numpy()
        order = np.argsort(-logits, kind="stable")
        np.testing.assert_allclose(found.raised_logit[latent], logits[order[:5]], rtol=2e-2, atol=1e-3)
        np.testing.assert_allclose(found.lowered_logit[latent], logits[order[::-1][:5]], rtol=2e-2, atol=1e-3)
        np.testing.assert_allclose(logits[found.raised[latent]], logits[order[:5]], rtol=2e-2, atol=1e-3)


def test_a_coder_off_the_residual_stream_raises_nothing(cached: Cached, model: LanguageModel) -> None:
    inside = Hookpoint.parse("model.layers.0.mlp.up_proj")
    elsewhere = PlacedCoder(CoderKey("topk", inside, inside, 0), cached.placed.coder)
    assert outputs(model, elsewhere) is None


def test_the_table_holds_every_latent_with_its_statistics(cached: Cached, model: LanguageModel) -> None:
    words, n = vocabulary(model.tokenizer), cached.cache.n_latents
    one = survey(cached.cache, words, SelectConfig(n_latents=4), ExamplesConfig(), window_tokens=WINDOW)
    near = find_neighbours(cached.cache, np.arange(n), "jaccard", 3)
    table = statistics_table(one, {"jaccard": near}, outputs(model, cached.placed))
    rows = table.to_pylist()
    assert [row["latent"] for row in rows] == list(range(n))
    for row in rows[::17]:
        latent, own = row["latent"], one.statistics.triggers.of(row["latent"])
        assert row["n_fired"] == one.statistics.n_fired[latent]
        assert (row["max_activation"] is None) == (row["n_fired"] == 0)
        assert row["triggers"] == [words.text([token]) for token in one.statistics.triggers.token[own].tolist()]
        assert row["histogram"] == one.statistics.histogram[latent].tolist()
        assert row["jaccard_neighbours"] == near.of_latent(latent)[0].tolist()
        assert len(row["raises"]) == len(row["raises_logit"]) == 10
    without = statistics_table(one, {}, None)
    assert "raises" not in without.column_names and "jaccard_neighbours" not in without.column_names
