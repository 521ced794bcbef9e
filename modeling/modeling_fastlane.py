"""FastLaneModel: backbone, router and projection, put together in one forward pass."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel
from transformers import initialization as init

from .configuration_fastlane import FastLaneConfig
from .encoding_fastlane import TextEncodingModel
from .projection_fastlane import FastLaneOutput, ViewProjection
from .router_fastlane import RouteLayers, TokenRouter
from .routing_fastlane import Task, best_first

CPU_TOKENS = 1_024  # that a CPU's forward pass is given at a time, padding included


class FastLaneModel(TextEncodingModel):
    """A late-interaction encoder whose router sums a query up in a few views, its routes.

    Its base classes hold what is no part of the forward pass: encoding and routing of texts
    (`TextEncodingModel`), checkpoint folders (`CheckpointModel`), adapters (`AdaptableModel`).

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

    def __init__(self, config: FastLaneConfig) -> None:
        super().__init__(config)
        self.backbone = AutoModel.from_config(config.backbone_config)
        if getattr(self.backbone, "pooler", None) is not None:
            self.backbone.pooler = None  # unused weights, which DistributedDataParallel refuses
        self.projection = ViewProjection(config)
        self.router = TokenRouter(config)
        self.route_layers = RouteLayers(config) if config.num_route_layers else None
        self.max_positions = count_positions(self.backbone)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        task: Task = "query",
        query_expansion_positions: Tensor | None = None,
        return_dict: bool | None = None,
        max_routes: int | None = None,
        **backbone_kwargs: Any,
    ) -> Any:
        """Encodes tokenised texts; nothing is routed yet (see `route`).

        Args:
            input_ids: (B, T) int64, with T at most `max_positions`.
            attention_mask: (B, T), 0 at padding. Without it, every token counts.
            task: The side: a query's tokens get router logits, a document's their context.
            query_expansion_positions: (B, T) bool, true at tokens that `query_expansion` added: they are
                views, attended to or not.
            return_dict: False gives the tuple of the output's values that aren't None.
            max_routes: The most routes that `route` will be asked for: route layers are then computed for so
                many tokens, for none if 0. By default for every token.
            **backbone_kwargs: For the backbone, such as `token_type_ids`.

        Returns:
            A `FastLaneOutput`.

        Raises:
            ValueError: There are no `input_ids`, they are too long, or there is no such task.
        """
        input_ids = self._check_inputs(input_ids, task, backbone_kwargs)
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        backbone_kwargs["return_dict"] = True
        token_mask = self.token_mask(input_ids, attention_mask, task)
        if query_expansion_positions is not None:
            token_mask = token_mask | query_expansion_positions.bool()
        seen = attention_mask.bool() | token_mask
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
        states = self._run_backbone(seen, inputs | backbone_kwargs)
        hidden = states["last_hidden_state"]
        output = self.score_tokens(hidden, seen, token_mask, task, max_routes)
        output.hidden_states = states.get("hidden_states")
        output.attentions = states.get("attentions")
        is_wanted = self.config.return_dict if return_dict is None else return_dict
        return output if is_wanted else output.to_tuple()

    def _run_backbone(self, seen: Tensor, inputs: dict[str, Any]) -> Any:
        """The backbone's output. A CPU gets some texts at a time, so that it spends little on padding."""
        tensors = {name: each for name, each in inputs.items() if isinstance(each, Tensor)}
        is_alone = inputs.keys() - tensors.keys() <= {"return_dict"} and all(
            each.shape == seen.shape for each in tensors.values()
        )
        if seen.device.type != "cpu" or not is_alone or torch.compiler.is_compiling():
            return self.backbone(**inputs)
        states = None
        for rows, length in parts_of_batch(seen):
            part = {name: each[rows, :length] for name, each in tensors.items()}
            found = self.backbone(**inputs | part).last_hidden_state
            if states is None:
                states = found.new_zeros(*seen.shape, found.shape[-1])
            states[rows, :length] = found
        return {"last_hidden_state": states}

    def score_tokens(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor,
        token_mask: Tensor,
        task: Task,
        max_routes: int | None = None,
    ) -> FastLaneOutput:
        """All of the forward pass that comes after the backbone.

        Args:
            hidden_states: (B, T, H) float, the backbone's token states.
            attention_mask: (B, T), 0 at what the router and the route layers don't see.
            token_mask: (B, T) bool, true at the tokens that are views of the text.
            task: The side.
            max_routes: As in `forward`.
        """
        logits = shifts = None
        if task == "query":
            logits = self.router(hidden_states, attention_mask)
            if self.route_layers is not None and max_routes != 0:
                tokens = None
                if max_routes is not None:
                    tokens = best_first(logits, token_mask)[:, :max_routes]
                shifts = self.route_layers(hidden_states, attention_mask, tokens)
        return FastLaneOutput(
            token_embeddings=self.projection(hidden_states, token_mask, task),
            router_logits=logits,
            token_mask=token_mask,
            route_shifts=shifts,
            last_hidden_state=hidden_states,
        )

    def _check_inputs(self, input_ids: Tensor | None, task: str, given: dict[str, Any]) -> Tensor:
        if input_ids is None or given.get("inputs_embeds") is not None:
            raise ValueError(
                "a FastLane model takes input_ids and no inputs_embeds: it tells special tokens by their ids"
            )
        if task not in ("query", "document"):
            raise ValueError(f'task must be "query" or "document", got {task!r}')
        if input_ids.ndim != 2:
            raise ValueError(f"input_ids must be (texts, tokens), got {tuple(input_ids.shape)}")
        if self.max_positions is not None and input_ids.shape[1] > self.max_positions:
            raise ValueError(
                f"texts must have at most {self.max_positions} tokens, the backbone's positions, got "
                f"{input_ids.shape[1]}: lower query_length, document_length or max_seq_length"
            )
        return input_ids

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> Any:
        """As transformers' own; the configuration of the backbone is told as well, or nothing loads again."""
        embeddings = super().resize_token_embeddings(*args, **kwargs)
        self.backbone.config.vocab_size = (
            embeddings.num_embeddings
        )  # which is config.backbone_config
        return embeddings

    def token_mask(self, input_ids: Tensor, attention_mask: Tensor, task: Task) -> Tensor:
        """(B, T) bool: the tokens that are views of the text (see `FastLaneOutput.token_mask`)."""
        present = attention_mask.bool()
        config = self.config
        skipped = config.query_skip_ids if task == "query" else config.document_skip_ids
        if not config.use_special_tokens:
            skipped = [*skipped, *config.special_token_ids]
        if not skipped:
            return present
        content = present & ~torch.isin(input_ids, torch.tensor(skipped, device=input_ids.device))
        return content | (present & ~content.any(dim=-1, keepdim=True))

    def _init_weights(self, module: Any) -> None:
        super()._init_weights(module)
        if isinstance(module, RouteLayers):  # untrained, they change no route
            init.zeros_(module.output)


def parts_of_batch(seen: Tensor) -> Iterator[tuple[Tensor, int]]:
    """Parts a batch, the longest texts first, into texts that have at most `CPU_TOKENS` tokens together.

    Args:
        seen: (B, T) bool, false at padding.

    Yields:
        The rows of some texts, at least one, int64; and their length up to the padding of the longest.
    """
    lengths = (seen.int() * torch.arange(1, seen.shape[1] + 1)).amax(dim=1)
    order = lengths.argsort(descending=True, stable=True)
    while len(order):
        longest = int(lengths[order[0]])
        count = max(1, CPU_TOKENS // max(1, longest))
        yield order[:count], longest
        order = order[count:]


def count_positions(backbone: nn.Module) -> int | None:
    """The most tokens that learned position embeddings allow; None for rotary ones, which have no end."""
    for name, module in backbone.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            unused = 0 if module.padding_idx is None else module.padding_idx + 1
            return module.num_embeddings - unused
    return None
