"""Digests of weights, by which an adapter or an index knows the checkpoint that it belongs to."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel


def base_state(model: nn.Module) -> dict[str, Tensor]:
    """The weights below all adapters, under the names that they have without adapters."""
    inner = {
        f"{name}.": f"{name}.{kept}."
        for name, module in model.named_modules()
        for kept in ("base_layer", "original_module")
        if kept in dict(module.named_children())
    }
    state = {}
    for compiled, value in model.state_dict().items():
        key = compiled.replace("_orig_mod.", "")  # torch.compile's name of what it wraps
        outside = next((prefix for prefix in inner if key.startswith(prefix)), "")
        if not outside or key.startswith(inner[outside]):
            state[outside + key.removeprefix(inner.get(outside, ""))] = value
    return state


def base_digest(model: nn.Module, dtype: torch.dtype) -> str:
    """Identifies a base: the sha256 of the weights below all adapters, converted to `dtype`.

    The digest of a FastLaneModel depends on its `FastLaneConfig.view_settings`, too.
    """
    digest = hashlib.sha256()
    settings = getattr(getattr(model, "config", None), "view_settings", {})
    for name, setting in sorted(settings.items()):
        digest.update(f"{name} {setting}\n".encode())
    for name, value in sorted(base_state(model).items()):
        value = value.detach().cpu()
        value = value.to(dtype) if value.is_floating_point() else value
        digest.update(heading(name, value))
        digest.update(value.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def heading(name: str, value: Tensor) -> bytes:
    """What a digest reads before a weight: its name and shape."""
    return f"{name} {list(value.shape)}\n".encode()


def base_digests(model: nn.Module, dtype: torch.dtype) -> dict[str, str]:
    """The digest of a base of `dtype` for each dtype that it may be loaded in, by the dtype's name."""
    return {str(each): base_digest(model, each) for each in digest_dtypes(dtype)}


def digest_dtypes(dtype: torch.dtype) -> list[torch.dtype]:
    """The dtypes that weights of `dtype` may be loaded in, itself first."""
    narrower = {
        torch.float64: [torch.float32, torch.bfloat16, torch.float16],
        torch.float32: [torch.bfloat16, torch.float16],
    }
    return [dtype, *narrower.get(dtype, [])]


def fastlane_model(encoder: object) -> Any:
    """The FastLaneModel in an encoder, or None: the outer transformers model, not its backbone."""
    modules = encoder.modules() if isinstance(encoder, nn.Module) else ()
    model = next((module for module in modules if isinstance(module, PreTrainedModel)), None)
    return model if model is not None and model.config.model_type == "fastlane" else None
