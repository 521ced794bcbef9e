"""Reads a late-interaction checkpoint of another kind as a FastLaneModel with an untrained router.

Sentence Transformers loads all of them as a `MultiVectorEncoder`: its own folders, PyLate's, and Stanford
ColBERT's. What it loaded is then written as a `FastLaneConfig`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import MultiVectorEncoder
from sentence_transformers.base.modules import Dense, Normalize, Transformer
from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask
from sentence_transformers.util import load_file_path
from torch import Tensor, nn

from .. import loading
from ..hub import DEFAULT_CHECKPOINT
from ..index.context import ContextMixing
from ..modeling.configuration_fastlane import FastLaneConfig
from ..modeling.modeling_fastlane import FastLaneModel
from ..modeling.projection_fastlane import Context
from ..new_model import framing_ids, model_over


def read_late_interaction(
    name_or_path: str | os.PathLike[str],
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
    context: Context | None = None,
    **config_kwargs: Any,
) -> FastLaneModel:
    """Loads a late-interaction checkpoint, in float32, as a model that gives the same token embeddings.

    Prompts, lengths, skip lists and query expansion carry over. Without `context` the vectors that the
    checkpoint has made of documents stay valid, and only routes are new.

    Args:
        name_or_path: Folder or Hub name of a `MultiVectorEncoder`, a PyLate or a Stanford ColBERT model.
        revision: Branch, tag or commit on the Hub.
        trust_remote_code: Run the checkpoint's own code, if it has some.
        context: Mix context into documents' vectors, all tokens alike (`mix_context`): of a "window", of the
            whole "document", or of "both". None leaves the vectors as they are.
        **config_kwargs: Fields of `FastLaneConfig` that concern routes, such as `num_route_layers`.

    Raises:
        ValueError: It has no token vectors of its own (a dense model, a plain backbone), routes already,
            or parts that a FastLaneModel can't hold; the message names them.
    """
    name = str(name_or_path)
    loading.ask_hub(name, revision=revision)
    _check_kind(name, revision)
    source = MultiVectorEncoder(
        name,
        revision=revision,
        device="cpu",
        trust_remote_code=trust_remote_code,
        model_kwargs={"dtype": torch.float32},  # the configuration, too: a model is made of it
    )
    transformer, *heads = source
    if not isinstance(transformer, Transformer):
        raise _unsupported(name, transformer)
    projection, mask = _read_heads(name, heads)
    backbone = transformer.model
    hidden_size = int(backbone.config.hidden_size)
    weight = torch.eye(hidden_size) if projection is None else projection
    window_weight, document_weight = (
        (0.0, 0.0) if context is None else ContextMixing(context).weights
    )
    config = FastLaneConfig(
        backbone_config=backbone.config,
        embedding_dim=len(weight),
        window_context_weight=window_weight,
        document_context_weight=document_weight,
        document_length_power=0.0,  # stored vectors have lost the lengths of their states
        use_special_tokens=True,
        base_model=None if os.path.isdir(name) else name,
        **_text_settings(source, transformer, mask),
        **config_kwargs,
    )
    model = model_over(config, backbone, transformer.tokenizer)
    model.projection.linear.weight.data.copy_(weight)
    model.eval()
    return model


def is_fastlane(name_or_path: str | os.PathLike[str]) -> bool:
    """Whether a name or folder is that of a FastLane checkpoint."""
    if name_or_path == DEFAULT_CHECKPOINT:
        return True
    loading.ask_hub(str(name_or_path))
    path = load_file_path(str(name_or_path), "config.json")
    return path is not None and loading.is_fastlane(Path(path))


def read_fastlane(
    name: str | os.PathLike[str], num_route_layers: int, **config_kwargs: Any
) -> FastLaneModel:
    """Loads a FastLane checkpoint in float32, whose route layers are new unless it has as many.

    Raises:
        ValueError: It has another number of route layers.
    """
    found = loading.find_checkpoint(name).name
    config = FastLaneConfig.from_pretrained(found, **config_kwargs)
    if config.num_route_layers not in (0, num_route_layers):
        raise ValueError(
            f"{name} has {config.num_route_layers} route layers, got {num_route_layers}: leave as many"
        )
    config.num_route_layers = num_route_layers
    model: FastLaneModel = FastLaneModel.from_pretrained(found, config=config, dtype=torch.float32)
    model.keeps_card = False  # whose results are of the router before it is trained further
    model.eval()
    return model


def _check_kind(name: str, revision: str | None) -> None:
    """Raises a ValueError unless the checkpoint's files are those of a late-interaction model."""
    if Path(name).exists() and not Path(name).is_dir():
        raise ValueError(f"{name} is a file: name a checkpoint's folder")

    def read(file: str) -> Any:
        path = load_file_path(name, file, revision=revision)
        return None if path is None else json.loads(Path(path).read_text("utf-8"))

    modules, config = read("modules.json"), read("config.json") or {}
    kinds = [str(one["type"]) for one in modules or []]
    if any(kind.endswith("Pooling") for kind in kinds):
        raise ValueError(
            f"{name} is a dense model: it pools its tokens into one vector, and there is nothing to route; "
            "FastLaneEncoder.from_backbone makes a late-interaction model of it"
        )
    if modules is None and "HF_ColBERT" not in (config.get("architectures") or []):
        raise ValueError(
            f"{name} is no late-interaction checkpoint: it has neither a modules.json nor the architecture "
            "HF_ColBERT; FastLaneEncoder.from_backbone makes one of a plain encoder"
        )


