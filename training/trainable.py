"""Chooses the parameters that a run trains: those of the model or an adapter that aren't frozen."""

from __future__ import annotations

import re

from fastlane_st import FastLaneEncoder
from fastlane_st.adapters import lora_config
from fastlane_st.modeling.adapters_fastlane import loaded_adapters

from .callbacks import module_of, parts_of
from .training_config import TrainingConfig

ADAPTER_NAME = "default"  # the name that PEFT and transformers give to a single adapter


def add_adapter(encoder: FastLaneEncoder, config: TrainingConfig) -> None:
    """Adds the run's adapter, if it trains one, and freezes all other parameters."""
    if config.lora is None:
        return
    adapter = lora_config(module_of(encoder).model, config.lora)
    encoder.add_adapter(adapter, ADAPTER_NAME)
    # The name in the configuration: the folder of a released checkpoint is a cache of this machine.
    adapter.base_model_name_or_path = config.model


def check_base(encoder: FastLaneEncoder, config: TrainingConfig) -> None:
    """Raises a ValueError if the model is an adapter, or if `lora` would change its default routes."""
    if loaded_adapters(module_of(encoder).model):
        raise ValueError(
            f"the model {config.model} is an adapter; merge it into its base first: "
            f"FastLaneEncoder({config.model!r}).merge_and_unload().save_pretrained(…)"
        )
    own = encoder.fastlane_config.query_num_routes
    if config.lora is not None and config.query_num_routes != own:
        raise ValueError(
            f"an adapter goes by its base's query_num_routes, {own}, got {config.query_num_routes}"
        )


def freeze_unused(encoder: FastLaneEncoder, config: TrainingConfig) -> None:
    """Freezes the parameters that get no gradient, have learning rate 0, or are named in `frozen`.

    DistributedDataParallel hangs on a trainable parameter without a gradient. Its
    `find_unused_parameters` can't find them here: one backward pass follows several forward passes.

    Raises:
        ValueError: No trainable parameter is left.
    """
    model, weights = module_of(encoder).model, config.loss_weights
    for name, part in parts_of(encoder).items():
        if not getattr(config, f"{name}_learning_rate"):
            part.requires_grad_(False)
    routed = weights.routed or weights.distillation
    compared = routed or weights.full or weights.teacher
    if not compared:  # the oracle part has no gradient to the views
        model.projection.requires_grad_(False)
    if not routed and not weights.oracle:
        model.router.requires_grad_(False)
    for name, parameter in model.named_parameters():
        if any(re.search(pattern, plain_name(name)) for pattern in config.frozen):
            parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError(
            f"nothing is trained: frozen is {list(config.frozen)}, and learning rates and loss_weights "
            "leave no other parameter"
        )


def plain_name(name: str) -> str:
    """Removes what an adapter adds to a parameter's name; LoRA's parameters keep `lora_A` or `lora_B`.

    Example:
        >>> plain_name("projection.modules_to_save.default.linear.weight")
        'projection.linear.weight'
        >>> plain_name("backbone.encoder.layer.0.output.dense.lora_A.default.weight")
        'backbone.encoder.layer.0.output.dense.lora_A.weight'
    """
    inner = rf"\.(modules_to_save\.{ADAPTER_NAME}|original_module|base_layer)(?=\.)"
    name = re.sub(inner, "", name)
    return re.sub(rf"(\.lora_\w+)\.{ADAPTER_NAME}(?=\.)", r"\1", name)
