"""A new FastLaneModel over an existing encoder: a calibrated projection and an untrained router."""

from __future__ import annotations

import dataclasses
import difflib
import os
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModel, AutoTokenizer, PreTrainedConfig, PreTrainedModel

from .loading import ask_hub
from .modeling.configuration_fastlane import FastLaneConfig
from .modeling.modeling_fastlane import FastLaneModel
from .modeling.routing_fastlane import unit


def from_backbone(
    name_or_path: str | os.PathLike[str],
    *,
    calibration_texts: Sequence[str] | None = None,
    revision: str | None = None,
    **config_kwargs: Any,
) -> FastLaneModel:
    """Builds a new model over an existing encoder.

    The projection starts as the principal components of the backbone's token views, which keep
    MaxSim almost whole where a random projection spoils it.

    Args:
        name_or_path: Encoder on the Hub or in a folder.
        calibration_texts: Some hundred passages like those to be searched, from which the
            components are computed. By default some English ones (`default_calibration_texts`).
        revision: Branch, tag or commit of the encoder on the Hub.
        **config_kwargs: Fields of `FastLaneConfig`.

    Raises:
        FileNotFoundError: There is no such folder, and the Hub has no such repository or can't be asked.
        ValueError: A keyword is no field of `FastLaneConfig`, `document_length` or `query_length` is
            beyond the backbone's positions, or `embedding_dim` beyond its hidden size.
    """
    _check_fields(config_kwargs)
    ask_hub(str(name_or_path), revision=revision)
    backbone = AutoModel.from_pretrained(name_or_path, revision=revision, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(name_or_path, revision=revision)
    longest = min(tokenizer.model_max_length, backbone.config.max_position_embeddings)
    defaults = {
        "special_token_ids": framing_ids(tokenizer),
        "base_model": None if os.path.isdir(name_or_path) else str(name_or_path),
        "query_length": min(128, longest),
        "document_length": min(256, longest),
    }
    config = FastLaneConfig(backbone_config=backbone.config, **{**defaults, **config_kwargs})
    _check_sizes(config, longest)
    model = model_over(config, backbone, tokenizer)
    fit_projection(model, calibration_texts or default_calibration_texts())
    model.eval()
    return model


def framing_ids(tokenizer: Any) -> list[int]:
    """The ids of the tokens that frame a text, sorted."""
    kinds = ("cls", "sep", "bos", "eos", "pad")
    return sorted({getattr(tokenizer, f"{kind}_token_id") for kind in kinds} - {None})


def model_over(config: FastLaneConfig, backbone: PreTrainedModel, tokenizer: Any) -> FastLaneModel:
    """A model with the weights of a backbone; all else is new."""
    model = FastLaneModel(config)
    missing = model.backbone.load_state_dict(backbone.state_dict(), strict=False).missing_keys
    assert not missing, missing
    model.tokenizer = tokenizer
    return model


def fit_projection(model: FastLaneModel, texts: Sequence[str]) -> None:
    """Sets the projection to the principal components of the token states of `texts`.

    Raises:
        ValueError: The texts have fewer tokens than the projection has dimensions.
    """
    with torch.inference_mode():
        states = [
            unit(output.last_hidden_state)[output.token_mask].float()
            for _, output in model.forward_batches(texts, "document", 32, False)
        ]
    components = principal_components(torch.cat(states), model.config.embedding_dim)
    model.projection.linear.weight.data.copy_(components.clone())


def principal_components(states: Tensor, num_components: int) -> Tensor:
    """The leading components of the directions of some token states, uncentred.

    Uncentred, since MaxSim compares inner products and not deviations from a mean. With as many
    components as dimensions the projection is a rotation and keeps every inner product.

    Args:
        states: (N, H) float, one row a token.
        num_components: D, at most H and N.

    Returns:
        (D, H) float32 with orthonormal rows, the strongest first. The sign of each row makes its
        largest entry positive, so that equal inputs give equal projections on every machine.

    Raises:
        ValueError: There are fewer than `num_components` states.
    """
    if len(states) < num_components:
        raise ValueError(
            f"{num_components} components need at least as many calibration tokens, got "
            f"{len(states)}; pass more calibration_texts"
        )
    directions = unit(states.double())
    _, vectors = torch.linalg.eigh(directions.T @ directions)
    components: Tensor = vectors.T.flip(0)[:num_components]
    largest = components.gather(1, components.abs().argmax(dim=1, keepdim=True))
    return (components * largest.sign()).float()


def default_calibration_texts() -> list[str]:
    """The first 600 paragraphs of Python's language reference: English, and part of every Python.

    Passages like those to be searched calibrate a little better.
    """
    from pydoc_data.topics import topics

    paragraphs = [part for topic in topics.values() for part in topic.split("\n\n")]
    return [" ".join(part.split()) for part in paragraphs if len(part) > 80][:600]


def _check_fields(names: Iterable[str]) -> None:
    """Raises a ValueError for a name that `FastLaneConfig` does not add to transformers' own fields."""
    inherited = {"backbone_config", *(field.name for field in dataclasses.fields(PreTrainedConfig))}
    fields = [field.name for field in dataclasses.fields(FastLaneConfig)]
    known = [name for name in fields if name not in inherited]
    for name in names:
        if name not in known:
            nearest = difflib.get_close_matches(name, known, n=1, cutoff=0)[0]
            raise ValueError(f"FastLaneConfig has no field {name!r}; the nearest is {nearest!r}")


def _check_sizes(config: FastLaneConfig, longest: int) -> None:
    for name, limit, of in (
        ("query_length", longest, "positions"),
        ("document_length", longest, "positions"),
        ("embedding_dim", config.hidden_size, "hidden size"),
    ):
        value = getattr(config, name)
        if value > limit:
            raise ValueError(f"{name} must be at most the backbone's {of}, {limit}, got {value}")
