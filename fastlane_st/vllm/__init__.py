"""Plugins of vLLM: it serves a checkpoint's token views and router logits, and routed vectors.

vLLM finds `register` and `io_processor_class` by entry points. Importing this module imports nothing else.
"""

from __future__ import annotations


def register() -> None:
    """Tells vLLM of our configuration and our model, which it imports where it runs it.

    vLLM calls it in each of its processes, perhaps more than once (`vllm.general_plugins`).
    """
    from transformers import AutoConfig
    from vllm import ModelRegistry

    from ..modeling.configuration_fastlane import FastLaneConfig

    AutoConfig.register(FastLaneConfig.model_type, FastLaneConfig, exist_ok=True)
    ModelRegistry.register_model(
        "FastLaneModel", "fastlane_st.vllm.model:FastLaneForTokenEmbedding"
    )


def io_processor_class() -> str:
    """The class that `--io-processor-plugin fastlane` loads (`vllm.io_processor_plugins`)."""
    return "fastlane_st.vllm.io_processor.FastLaneIOProcessor"
