"""Other libraries' coders: each of their layouts on disk, to and from one `Dictionary`.

    dictionary            what all of them hold: encoder, selection, decoder
    files                 their files → configuration and tensors
    sparsify              cfg.json, sae.safetensors            read and written
    saelens               cfg.json, sae_weights.safetensors    read and written
    gemma_scope           params.npz or params.safetensors     read
    dictionary_learning   config.json, ae.pt                   read

A layout is recognised by the file that holds its weights.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from outcrop.coders.formats import dictionary_learning, gemma_scope, saelens, sparsify
from outcrop.coders.formats.dictionary import Dictionary

READERS: dict[str, Callable[[Path], Dictionary]] = {
    sparsify.WEIGHTS: sparsify.read,
    saelens.WEIGHTS: saelens.read,
    gemma_scope.WEIGHTS: gemma_scope.read,
    gemma_scope.WEIGHTS_2: gemma_scope.read_2,
    dictionary_learning.WEIGHTS: dictionary_learning.read,
}
"""The file with the weights → what reads its directory."""

FILES = (
    *READERS,
    sparsify.CONFIG,
    dictionary_learning.CONFIG,
    saelens.SCALE,
)
"""All that is ever read of a coder's directory."""
