from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from outcrop.config import CacheConfig
from outcrop.errors import CorruptError
from outcrop.latents.cache import cache_latents, open_cache
from outcrop.model.corpus import Corpus
from outcrop.model.load import LanguageModel
from tests.latents.conftest import Cached


def shards(cached: Cached) -> list[Path]:
    return sorted((cached.directory / str(cached.placed.key)).glob("*.safetensors"))


def test_the_cache_equals_the_dense_computation_position_by_position(cached: Cached) -> None:
    assert len(shards(cached)) > 3
    for latent in range(cached.cache.n_latents):
        firings = cached.cache[latent]
        expected = np.flatnonzero(cached.dense[:, latent])
        assert np.array_equal(firings.position, expected), f"latent {latent}"
        np.testing.assert_allclose(firings.value, cached.dense[expected, latent], rtol=2e-3)


def test_excluded_tokens_are_those_of_the_text_and_the_sinks(cached: Cached) -> None:
    assert np.array_equal(cached.cache.eligible, cached.eligible)
    assert (cached.eligible != cached.cache.corpus.eligible).any()  # some sinks were there to be excluded


def test_counts_and_ranges_of_latents_agree_with_single_reads(cached: Cached) -> None:
    cache = cached.cache
    assert np.array_equal(cache.n_fired, (cached.dense > 0).sum(axis=0))
    latent, firings = cache.read(5, 131)
    for one in range(5, 131):
        assert np.array_equal(firings.position[latent == one], cache[one].position)
        assert np.array_equal(firings.value[latent == one], cache[one].value)


def test_a_shard_is_sorted_and_holds_no_zero(cached: Cached) -> None:
    for path in shards(cached):
        tensors = load_file(path)
        assert tensors["position"].dtype == np.uint32 and tensors["value"].dtype == np.float16
        assert (tensors["value"] > 0).all() and np.isfinite(tensors["value"]).all()
        for start, stop in zip(tensors["indptr"][:-1], tensors["indptr"][1:], strict=True):
            assert (np.diff(tensors["position"][start:stop].astype(np.int64)) > 0).all()


def test_caching_again_writes_only_what_is_missing(
    cached: Cached, model: LanguageModel, corpora: dict[str, Corpus], tmp_path: Path
) -> None:
    def cache() -> None:
        cache_latents(
            model, corpora["cache"], [cached.placed], tmp_path, CacheConfig(shard_tokens=700), batch_tokens=200
        )

    cache()
    paths = sorted((tmp_path / str(cached.placed.key)).glob("*.safetensors"))
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in paths}
    paths[1].unlink()
    cache()
    assert paths[1].read_bytes() == before[paths[1]][0]
    assert all(path.stat().st_mtime_ns == before[path][1] for path in paths if path != paths[1])


def test_a_missing_truncated_or_foreign_shard_is_named(
    cached: Cached, corpora: dict[str, Corpus], tmp_path: Path
) -> None:
    target = tmp_path / str(cached.placed.key)
    target.mkdir()
    for path in shards(cached):
        (target / path.name).write_bytes(path.read_bytes())
    victim = sorted(target.iterdir())[1]
    whole = victim.read_bytes()
    victim.write_bytes(whole[:-10])
    with pytest.raises(CorruptError, match=f"{victim.name} is truncated or altered"):
        open_cache(tmp_path, cached.placed, corpora["cache"])
    victim.unlink()
    with pytest.raises(CorruptError, match="lacks the shard that begins at token"):
        open_cache(tmp_path, cached.placed, corpora["cache"])
    victim.write_bytes(whole)
    with pytest.raises(CorruptError, match="over another text"):
        open_cache(tmp_path, cached.placed, corpora["train"])
    open_cache(tmp_path, cached.placed, corpora["cache"])


def test_a_stack_without_any_firing_is_cached(
    cached: Cached, model: LanguageModel, corpora: dict[str, Corpus], tmp_path: Path
) -> None:
    import copy

    import torch

    silent = copy.deepcopy(cached.placed)
    with torch.no_grad():
        for layer in silent.coder.layers:
            layer.encoder_bias.fill_(-1e6)
    (cache,) = cache_latents(model, corpora["cache"], [silent], tmp_path, CacheConfig(shard_tokens=700))
    assert cache.n_fired.sum() == 0
    assert len(cache[3].position) == 0
