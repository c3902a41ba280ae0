from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from outcrop.config import CacheConfig
from outcrop.errors import CorruptError
from outcrop.latents.cache import LatentCache, cache_latents
from outcrop.model.corpus import Corpus
from outcrop.model.load import LanguageModel
from tests.latents.conftest import Cached


def shards(cached: Cached) -> list[Path]:
    return sorted((cached.directory / str(cached.placed.key)).glob("shard_*.safetensors"))


def copied(cached: Cached, directory: Path) -> Path:
    """The shards' folder in a directory of its own, to be damaged."""
    target = directory / str(cached.placed.key)
    target.mkdir()
    for path in shards(cached):
        (target / path.name).write_bytes(path.read_bytes())
    return target


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
    for shard in cache.shards:
        latent, position, value = shard.read(5, 131)
        for one in range(5, 131):
            alone = shard.read(one, one + 1)
            assert np.array_equal(position[latent == one], alone[1])
            assert np.array_equal(value[latent == one], alone[2])


def test_a_shard_holds_whole_documents(cached: Cached) -> None:
    corpus = cached.cache.corpus
    ends = [shard.stop for shard in cached.cache.shards[:-1]]
    assert all(corpus.document_of[end - 1] != corpus.document_of[end] for end in ends)


def part_of(corpus: Corpus, n_documents: int) -> Corpus:
    n_contexts = int((corpus.context_document < n_documents).sum())
    n = int(corpus.context_start[n_contexts])
    return Corpus(
        corpus.tokens[:n],
        corpus.context_start[: n_contexts + 1],
        corpus.context_document[:n_contexts],
        corpus.eligible[:n],
    )


def test_text_put_behind_leaves_all_shards_but_the_last_and_gives_the_cache_of_the_whole(
    cached: Cached, model: LanguageModel, corpora: dict[str, Corpus], tmp_path: Path
) -> None:
    whole, config = corpora["cache"], CacheConfig(shard_tokens=700)
    cache_latents(
        model, part_of(whole, 2 * whole.n_documents // 3), [cached.placed], tmp_path, config, batch_tokens=200
    )
    folder = tmp_path / str(cached.placed.key)
    before = {path: path.stat().st_mtime_ns for path in sorted(folder.iterdir())[:-1]}
    cache_latents(model, whole, [cached.placed], tmp_path, config, batch_tokens=200)
    assert len(before) >= 2 and all(path.stat().st_mtime_ns == then for path, then in before.items())
    assert [path.read_bytes() for path in sorted(folder.iterdir())] == [path.read_bytes() for path in shards(cached)]


def test_every_altered_byte_of_a_shard_is_found_and_the_shard_named(
    cached: Cached, corpora: dict[str, Corpus], tmp_path: Path
) -> None:
    target = copied(cached, tmp_path)
    LatentCache(tmp_path, cached.placed, corpora["cache"]).verify()
    victim = sorted(target.iterdir())[-1]  # the shortest
    whole = victim.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    places = [*range(0, header, 3), *range(header, len(whole), 97)]
    assert len(places) > 150
    for place in places:
        altered = bytearray(whole)
        altered[place] ^= 1
        victim.write_bytes(bytes(altered))
        with pytest.raises(CorruptError, match=victim.name):
            LatentCache(tmp_path, cached.placed, corpora["cache"]).verify()


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
    paths = sorted((tmp_path / str(cached.placed.key)).iterdir())
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in paths}
    paths[1].unlink()
    cache()
    assert paths[1].read_bytes() == before[paths[1]][0]
    assert all(path.stat().st_mtime_ns == before[path][1] for path in paths if path != paths[1])


def test_a_missing_truncated_or_foreign_shard_is_named(
    cached: Cached, corpora: dict[str, Corpus], tmp_path: Path
) -> None:
    target = copied(cached, tmp_path)
    victim = sorted(target.iterdir())[1]
    whole = victim.read_bytes()
    victim.write_bytes(whole[:-10])
    with pytest.raises(CorruptError, match=f"{victim.name} is truncated or altered"):
        LatentCache(tmp_path, cached.placed, corpora["cache"])
    victim.unlink()
    with pytest.raises(CorruptError, match=r"begins at token .* one is missing"):
        LatentCache(tmp_path, cached.placed, corpora["cache"])
    victim.write_bytes(whole)
    with pytest.raises(CorruptError, match="over another text"):
        LatentCache(tmp_path, cached.placed, corpora["train"])
    LatentCache(tmp_path, cached.placed, corpora["cache"])


def test_shards_of_another_language_model_are_cached_again_and_none_stands_among_ours(
    cached: Cached, model: LanguageModel, corpora: dict[str, Corpus], tmp_path: Path
) -> None:
    target, config = copied(cached, tmp_path), CacheConfig(shard_tokens=700)
    ours = {path: path.read_bytes() for path in sorted(target.iterdir())}
    other = replace(model, identity="another-model")
    cache_latents(other, corpora["cache"], [cached.placed], tmp_path, config, batch_tokens=200)
    first, second, *_ = ours
    assert all(path.read_bytes() != data for path, data in ours.items())
    LatentCache(tmp_path, cached.placed, corpora["cache"]).verify()
    second.write_bytes(ours[second])
    with pytest.raises(CorruptError, match=rf"{second.name} was cached from .* but {first.name} from another-model"):
        LatentCache(tmp_path, cached.placed, corpora["cache"])


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
