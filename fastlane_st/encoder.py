"""FastLaneEncoder: a FastLane checkpoint as a Sentence Transformers model, no flag needed."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from sentence_transformers import MultiVectorEncoder

from .hub import CodeSource, follow_umask, reference_code
from .index.index import FastLaneIndex
from .loading import ask_hub, find_checkpoint, no_checkpoint
from .model_card.card import render_card, unpin_code
from .modeling.adapters_fastlane import AdaptableModel, loaded_adapters
from .modeling.checkpoint_fastlane import MODULES, write_module_list
from .modeling.configuration_fastlane import FastLaneConfig
from .modeling.modeling_fastlane import FastLaneModel
from .modeling.st_fastlane import FastLaneTransformer
from .new_model import from_backbone
from .onnx.backend import Backend, Chosen, Dtype, choose, graph_of

if TYPE_CHECKING:
    from typing_extensions import Self

logger = logging.getLogger(__name__)


class FastLaneEncoder(MultiVectorEncoder):
    """A `MultiVectorEncoder` whose queries and documents are routed.

    All of Sentence Transformers works on it: `encode_query`, `encode_document`, `similarity`, prompts,
    process pools, losses, trainers, evaluators, adapters. Encoding takes `num_routes=`: a positive integer,
    None for every token (plain late interaction), or for documents a fraction of their tokens. Its default is
    the checkpoint's. A document's tokens are pooled to that number.

    Args:
        model_name_or_path: Checkpoint folder, Hub name, or `"fastlane-minilm"` for the model that
            this package carries (a folder of that name is `"./fastlane-minilm"`). The folder of an
            adapter loads its base and then the adapter.
        backend: "torch"; "onnx", which runs the model as one graph (see `onnx.graph`) on the CPU, or on
            `device="cuda"`; or "auto", this machine's fastest, which is torch for a model that can't be a
            graph. A graph is taken from the checkpoint's folder `onnx`, or written once into the cache.
        dtype: "float32", "bfloat16" (of torch), "int8" (of onnx), or "auto" for what the processor is
            fastest with (see `onnx.backend.choose`); by default the checkpoint's.
        **kwargs: Arguments of `MultiVectorEncoder`.

    Raises:
        FileNotFoundError: There is no such folder, and the Hub has no such repository or can't be asked.
        ValueError: The folder or repository holds no FastLane checkpoint, or an adapter for another base,
            `device` isn't there, or `backend` can't have `dtype` or adapters.
        ImportError: The extra `onnx` isn't installed, and a graph is to be run.

    Example::

        encoder = FastLaneEncoder("fastlane-minilm")
        routed = encoder.encode_query("how do I parse JSON?", num_routes=1)  # (1, 384)
    """

    def __init__(
        self,
        model_name_or_path: str | os.PathLike[str] | None = None,
        *,
        backend: Backend = "torch",
        dtype: Dtype | None = None,
        **kwargs: Any,
    ):
        adapter = None
        chosen = choose(backend, dtype, kwargs.get("device"))
        graph_device = kwargs.get("device") or "cpu"
        weights_dtype = chosen.dtype
        if chosen.backend == "onnx":
            kwargs["device"] = "cpu"
            weights_dtype = "float32"  # of which a graph is written, int8 as well
        if weights_dtype is not None:
            weights = {"dtype": getattr(torch, weights_dtype)}
            kwargs["model_kwargs"] = {**(kwargs.get("model_kwargs") or {}), **weights}
        if kwargs.get("device") is not None:
            check_device(kwargs["device"])
        if model_name_or_path is not None or not kwargs.get("modules"):
            model_name_or_path, adapter = find_checkpoint(model_name_or_path)
            cache = kwargs.get("cache_folder") or os.environ.get("SENTENCE_TRANSFORMERS_HOME")
            options = ("local_files_only", "revision", "token")
            given = {name: kwargs[name] for name in options if name in kwargs}
            ask_hub(model_name_or_path, cache_dir=cache, **given)
        super().__init__(model_name_or_path, **kwargs)
        if not isinstance(self[0], FastLaneTransformer):
            raise no_checkpoint(str(model_name_or_path))
        if adapter is not None:
            self.load_adapter(adapter)
        if chosen.backend == "onnx" and not (backend == "auto" and self._has_no_graph()):
            self._run_graph(str(model_name_or_path), chosen, str(graph_device))

    def _has_no_graph(self) -> bool:
        """Whether no graph can be written of the model, with a line in the log."""
        kinds = {
            "an adapter": bool(loaded_adapters(self._model)),
            "query expansion": self.fastlane_config.query_expansion is not None,
        }
        why = ", ".join(kind for kind, is_there in kinds.items() if is_there)
        if why:
            logger.info("encoding with torch after all: a graph can't have %s", why)
        return bool(why)

    def _run_graph(self, checkpoint: str, chosen: Chosen, device: str) -> None:
        from .onnx.session import GraphForward, run_graph

        if loaded_adapters(self._model):
            raise no_adapters()
        model = cast(FastLaneModel, self._model)
        run_graph(model, GraphForward(graph_of(model, checkpoint, chosen.dtype), device))  # type: ignore[arg-type]

    @classmethod
    def from_backbone(cls, name_or_path: str | os.PathLike[str], **kwargs: Any) -> FastLaneEncoder:
        """Builds a new encoder over an existing backbone; arguments as for `new_model.from_backbone`."""
        return cls.from_model(from_backbone(name_or_path, **kwargs))

    @classmethod
    def from_model(cls, model: FastLaneModel) -> FastLaneEncoder:
        """Wraps a copy of `model` in an encoder."""
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            return cls(folder)

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Moves the encoder as torch does; a device that isn't there is a ValueError."""
        device = kwargs.get("device", args[0] if args else None)
        if isinstance(device, str | torch.device):
            check_device(device)
            if self.runs_graph and torch.device(device).type != "cpu":
                raise ValueError(
                    f"a graph stays where it was opened: load with backend='onnx', device={str(device)!r}"
                )
        return super().to(*args, **kwargs)

    def load_adapter(self, *args: Any, **kwargs: Any) -> Any:
        """Loads an adapter as Sentence Transformers does; a ValueError where a graph runs."""
        if self.runs_graph:
            raise no_adapters()
        return super().load_adapter(*args, **kwargs)

    def add_adapter(self, *args: Any, **kwargs: Any) -> Any:
        """Adds an adapter as Sentence Transformers does; a ValueError where a graph runs."""
        if self.runs_graph:
            raise no_adapters()
        return super().add_adapter(*args, **kwargs)

    @property
    def runs_graph(self) -> bool:
        """Whether a graph computes in place of torch."""
        return "forward" in vars(self._model)

    def _resolve_inference_device(self, device: Any) -> torch.device:
        if device is not None:  # that of one call to encode
            check_device(device)
        elif self.runs_graph:  # asking every parameter takes a tenth of a query's time
            return self.device
        return super()._resolve_inference_device(device)

    def eval(self) -> Self:
        """Sets evaluation mode, which a graph is in anyway."""
        return self if self.runs_graph and not self.training else super().eval()

    def _input_length(self, sample: Any) -> int:  # type: ignore[override]  # static there, called of self
        # By which Sentence Transformers puts texts of like lengths into one batch.
        if isinstance(sample, str):
            return cast(FastLaneModel, self._model).count_tokens(sample)
        return MultiVectorEncoder._input_length(sample)

    @property
    def _model(self) -> AdaptableModel:
        return cast(AdaptableModel, self[0].model)

    @property
    def fastlane_config(self) -> FastLaneConfig:
        config = self[0].config
        assert isinstance(config, FastLaneConfig)
        return config

    def build_index(
        self, documents: Iterable[str], ids: Iterable[str | int] | None = None, **kwargs: Any
    ) -> FastLaneIndex:
        """Builds a `FastLaneIndex` over `documents`; arguments as for `FastLaneIndex.build`."""
        return FastLaneIndex.build(self, documents, ids, **kwargs)

    def merge_and_unload(self, adapter_name: str | None = None) -> FastLaneEncoder:
        """Folds an adapter into the weights; see `FastLaneModel.merge_and_unload`."""
        self._model.merge_and_unload(adapter_name)
        return self

    def save(
        self,
        path: str | os.PathLike[str],
        *args: Any,
        code_from: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Saves a checkpoint folder that loads with and without this package.

        With an adapter loaded, saves the adapter alone.

        Args:
            path: The folder.
            *args: Arguments of `MultiVectorEncoder.save`.
            code_from: `owner/repo@commit` of a checkpoint on the Hub whose source files this one uses
                instead of its own copies; see `hub.reference_code`.
            **kwargs: Arguments of `MultiVectorEncoder.save`.

        Raises:
            ValueError: `code_from` has another form, or an adapter is loaded, which has no code.
        """
        source = None if code_from is None else CodeSource.parse(code_from)
        if loaded_adapters(self._model):
            if source is not None:
                raise ValueError("an adapter is saved without code: leave code_from out")
            self._model.save_pretrained(path)
            return
        vars(self.fastlane_config).pop("code_revision", None)  # it described the loaded folder
        super().save(str(path), *args, **kwargs)
        write_module_list(Path(path))
        follow_umask(Path(path))
        if source is not None:
            reference_code(Path(path), source)

    def save_pretrained(self, path: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        """Saves a checkpoint folder; see `save`."""
        self.save(path, *args, **kwargs)

    def _create_model_card(self, path: str, *args: Any, **kwargs: Any) -> None:
        trained = "generated_from_trainer" in (self.model_card_data.tags or [])
        retrained = trained or self._model.has_merged_adapter  # the loaded card describes the base
        card = None if retrained else self._model_card_text
        card = unpin_code(card) if card else render_card(self.fastlane_config)
        (Path(path) / "README.md").write_text(card, "utf-8")

    def _load_module_class_from_ref(self, class_ref: str, *args: Any, **kwargs: Any) -> Any:
        if class_ref.rpartition("--")[2] == MODULES[0]["type"]:  # here or in another repository
            return FastLaneTransformer
        return super()._load_module_class_from_ref(class_ref, *args, **kwargs)


def no_adapters() -> ValueError:
    """The error for an adapter on a model that runs a graph."""
    return ValueError(
        "a graph has no adapters: load without backend='onnx', merge_and_unload() and save, and load that"
    )


def check_device(device: str | int | torch.device) -> None:
    """Raises a ValueError for a device that torch doesn't know or that isn't here."""
    try:
        known = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(
            f'device must be "cpu", "cuda", "cuda:1" and so on, or "mps", got {device!r}'
        ) from error
    count_devices = getattr(getattr(torch, known.type, None), "device_count", None)
    if known.type in ("cpu", "meta") or count_devices is None:
        return
    if (known.index or 0) >= count_devices():
        raise ValueError(
            f'there is no device {str(device)!r}: torch sees {count_devices()} of {known.type} here; "cpu" '
            "always works"
        )