def _read_heads(
    name: str, heads: Iterable[nn.Module]
) -> tuple[Tensor | None, MultiVectorMask | None]:
    """The product of a checkpoint's projections, (D, H) float32 or None, and its mask of tokens."""
    projection: Tensor | None = None
    mask: MultiVectorMask | None = None
    is_normalized = False
    for module in heads:
        if isinstance(module, Dense):
            weight = _linear_weight(name, module)
            projection = weight if projection is None else weight @ projection
            is_normalized = False
        elif isinstance(module, Normalize):
            is_normalized = True
        elif isinstance(module, MultiVectorMask) and not module.keep_only_token_ids:
            mask = module
        else:
            raise _unsupported(name, module)
    if not is_normalized:
        raise ValueError(
            f"{name} gives vectors that aren't of unit length, since it has no Normalize after its last "
            "projection: routes need unit vectors"
        )
    return projection, mask


def _linear_weight(name: str, module: Dense) -> Tensor:
    """(D, H) float32 of a projection without bias and activation."""
    if not isinstance(module.activation_function, nn.Identity):
        raise _unsupported(name, module.activation_function)
    if module.linear.bias is not None and bool(module.linear.bias.any()):
        raise ValueError(f"{name} has a projection with a bias, which a FastLaneModel has not")
    weight = module.linear.weight.detach().float()
    if not getattr(module, "use_residual", False):
        return weight
    residual = getattr(module, "residual", None)
    if isinstance(residual, nn.Linear):
        return weight + residual.weight.detach().float()
    if weight.shape[0] != weight.shape[1]:
        raise _unsupported(name, module)
    return weight + torch.eye(len(weight))


def _text_settings(
    source: MultiVectorEncoder, transformer: Transformer, mask: MultiVectorMask | None
) -> dict[str, Any]:
    """The fields of a configuration that say how texts become tokens and which of these are views."""
    tokenizer: Any = transformer.tokenizer
    longest = transformer.max_seq_length or min(
        tokenizer.model_max_length, transformer.config.max_position_embeddings
    )
    expansion = transformer.query_expansion
    query_length = transformer.query_length or longest
    if expansion is not None and expansion["strategy"] == "fixed":
        query_length = expansion["length"]
    skipped: dict[str, list[int]] = {"query": [], "document": []}
    if mask is not None and mask._skiplist_ids is not None:
        for task in mask.skiplist_tasks:
            skipped[task] = sorted(set(mask._skiplist_ids.tolist()))
    prompts = source.prompts
    document_prompts = (prompts.get(name) for name in ("document", "passage", "corpus"))
    return {
        "query_prompt": prompts.get("query") or "",
        "document_prompt": next(filter(None, document_prompts), ""),
        "query_length": query_length,
        "document_length": transformer.document_length or longest,
        "query_expansion": None if expansion is None else dict(expansion),
        "query_skip_ids": skipped["query"],
        "document_skip_ids": skipped["document"],
        "special_token_ids": framing_ids(tokenizer),
    }


def _unsupported(name: str, module: object) -> ValueError:
    return ValueError(
        f"{name} has a {type(module).__name__}, which a FastLaneModel can't hold: retrofit takes a "
        "Transformer, linear projections without activation, a mask of tokens, and Normalize"
    )
