import numpy as np
import pytest
import torch

from outcrop.errors import CoderError
from outcrop.latents import neighbours as module
from outcrop.latents.neighbours import find_neighbours
from tests.latents.conftest import Cached


def alike(cached: Cached, measure: str) -> np.ndarray:
    """[a b], by the definition, -inf where b is no possible neighbour of a."""
    fires = (cached.dense > 0)[cached.eligible]
    n, total = fires.sum(axis=0).astype(float), len(fires)
    both = fires.T.astype(float) @ fires
    with np.errstate(divide="ignore", invalid="ignore"):
        match measure:
            case "jaccard":
                like = both / (n[:, None] + n - both)
            case "npmi":
                like = np.log((both / total) / (n[:, None] / total * n / total)) / -np.log(both / total)
            case _:
                rows = getattr(cached.placed.coder, f"{measure}_rows")().detach()
                rows = torch.nn.functional.normalize(rows, dim=1)
                like = (rows @ rows.T).numpy()
    if measure in ("jaccard", "npmi"):
        like[both == 0] = -np.inf
    like[:, (n == 0) | (n > 0.1 * total)] = -np.inf
    np.fill_diagonal(like, -np.inf)
    return like


@pytest.mark.parametrize("measure", ["jaccard", "npmi", "decoder", "encoder"])
@pytest.mark.parametrize("few", [False, True], ids=["all latents", "some latents"])
def test_neighbours_are_those_of_a_count_by_hand_over_all_layers(
    measure: str, few: bool, cached: Cached, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PAIRS", 2_000)  # several blocks
    latents = np.array([3, 40, 130, 201]) if few else np.arange(cached.cache.n_latents)
    found, like = find_neighbours(cached.cache, latents, measure, 10), alike(cached, measure)  # type: ignore[arg-type]
    n_found, across = 0, 0
    for row, latent in enumerate(latents.tolist()):
        others, similarity = found.of_latent(latent)
        expected = np.sort(like[latent])[::-1][:10]
        expected = expected[expected > -np.inf]
        assert len(set(others.tolist())) == len(others) == len(expected)
        np.testing.assert_allclose(similarity, expected, atol=1e-5)
        np.testing.assert_allclose(like[latent, others], expected, atol=1e-5)
        assert (found.latent[row, len(others) :] == -1).all() and np.isnan(found.similarity[row, len(others) :]).all()
        n_found += len(others)
        across += int(((others < 128) != (latent < 128)).sum())
    assert n_found > len(latents) and across, "layers of a stack are not kept apart"


@pytest.mark.parametrize("measure", ["jaccard", "decoder"])
def test_of_no_latents_there_are_no_neighbours(measure: str, cached: Cached) -> None:
    assert len(find_neighbours(cached.cache, np.empty(0, np.int64), measure).latent) == 0  # type: ignore[arg-type]


def test_rows_behind_dense_layers_have_no_encoder_neighbours(cached: Cached) -> None:
    from outcrop.coders.stack import SparseStack
    from outcrop.config import Architecture

    with pytest.raises(CoderError, match="compare decoder rows"):
        SparseStack(Architecture(n_latents=8, k=2, encoder_widths=(16,)), 4).encoder_rows()
