"""Digests of weights, by which an adapter or an index knows the checkpoint that it belongs to."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Collection, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

logger = logging.getLogger(__name__)


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
    """Identifies a base: the sha256 of the weights below all adapters, converted to `dtype`."""
    digest = hashlib.sha256()
    for name, value in sorted(base_state(model).items()):
        value = value.detach().cpu()
        value = value.to(dtype) if value.is_floating_point() else value
        digest.update(_heading(name, value))
        digest.update(value.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _heading(name: str, value: Tensor) -> bytes:
    # Learned scalars had no dimension once: what was built then keeps its digest.
    is_scalar = value.numel() == 1 and name.endswith("_weight")
    return f"{name} {[] if is_scalar else list(value.shape)}\n".encode()


def base_digests(model: nn.Module, dtype: torch.dtype) -> dict[str, str]:
    """The digest of a base of `dtype` for each dtype that it may be loaded in, by the dtype's name."""
    return {str(each): base_digest(model, each) for each in _dtypes(dtype)}


def _dtypes(dtype: torch.dtype) -> list[torch.dtype]:
    narrower = {
        torch.float64: [torch.float32, torch.bfloat16, torch.float16],
        torch.float32: [torch.bfloat16, torch.float16],
    }
    return [dtype, *narrower.get(dtype, [])]


def is_plain(value: object) -> bool:
    """Whether a digest can read this weight: quantised and offloaded ones are other things."""
    plain = type(value) in (Tensor, nn.Parameter)
    return plain and not value.is_quantized and not value.is_meta  # type: ignore[attr-defined]


def active_adapters(model: Any) -> list[str]:
    """The names of the adapters that take part, loaded by transformers or by PEFT around the model."""
    if not model.has_active_adapter:
        return []
    try:
        names: list[str] = model.active_adapters()
    except ValueError:  # transformers knows only those that it has loaded
        names = sorted({name for _, each in model.wrappers() for name in each.active_adapters})
    return names


def is_of_checkpoint(encoder: object, digests: Collection[str]) -> bool:
    """Whether an encoder has one of a checkpoint's digests, or has no digest at all.

    The digest in the encoder's own dtype is computed first, and the others only if it isn't there.
    """
    own = _digests(encoder)
    first = next(own, None)
    return first is None or first in digests or any(each in digests for each in own)


def encoder_digests(encoder: object) -> list[str]:
    """Identifies the weights that an encoder computes with, its active adapters included.

    Encoders of one checkpoint share at least one digest, in whatever dtypes they were loaded.

    Args:
        encoder: A FastLaneModel or the model of PEFT or Sentence Transformers around it; others have no
            digests, and neither have weights that are quantised or offloaded.
    """
    return list(_digests(encoder))


def adapter_state(encoder: object) -> tuple[bool, list[str]]:
    """What tells cheaply that an encoder's adapters were switched or merged since."""
    model = fastlane_model(encoder)
    return (False, []) if model is None else (model.has_merged_adapter, active_adapters(model))


def _digests(encoder: object) -> Iterator[str]:
    model = fastlane_model(encoder)
    if model is None:
        return
    if not all(is_plain(value) for value in model.state_dict().values()):
        logger.warning(
            "quantised or offloaded weights have no digest: whose they are isn't checked"
        )
        return
    adapters = hashlib.sha256()
    names = active_adapters(model)
    for name in names:
        for key, value in sorted(model.get_adapter_state_dict(name).items()):
            adapters.update(_heading(key, value))
            adapters.update(value.detach().float().cpu().contiguous().numpy().data)
    suffix = f"+{adapters.hexdigest()}" if names else ""
    for dtype in _dtypes(model.dtype):
        yield base_digest(model, dtype) + suffix


def fastlane_model(encoder: object) -> Any:
    """The FastLaneModel in an encoder, or None: the outer transformers model, not its backbone."""
    modules = encoder.modules() if isinstance(encoder, nn.Module) else ()
    model = next((module for module in modules if isinstance(module, PreTrainedModel)), None)
    return model if model is not None and model.config.model_type == "fastlane" else None
