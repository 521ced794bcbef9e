"""Stand-ins for the modules of vLLM that `fastlane_st.vllm` imports, where vLLM isn't installed.

Names, signatures and calls are those of vLLM 0.32 and 0.33; the backbone's layers are transformers' own.
`test_engine.py` runs the same classes in vLLM itself.
"""

from __future__ import annotations

import copy
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from types import ModuleType, SimpleNamespace
from typing import Any, Generic, TypeVar

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModel

Given = TypeVar("Given")
Made = TypeVar("Made")


class PoolingParams:
    def __init__(self, task: str | None = None, extra_kwargs: dict[str, Any] | None = None) -> None:
        self.task, self.extra_kwargs = task, extra_kwargs
        self.late_interaction_params: Any = None


class PoolingParamsUpdate:
    def __init__(self, requires_token_ids: bool = False) -> None:
        self.requires_token_ids = requires_token_ids


class PoolingMetadata:
    def __init__(self, prompts: Sequence[Sequence[int]], params: list[PoolingParams]) -> None:
        self.prompts, self.pooling_params = prompts, params

    def get_prompt_token_ids_cpu(self) -> list[Tensor]:
        return [torch.tensor(prompt) for prompt in self.prompts]


class Pooler(nn.Module, ABC):
    @abstractmethod
    def get_supported_tasks(self) -> set[str]: ...


class AllPool(nn.Module):
    def forward(self, hidden_states: Tensor, pooling_metadata: PoolingMetadata) -> list[Tensor]:
        return list(hidden_states.split([len(prompt) for prompt in pooling_metadata.prompts]))


class Backbone(nn.Module):
    """In place of `BertModel` and `ModernBertModel`: texts of one batch are told by their positions."""

    def __init__(self, *, vllm_config: Any, prefix: str = "", embedding_class: Any = None) -> None:
        super().__init__()
        assert prefix == "backbone"
        self.inner = AutoModel.from_config(vllm_config.model_config.hf_config).eval()

    def forward(self, input_ids: Tensor, positions: Tensor, **_: Any) -> Tensor:
        starts = (positions == 0).nonzero()[1:, 0]
        texts = input_ids.tensor_split(starts)
        return torch.cat([self.inner(text[None]).last_hidden_state[0] for text in texts])


class WeightsMapper:
    def __init__(self, orig_to_new_prefix: dict[str, str]) -> None:
        self.prefixes = orig_to_new_prefix

    def name(self, name: str) -> str:
        for old, new in self.prefixes.items():
            if name.startswith(old):
                return new + name.removeprefix(old)
        return name


class AutoWeightsLoader:
    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def load_weights(
        self, weights: Iterable[tuple[str, Tensor]], *, mapper: WeightsMapper
    ) -> set[str]:
        state = {
            mapper.name(name).replace("backbone.", "backbone.inner."): weight
            for name, weight in weights
        }
        missing, unexpected = self.module.load_state_dict(state, strict=False)
        assert not unexpected
        assert all("pooler.dense" in name for name in missing)  # BERT's own, which nothing uses
        return set(state)


class VllmConfig:
    def __init__(self, hf_config: Any, tokenizer: str) -> None:
        self.model_config = SimpleNamespace(
            hf_config=hf_config,
            head_dtype=torch.float32,
            tokenizer=tokenizer,
            tokenizer_revision=None,
        )

    def with_hf_config(self, hf_config: Any) -> VllmConfig:
        changed = copy.copy(self)
        changed.model_config = copy.copy(self.model_config)
        changed.model_config.hf_config = hf_config
        return changed


class IOProcessor(ABC, Generic[Given, Made]):
    def __init__(self, vllm_config: VllmConfig, renderer: object) -> None:
        self.vllm_config = vllm_config


class ModelRegistry:
    models: dict[str, str] = {}  # noqa: RUF012

    @classmethod
    def register_model(cls, model_arch: str, model_cls: str) -> None:
        cls.models[model_arch] = model_cls


def mark(**values: object) -> Callable[[type], type]:
    def decorate(cls: type) -> type:
        for name, value in values.items():
            setattr(cls, name, value)
        return cls

    return decorate


MODULES: dict[str, dict[str, object]] = {
    "vllm": {"ModelRegistry": ModelRegistry},
    "vllm.config": {"VllmConfig": VllmConfig},
    "vllm.model_executor.layers.pooler": {"PoolingParamsUpdate": PoolingParamsUpdate},
    "vllm.model_executor.layers.pooler.abstract": {"Pooler": Pooler},
    "vllm.model_executor.layers.pooler.tokwise": {"AllPool": AllPool},
    "vllm.model_executor.models.bert": {"BertModel": Backbone},
    "vllm.model_executor.models.interfaces_base": {
        "attn_type": lambda kind: mark(attn_type=kind),
        "default_pooling_type": lambda **kinds: mark(
            **{f"default_{k}": v for k, v in kinds.items()}
        ),
    },
    "vllm.model_executor.models.modernbert": {"ModernBertModel": Backbone},
    "vllm.model_executor.models.roberta": {"RobertaEmbedding": object},
    "vllm.model_executor.models.utils": {
        "AutoWeightsLoader": AutoWeightsLoader,
        "WeightsMapper": WeightsMapper,
        "maybe_prefix": lambda prefix, name: f"{prefix}.{name}" if prefix else name,
    },
    "vllm.outputs": {"PoolingRequestOutput": object},
    "vllm.plugins.io_processors.interface": {"IOProcessor": IOProcessor},
    "vllm.pooling_params": {"PoolingParams": PoolingParams},
    "vllm.v1.pool.metadata": {"PoolingMetadata": PoolingMetadata},
}


def install(patch: pytest.MonkeyPatch) -> None:
    """Puts the stand-ins where vLLM's modules are imported from, and takes our own anew with them."""
    for name in [name for name in sys.modules if name.split(".")[0] == "vllm"]:
        patch.delitem(sys.modules, name)
    for name, values in MODULES.items():
        parts = name.split(".")
        for end in range(1, len(parts) + 1):
            parent = ".".join(parts[:end])
            if parent not in sys.modules or not hasattr(sys.modules[parent], "is_stand_in"):
                module = ModuleType(parent)
                module.is_stand_in = True  # type: ignore[attr-defined]
                module.__path__ = []
                patch.setitem(sys.modules, parent, module)
        vars(sys.modules[name]).update(values)
    for own in ("fastlane_st.vllm.model", "fastlane_st.vllm.io_processor"):
        patch.delitem(sys.modules, own, raising=False)
