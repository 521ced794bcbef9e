"""By which an index or a store knows the checkpoint that its vectors are of."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Collection, Iterator
from typing import Any

from torch import Tensor, nn

from ..modeling.fingerprint_fastlane import (
    base_digest,
    digest_dtypes,
    fastlane_model,
    heading,
)

logger = logging.getLogger(__name__)


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


def digest_of(encoder: object) -> str:
    """The first of an encoder's digests, which names its checkpoint in results; "unknown" without one."""
    return next(iter(encoder_digests(encoder)), "unknown")


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
            adapters.update(heading(key, value))
            adapters.update(value.detach().float().cpu().contiguous().numpy().data)
    suffix = f"+{adapters.hexdigest()}" if names else ""
    for dtype in digest_dtypes(model.dtype):
        yield base_digest(model, dtype) + suffix


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
