"""FastLaneModel: backbone → projection → router, with encoding and search for everyday use."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from huggingface_hub import HfApi
from torch import Tensor
from transformers import AutoModel
from transformers.utils.generic import ModelOutput

from .adapters_fastlane import AdaptableModel, loaded_adapters
from .checkpoint_fastlane import write_checkpoint_files
from .configuration_fastlane import FastLaneConfig
from .encoding_fastlane import TextEncodingModel
from .projection_fastlane import ViewProjection
from .routing_fastlane import (
    AskedRoutes,
    NumRoutes,
    Task,
    TokenRouter,
    certain_routes,
    check_num_routes,
    spread_out,
    top_k_mask,
)


@dataclass
class FastLaneOutput(ModelOutput):
    """What one forward pass gives.

    Attributes:
        token_embeddings: (B, T, D) float, each of unit length, padding included: what `route` gives
            if every token is kept.
        router_logits: (B, T) float; the highest is the one route, and see `spread_out` for more.
        salience: (B, T) float; how much a token counts in a mean that stands for several.
        token_mask: (B, T) bool, true at the tokens that are views of the text and may be routed.
            A text of special tokens alone (an empty one) counts those, so that no row is empty.
        last_hidden_state: (B, T, hidden_size) float, the backbone's token states.
        hidden_states: The backbone's, where asked for.
        attentions: The backbone's, where asked for.
    """

    token_embeddings: Tensor = None  # type: ignore[assignment]  # ModelOutput wants defaults
    router_logits: Tensor = None  # type: ignore[assignment]
    salience: Tensor = None  # type: ignore[assignment]
    token_mask: Tensor = None  # type: ignore[assignment]
    last_hidden_state: Tensor = None  # type: ignore[assignment]
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


class FastLaneModel(AdaptableModel, TextEncodingModel):
    """A late-interaction encoder whose router picks the few token views that a text needs.

    Example::

        model = AutoModel.from_pretrained("…/fastlane", trust_remote_code=True)
        queries = model.encode_query(["how do I parse JSON?"], num_routes=1)
        documents = model.encode_document(["json.loads reads a str."])
        model.similarity(queries, documents)  # (1, 1)
    """

    config_class = FastLaneConfig
    base_model_prefix = "backbone"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    render_card: Callable[[FastLaneConfig], str] | None = None
    """Writes the model card of a checkpoint that has none yet; set by the installed package."""
    code_folders: Sequence[Path] = ()
    """Where source files of the checkpoint lie that transformers didn't put beside this one."""

    def __init__(self, config: FastLaneConfig) -> None:
        super().__init__(config)
        self.backbone = AutoModel.from_config(config.backbone_config)
        if getattr(self.backbone, "pooler", None) is not None:
            self.backbone.pooler = None  # unused weights, which DistributedDataParallel refuses
        self.projection = ViewProjection(config)
        self.router = TokenRouter(config)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        task: Task = "query",
        **backbone_kwargs: Any,
    ) -> FastLaneOutput:
        """Encodes tokenised texts; nothing is routed yet (see `route`).

        Args:
            input_ids: (B, T) int64.
            attention_mask: (B, T), 0 at padding. Without it, every token counts.
            task: The side, which decides the router's scorer.
            **backbone_kwargs: For the backbone, such as `token_type_ids`.
        """
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        backbone_kwargs["return_dict"] = True
        states = self.backbone(
            input_ids=input_ids, attention_mask=attention_mask, **backbone_kwargs
        )
        hidden = states.last_hidden_state
        token_mask = self.token_mask(input_ids, attention_mask)
        router_logits, salience = self.router(hidden, attention_mask, token_mask, task)
        return FastLaneOutput(
            token_embeddings=self.projection(hidden, token_mask, salience, task),
            router_logits=router_logits,
            salience=salience,
            token_mask=token_mask,
            last_hidden_state=hidden,
            hidden_states=states.get("hidden_states"),
            attentions=states.get("attentions"),
        )

    def token_mask(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """(B, T) bool: the tokens that are views of the text (see `FastLaneOutput.token_mask`)."""
        present = attention_mask.bool()
        if self.config.use_special_tokens:
            return present
        special = torch.tensor(self.config.special_token_ids, device=input_ids.device)
        content = present & ~torch.isin(input_ids, special)
        return content | (present & ~content.any(dim=-1, keepdim=True))

    def route(
        self,
        output: FastLaneOutput,
        task: Task,
        num_routes: AskedRoutes,
        route_budget: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Chooses the views to keep: the top k of the spread logits, ties to the earlier token.

        Args:
            output: Of `forward`.
            task: The side, which decides the default and whether a fraction is allowed.
            num_routes: A positive integer; None for every token; for documents also the fraction
                to keep; `"default"` for the configuration's; for queries `"auto"`, as many as the
                router's certainty asks for (see `certain_routes`).
            route_budget: The most of `"auto"`; the configuration's by default.

        Returns:
            The views (B, T, D) float, which depend on what is kept (see `ViewProjection.routed`),
            and which of them are kept, (B, T) bool.
        """
        num_routes = self.resolve_num_routes(task, num_routes)
        if num_routes is None:
            return output.token_embeddings, output.token_mask
        if num_routes == "auto":
            budget = route_budget or self.config.route_budget
            logits = self.spread_logits(output, budget)
            routes = certain_routes(logits, output.token_mask, budget, self.config.route_margin)
        else:
            logits = self.spread_logits(output, num_routes)
            routes = top_k_mask(logits, output.token_mask, num_routes)
        return self.routed_views(output, task, routes), routes

    def spread_logits(self, output: FastLaneOutput, num_routes: int | float) -> Tensor:
        """The logits (B, T) whose top `num_routes` are routed (see `spread_out`)."""
        return spread_out(
            output.router_logits,
            output.last_hidden_state,
            output.token_mask,
            num_routes,
            self.config.route_spread,
        )

    def routed_views(self, output: FastLaneOutput, task: Task, routes: Tensor) -> Tensor:
        """The views (B, T, D) of the `routes`, (B, T) bool (see `ViewProjection.routed`)."""
        return self.projection.routed(
            output.last_hidden_state, output.token_mask, routes, output.salience, task
        )

    def resolve_num_routes(
        self, task: Task, num_routes: AskedRoutes
    ) -> NumRoutes | Literal["auto"]:
        """The checked number of routes, with the configuration's in place of `"default"`."""
        if num_routes == "auto" and task == "query":
            return "auto"
        if num_routes == "default":
            is_query = task == "query"
            return self.config.query_num_routes if is_query else self.config.document_num_routes
        check_num_routes(num_routes, allow_fraction=task == "document")
        return num_routes

    def save_pretrained(  # type: ignore[override]  # all but these pass through by keyword
        self, save_directory: str | os.PathLike[str], push_to_hub: bool = False, **kwargs: Any
    ) -> None:
        """Saves the whole checkpoint folder: weights, configuration, tokenizer, Hub files, card.

        With `push_to_hub`, uploads the folder to `repo_id` (default: the folder's name).
        """
        repo_id = kwargs.pop("repo_id", os.path.basename(os.path.normpath(save_directory)))
        super().save_pretrained(save_directory, **kwargs)
        if kwargs.get("is_main_process", True):
            if not loaded_adapters(self):  # an adapter is saved alone
                write_checkpoint_files(self, save_directory)
            if push_to_hub:
                self.push_to_hub(repo_id, token=kwargs.get("token"))

    def push_to_hub(  # type: ignore[override]  # a folder has no shards to size
        self,
        repo_id: str,
        *,
        commit_message: str = "Upload FastLane checkpoint",
        private: bool | None = None,
        token: bool | str | None = None,
        revision: str | None = None,
        create_pr: bool = False,
        **save_kwargs: Any,
    ) -> str:
        """Uploads the whole checkpoint folder, card included, and gives the commit's address.

        transformers' own method would put a bare card in place of ours.
        """
        api = HfApi(token=token)
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        if revision is not None:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, **save_kwargs)
            commit = api.upload_folder(
                repo_id=repo_id,
                folder_path=folder,
                commit_message=commit_message,
                revision=revision,
                create_pr=create_pr,
            )
        return str(commit.pr_url if create_pr else commit.commit_url)
