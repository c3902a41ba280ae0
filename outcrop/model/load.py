"""A transformers causal language model, from a directory, the hub or a GGUF file."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer

from outcrop.config import ModelConfig
from outcrop.errors import ModelError, shortened

_SAMPLE = 65_536  # elements of each weight that go into its hash


@dataclass(frozen=True)
class LanguageModel:
    """A model ready to be read: in evaluation mode, without gradients, on its device."""

    module: Any  # transformers' PreTrainedModel
    tokenizer: Any  # transformers' PreTrainedTokenizerBase
    identity: str  # the name's last part and a hash of the weights

    @property
    def device(self) -> torch.device:
        return torch.device(self.module.device)


def require_directory(name: str, kind: str = "language model") -> None:
    """ModelError where a model is named by a directory that is not there; loads nothing."""
    if name.startswith((".", "/", "~")) and not Path(name).exists():
        raise ModelError(f"there is no directory {name} to load a {kind} from")


def load_model(config: ModelConfig) -> LanguageModel:
    """Load weights and tokenizer; `ModelError` says what was tried."""
    where = _where(config)
    require_directory(config.name)
    try:
        device = choose_device(config.device)
        tokenizer = AutoTokenizer.from_pretrained(**where)
        dtype = choose_dtype(config.dtype, device)
        module, found = AutoModelForCausalLM.from_pretrained(**where, dtype=dtype, output_loading_info=True)
        module = module.to(device).eval().requires_grad_(False)
    except (OSError, ValueError, KeyError, RuntimeError, AssertionError, SafetensorError) as error:
        reason = shortened(str(error), 300)
        raise ModelError(
            f"cannot load the language model {config.name!r}: {reason} "
            "Expected a directory with config.json and safetensors, a hub name, or a .gguf file."
        ) from error
    missing = sorted(found["missing_keys"])
    if missing:
        raise ModelError(
            f"{config.name!r} is no causal language model: it has no weights for {', '.join(missing[:3])}"
            f"{' and others' if len(missing) > 3 else ''}, which would be drawn at random"
        )
    return LanguageModel(module, tokenizer, f"{_last_part(config.name)}-{hash_weights(module)}")


def choose_device(name: str) -> torch.device:
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ModelError(
            f"--model.device is {name}, but torch {torch.__version__} finds no GPU here; auto takes the CPU"
        )
    if name != "auto":
        return torch.device(name)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """bfloat16 where the hardware multiplies it faster than float32."""
    if name != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[name]
    match device.type:
        case "cuda":
            fast = torch.cuda.is_bf16_supported(including_emulation=False)
        case "cpu":
            fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        case _:
            fast = True
    return torch.bfloat16 if fast else torch.float32


def hash_weights(module: torch.nn.Module) -> str:
    """12 hexadecimal digits over the names, shapes and a strided sample of every weight."""
    digest = hashlib.sha256()
    for name, weight in sorted(module.state_dict().items()):
        flat = weight.detach().reshape(-1)
        sample = flat[:: max(1, flat.numel() // _SAMPLE)].float().cpu().numpy()
        digest.update(f"{name}{tuple(weight.shape)}{weight.dtype}".encode())
        digest.update(sample.tobytes())
    return digest.hexdigest()[:12]


def _last_part(name: str) -> str:
    """The name of a directory, file or hub model; a dot within it is no suffix."""
    return Path(name).name.removesuffix(".gguf")


def _where(config: ModelConfig) -> dict[str, Any]:
    path = Path(config.name)
    if path.suffix != ".gguf":
        return {"pretrained_model_name_or_path": config.name, "revision": config.revision or "main"}
    if not path.is_file():
        raise ModelError(f"there is no GGUF file at {path}")
    return {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
