"""Which checkpoint an adapter or an index belongs to: the digest of its weights."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel


def base_state(model: nn.Module) -> dict[str, Tensor]:
    """The weights below all adapters, by the names that they have without any."""
    inner = {
        f"{name}.": f"{name}.{kept}."
        for name, module in model.named_modules()
        for kept in ("base_layer", "original_module")
        if kept in dict(module.named_children())
    }
    state = {}
    for key, value in model.state_dict().items():
        outside = next((prefix for prefix in inner if key.startswith(prefix)), "")
        if not outside or key.startswith(inner[outside]):
            state[outside + key.removeprefix(inner.get(outside, ""))] = value
    return state


def base_digest(model: nn.Module, dtype: torch.dtype) -> str:
    """What identifies a base: the sha256 of the weights below all adapters, as `dtype`."""
    digest = hashlib.sha256()
    for name, value in sorted(base_state(model).items()):
        value = value.detach().cpu()
        value = value.to(dtype) if value.is_floating_point() else value
        digest.update(f"{name} {list(value.shape)}\n".encode())
        digest.update(value.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def base_digests(model: nn.Module, dtype: torch.dtype) -> dict[str, str]:
    """The digests by the dtypes that a base of `dtype` can be loaded as without a change of it."""
    halves = (torch.bfloat16, torch.float16) if dtype == torch.float32 else ()
    return {str(each): base_digest(model, each) for each in (dtype, *halves)}


def encoder_digests(encoder: object) -> list[str]:
    """What identifies the weights an encoder computes with, its active adapters included.

    Encoders of the same checkpoint have one of them in common, whatever floats they were loaded as.

    Args:
        encoder: A FastLaneModel or the Sentence Transformers model around it; others have none.
    """
    modules = encoder.modules() if isinstance(encoder, nn.Module) else ()
    models = (module for module in modules if isinstance(module, PreTrainedModel))
    model: Any = next(models, None)  # the outer one, not its backbone
    if model is None or model.config.model_type != "fastlane":
        return []
    adapters = hashlib.sha256()
    names = model.active_adapters() if model.has_active_adapter else []
    for name in names:
        for key, value in sorted(model.get_adapter_state_dict(name).items()):
            adapters.update(f"{key} {list(value.shape)}\n".encode())
            adapters.update(value.detach().float().cpu().contiguous().numpy().data)
    suffix = f"+{adapters.hexdigest()}" if names else ""
    return [digest + suffix for digest in base_digests(model, model.dtype).values()]
