"""Adapters of a FastLaneModel: LoRA for the backbone, with a projection and a router of their own.

transformers' own methods switch the LoRA layers alone. These also switch the head
(`modules_to_save`), check that an adapter was made for this base, and merge.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor
from transformers import PreTrainedModel

from .fingerprint_fastlane import base_digest, base_digests, base_state

if TYPE_CHECKING:
    from transformers.utils.loading_report import LoadStateDictInfo

BASE_DIGESTS = "base_sha256"
"""Where `auto_mapping`, the one free field of a PEFT configuration, keeps `base_digests`."""

logger = logging.getLogger(__name__)


class PeftConfig(Protocol):
    """The attributes of `peft.PeftConfig` that are used here."""

    auto_mapping: dict[str, Any] | None
    base_model_name_or_path: str | None
    inference_mode: bool


class AdaptableModel(PreTrainedModel):
    """The methods of `FastLaneModel` that handle adapters; `set_adapter` and others are inherited.

    Example::

        model.load_adapter("runs/medquad", "medquad")  # and active
        model.load_adapter("runs/legal", "legal")
        model.set_adapter("medquad")
        model.merge_and_unload().save_pretrained("my-medquad")  # an ordinary checkpoint
    """

    has_merged_adapter: bool = False
    """Whether the weights differ from those of the checkpoint that the model came from."""

    def add_adapter(self, adapter_config: PeftConfig, adapter_name: str | None = None) -> None:
        """Adds an untrained adapter, makes it the active one, and records the base it belongs to.

        `fastlane_st.adapters.lora_config` gives a configuration that trains the head too.

        Raises:
            ValueError: The name is taken or can't be used, or no module has a targeted name.
        """
        self._check_adapter_name(adapter_name or "default")
        digests = base_digests(self, self.dtype)
        try:
            with _without_false_alarms():
                super().add_adapter(adapter_config, adapter_name)
        finally:  # transformers sets it before it has found the modules
            self._hf_peft_config_loaded = bool(loaded_adapters(self))
        adapter_config.auto_mapping = {
            "base_model_class": "FastLaneModel",
            "parent_library": "fastlane_st",
            BASE_DIGESTS: digests,
        }

    def load_adapter(  # type: ignore[override]  # all but these pass through by keyword
        self, peft_model_id: str | None = None, adapter_name: str | None = None, **kwargs: Any
    ) -> LoadStateDictInfo:
        """Loads an adapter from a folder or the Hub and makes it the active one.

        The arguments and the result are those of transformers' own method.

        Raises:
            ValueError: The adapter was made for another base, or some of its weights are missing.
            ImportError: peft is not installed.
        """
        name = adapter_name or "default"
        self._check_adapter_name(name)
        config = kwargs.get("peft_config") or _read_config(str(peft_model_id), kwargs)
        self._check_base(config, str(peft_model_id))
        is_new = name not in loaded_adapters(self)
        own_names = getattr(self, "_weight_conversions", None)
        with _without_false_alarms():
            loaded = super().load_adapter(peft_model_id, name, **kwargs)
        # Loading leaves the adapter's conversions; they would save a merged model under PEFT's names.
        self._weight_conversions = own_names
        missing = [key for key in loaded.missing_keys if f".{name}." in f"{key}."]
        if missing or loaded.unexpected_keys:
            self.delete_adapter(name)
            raise ValueError(
                f"the adapter {peft_model_id} is broken: its configuration and its weights disagree on "
                f"{sorted({*missing, *loaded.unexpected_keys})}; save or download it again"
            )
        if is_new:  # otherwise its weights were replaced in place
            self.enable_adapters()
            self.set_adapter(name)
        return loaded

    def set_adapter(self, adapter_name: list[str] | str) -> None:
        """Makes an adapter the active one, head included.

        Raises:
            ValueError: No such adapter is loaded.
        """
        names = [adapter_name] if isinstance(adapter_name, str) else adapter_name
        loaded = loaded_adapters(self)
        if not set(names) <= loaded.keys():
            raise ValueError(f"adapter_name must be one of {list(loaded)}, got {adapter_name!r}")
        is_frozen = all(loaded[name].inference_mode for name in names)
        import_peft().functional.set_adapter(self, adapter_name, inference_mode=is_frozen)

    def enable_adapters(self) -> None:
        """Undoes `disable_adapters`; transformers' own method leaves the head disabled."""
        super().enable_adapters()
        for _, module in self.wrappers():
            module.enable_adapters(enabled=True)

    def delete_adapter(self, adapter_names: list[str] | str) -> None:
        """Removes adapters; without any, the model computes what it did before the first."""
        super().delete_adapter(adapter_names)
        if not loaded_adapters(self):
            self._unwrap(merge=False)

    def merge_and_unload(self, adapter_name: str | None = None) -> AdaptableModel:
        """Folds an adapter into the model's weights and removes all adapters.

        The model is then saved as an ordinary checkpoint.

        Args:
            adapter_name: The adapter to fold in; the active one by default.

        Returns:
            This model.
        """
        self.enable_adapters()
        self.set_adapter(adapter_name or self.active_adapters())
        self._unwrap(merge=True)
        self.has_merged_adapter = True
        return self

    def get_adapter_state_dict(
        self, adapter_name: str | None = None, state_dict: dict[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """The weights of an adapter (the active one by default), without its name in the keys."""
        found: dict[str, Tensor] = import_peft().get_peft_model_state_dict(
            self,
            state_dict=state_dict,
            adapter_name=adapter_name or self.active_adapters()[0],
            save_embedding_layers=False,  # "auto" asks the Hub whether the vocabulary grew
        )
        return found

    @property
    def has_active_adapter(self) -> bool:
        """Whether an adapter takes part in what the model computes."""
        if not loaded_adapters(self):
            return False
        return not any(module.disable_adapters for _, module in self.wrappers())

    def wrappers(self) -> list[tuple[str, Any]]:
        """The modules that PEFT put in place of ours, with their names."""
        peft = import_peft()
        kinds = (peft.tuners.tuners_utils.BaseTunerLayer, peft.utils.ModulesToSaveWrapper)
        return [(name, each) for name, each in self.named_modules() if isinstance(each, kinds)]

    def _unwrap(self, merge: bool) -> None:
        """Puts plain modules in place of PEFT's, with the active adapter merged or without it."""
        for name, module in self.wrappers():
            if hasattr(module, "unload_and_optionally_merge_module"):
                plain = module.unload_and_optionally_merge_module(merge, True, None)
            else:
                if merge:
                    module.merge(safe_merge=True)
                plain = module.get_base_layer()
            parent, _, last = name.rpartition(".")
            setattr(self.get_submodule(parent), last, plain)
        self.requires_grad_(True)  # as in a model that was just loaded
        if loaded_adapters(self):
            del self.peft_config
        self._hf_peft_config_loaded = False

    def _check_adapter_name(self, name: str) -> None:
        """Raises a ValueError for a name that PEFT would find elsewhere in the names of weights."""
        if "." in name or name in {part for key in base_state(self) for part in key.split(".")}:
            raise ValueError(
                f"adapter_name must not be one of the model's own names, nor hold a dot, got {name!r}"
            )

    def _check_base(self, config: PeftConfig, adapter: str) -> None:
        """Raises a ValueError if an adapter was made for other weights than this model's."""
        expected = (config.auto_mapping or {}).get(BASE_DIGESTS)
        if expected is None:
            logger.warning("the adapter %s doesn't tell its base, which isn't checked", adapter)
            return
        digest = base_digest(self, self.dtype)
        if expected.get(str(self.dtype)) != digest:
            raise ValueError(
                f"the adapter {adapter} was made for the base {config.base_model_name_or_path} "
                f"({expected.get(str(self.dtype), 'no weights')[:12]} in {self.dtype}), this is "
                f"{self.name_or_path or 'a new model'} ({digest[:12]}); load it into its own base, "
                "or train one for this"
            )


def loaded_adapters(model: PreTrainedModel) -> dict[str, PeftConfig]:
    """The configurations of a model's adapters, by name."""
    found: dict[str, PeftConfig] = getattr(model, "peft_config", {})
    return found


def _read_config(adapter: str, options: dict[str, Any]) -> PeftConfig:
    """The configuration of an adapter, from the place that `load_adapter` reads with `options`."""
    download = dict(getattr(options.get("load_config"), "download_kwargs", {}))
    download |= options.get("adapter_kwargs") or {}
    config: PeftConfig = import_peft().PeftConfig.from_pretrained(adapter, **download)
    return config


def import_peft() -> ModuleType:
    """The module `peft`, imported at first use: a checkpoint encodes without it."""
    try:
        import peft
        import peft.functional
    except ImportError as error:
        raise ImportError("adapters need peft: pip install peft") from error
    return peft


@contextmanager
def _without_false_alarms() -> Iterator[None]:
    """Silences the report that the base's weights are missing, and PEFT's warning of a second adapter."""
    report = logging.getLogger("transformers.integrations.peft")
    level = report.level
    report.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Already found a `peft_config` attribute")
            yield
    finally:
        report.setLevel(level)
