"""Coders of SAELens's with random weights, and what SAELens makes of random inputs; Gemma Scope's by its loaders.

python -m venv saelens && saelens/bin/pip install torch==2.13.0 sae-lens==6.54.12
saelens/bin/python tests/coders/peers/make_saelens.py
"""

import json
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from sae_lens import SAE
from sae_lens.loading import pretrained_sae_loaders as loaders
from sae_lens.registry import get_sae_class, get_sae_training_class
from sae_lens.training.activation_scaler import ActivationScaler
from safetensors.torch import load_file, save_file

DATA = Path(__file__).parent / "data"
WIDTH, LATENTS, OUT = 8, 24, 12
SHAPE = {"d_in": WIDTH, "d_sae": LATENTS}
TRANSCODER = {"d_out": OUT, "apply_b_dec_to_input": False}

FOR_INFERENCE = {
    "standard": {},
    "topk": {"k": 4, "apply_b_dec_to_input": False},
    "topk_rescaled": {"architecture": "topk", "k": 4, "rescale_acts_by_decoder_norm": True},
    "jumprelu": {},
    "jumprelu_plain": {"architecture": "jumprelu", "apply_b_dec_to_input": False},
    "gated": {},
    "transcoder": TRANSCODER,
    "skip_transcoder": TRANSCODER,
    "jumprelu_transcoder": TRANSCODER,
    "jumprelu_skip_transcoder": TRANSCODER,
}
IN_TRAINING = {
    "batchtopk": {"k": 4.0},
    "matryoshka_batchtopk": {"k": 4.0, "matryoshka_widths": [6, 12, 24]},
}


def main() -> None:
    torch.manual_seed(0)
    for kind, settings in FOR_INFERENCE.items():
        for_inference(kind, {"architecture": kind, **settings})
    for kind, settings in IN_TRAINING.items():
        in_training(kind, settings)
    scaled_checkpoint()
    gemma_scope()
    gemma_scope_2()


def randomised(sae: torch.nn.Module) -> torch.nn.Module:
    for parameter in sae.parameters():
        parameter.copy_(0.5 * torch.randn(parameter.shape))
    if hasattr(sae, "topk_threshold"):
        sae.topk_threshold.fill_(0.7)
    return sae


def record(directory: Path, x: torch.Tensor, codes: torch.Tensor, output: torch.Tensor) -> None:
    save_file({"x": x, "codes": codes.contiguous(), "output": output}, directory / "outputs.safetensors")


def for_inference(kind: str, settings: dict) -> None:
    sae_class, config_class = get_sae_class(settings["architecture"])
    fields = {name: value for name, value in settings.items() if name != "architecture"}
    sae, x, directory = randomised(sae_class(config_class(**SHAPE, **fields))), torch.randn(16, WIDTH), saved_at(kind)
    sae.save_model(directory)
    loaded = SAE.load_from_disk(directory)
    record(directory, x, loaded.encode(x), loaded(x))


def in_training(kind: str, settings: dict) -> None:
    """Saved for inference, and the checkpoint of the training; both do the same."""
    sae_class, config_class = get_sae_training_class(kind)
    sae, x = randomised(sae_class(config_class(**SHAPE, **settings))), torch.randn(16, WIDTH)
    sae.save_inference_model(saved_at(kind))
    sae.save_model(saved_at(f"{kind}_checkpoint"))
    loaded = SAE.load_from_disk(saved_at(kind))
    for directory in (saved_at(kind), saved_at(f"{kind}_checkpoint")):
        record(directory, x, loaded.encode(x), loaded(x))


def scaled_checkpoint() -> None:
    """A checkpoint in whose weights the activations' scale is not folded yet."""
    sae_class, config_class = get_sae_training_class("topk")
    sae = randomised(sae_class(config_class(**SHAPE, k=4, normalize_activations="expected_average_only_in")))
    scaler, x, directory = ActivationScaler(scaling_factor=0.3), 5 * torch.randn(16, WIDTH), saved_at("topk_scaled")
    sae.save_model(directory)
    scaler.save(str(directory / "activation_scaler.json"))
    codes = sae.encode(scaler.scale(x))
    record(directory, x, codes, scaler.unscale(sae.decode(codes)))


def gemma_scope() -> None:
    directory = DATA / "gemma_scope" / "layer_0" / "width_4k" / "average_l0_6"
    directory.mkdir(parents=True, exist_ok=True)
    sae_class, config_class = get_sae_class("jumprelu")
    sae = randomised(sae_class(config_class(**SHAPE, apply_b_dec_to_input=False)))
    weights = {name: tensor.numpy() for name, tensor in sae.state_dict().items()}
    np.savez(directory / "params.npz", **weights)
    with patch.object(loaders, "hf_hub_download", lambda **_: directory / "params.npz"):
        config, state, _ = loaders.gemma_2_sae_huggingface_loader(
            "gemma-scope-2b-pt-res", "layer_0/width_4k/average_l0_6", cfg_overrides=SHAPE
        )
    record_loaded(directory, config, state)


def gemma_scope_2() -> None:
    """A transcoder with an affine skip."""
    directory = DATA / "gemma_scope_2" / "transcoder" / "layer_0"
    directory.mkdir(parents=True, exist_ok=True)
    shapes = {
        "w_enc": (WIDTH, LATENTS),
        "w_dec": (LATENTS, WIDTH),
        "b_enc": (LATENTS,),
        "b_dec": (WIDTH,),
        "threshold": (LATENTS,),
        "affine_skip_connection": (WIDTH, WIDTH),
    }
    weights = {name: 0.5 * torch.randn(shape) for name, shape in shapes.items()}
    weights["threshold"].abs_()
    save_file(weights, directory / "params.safetensors")
    told = {
        "architecture": "jump_relu",
        "model_name": "gemma-v3-270m-pt",
        "affine_connection": True,
        "hf_hook_point_in": "model.layers.0.pre_feedforward_layernorm.output",
        "hf_hook_point_out": "model.layers.0.post_feedforward_layernorm.output",
    }
    (directory / "config.json").write_text(json.dumps(told) + "\n")

    def download(*where: str, filename: str = "", **_: object) -> Path:
        return directory / Path(filename or where[-1]).name

    with (
        patch.object(loaders, "hf_hub_download", download),
        patch.object(loaders, "get_safetensors_tensor_shapes", lambda *_: shapes),
    ):
        config, state, _ = loaders.gemma_3_sae_huggingface_loader("gemma-scope-2-270m-pt", "transcoder/layer_0")
    assert set(load_file(directory / "params.safetensors")) == set(shapes)
    record_loaded(directory, config, state)


def record_loaded(directory: Path, config: dict, state: dict[str, torch.Tensor]) -> None:
    config = loaders.handle_config_defaulting(config)
    sae_class, config_class = get_sae_class(config["architecture"])
    sae, x = sae_class(config_class.from_dict(config)), torch.randn(16, WIDTH)
    sae.load_state_dict(state)
    record(directory, x, sae.encode(x), sae(x))


def saved_at(kind: str) -> Path:
    return DATA / "saelens" / kind


if __name__ == "__main__":
    with torch.no_grad():
        main()
