"""Tells transformers of our classes: where this is imported, AutoModel needs no remote code."""

from __future__ import annotations

from transformers import AutoConfig, AutoModel

from .model_card.card import render_card
from .modeling.configuration_fastlane import FastLaneConfig
from .modeling.modeling_fastlane import FastLaneModel

AutoConfig.register(FastLaneConfig.model_type, FastLaneConfig, exist_ok=True)
AutoModel.register(FastLaneConfig, FastLaneModel, exist_ok=True)
FastLaneModel.render_card = staticmethod(render_card)
