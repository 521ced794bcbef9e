"""PEFT configurations for adapters: LoRA in the backbone, full copies of projection and router."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from peft import LoraConfig

    from .modeling.modeling_fastlane import FastLaneModel

HEAD = ("projection", "router")
"""The modules of which an adapter has a copy of its own."""


@dataclass(frozen=True)
class LoraSettings:
    """Size of an adapter, and the layers of the backbone that it changes.

    Attributes:
        rank: Rank r of each pair of matrices, which has r · (inputs + outputs) weights for a layer.
        alpha: The product of a pair is scaled by alpha / rank (LoRA, arXiv 2106.09685).
        dropout: Dropout of the inputs of a pair.
        target_modules: Ends of the names of the backbone's linear layers, such as `query` or
            `output.dense`; None for all of those layers.
    """

    rank: int = 8
    alpha: int = 16
    dropout: float = 0.0
    target_modules: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"rank must be at least 1, got {self.rank}")
        if self.alpha < 1:
            raise ValueError(f"alpha must be at least 1, got {self.alpha}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout}")
        if self.target_modules is not None and not self.target_modules:
            raise ValueError("target_modules must name a layer, or be None for all of them")


def lora_config(model: FastLaneModel, settings: LoraSettings | None = None) -> LoraConfig:
    """Gives the PEFT configuration for `model.add_adapter` or `FastLaneEncoder.add_adapter`.

    Raises:
        ValueError: The backbone has no linear layer of a targeted name; the message lists its names.
        ImportError: peft is not installed.
    """
    try:
        from peft import LoraConfig
    except ImportError as error:
        raise ImportError('adapters need peft: pip install "fastlane-st[train]"') from error
    settings = settings or LoraSettings()
    return LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=target_pattern(model, settings.target_modules),
        modules_to_save=list(HEAD),
    )


def target_pattern(model: FastLaneModel, target_modules: tuple[str, ...] | None = None) -> str:
    """Gives a regex for the backbone's linear layers whose names end in one of `target_modules`.

    Example: `backbone\\.(.*\\.)?(query|value)`. The prefix keeps out the projection and the router,
    whose layers have names that also occur in backbones.
    """
    layers = linear_layers(model)
    ends = sorted({name.rpartition(".")[2] for name in layers})
    for target in target_modules or ():
        if not any(f".{name}".endswith(f".{target}") for name in layers):
            raise ValueError(
                f"target_modules must end the name of a linear layer of the backbone, got {target!r}; "
                f"its layers end in {', '.join(ends)}"
            )
    return rf"backbone\.(.*\.)?({'|'.join(map(re.escape, target_modules or ends))})"


def linear_layers(model: FastLaneModel) -> list[str]:
    """Names the backbone's linear layers; one that an adapter wraps keeps its name without it."""
    modules = model.backbone.named_modules()
    names = [name for name, module in modules if isinstance(module, nn.Linear)]
    return [name.removesuffix(".base_layer") for name in names if ".lora_" not in name]
