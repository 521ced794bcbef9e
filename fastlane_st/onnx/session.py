"""Runs the graph in place of a model's own forward pass."""

from __future__ import annotations

import os
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..modeling.modeling_fastlane import FastLaneModel, parts_of_batch
from ..modeling.projection_fastlane import FastLaneOutput
from ..modeling.routing_fastlane import Task
from .graph import OUTPUTS, graph_digest, read_about

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
SLOWER = ["SkipLayerNormFusion"]
"""Fusions of onnxruntime that take longer than what they fuse, as of 1.32 on a CPU."""
READ = tuple(name for name in OUTPUTS if name != "one_route")


class GraphForward:
    """A forward pass that runs a graph: the same arguments and output as `FastLaneModel.forward`.

    It can be pickled, so that processes that encode each open the file.

    Args:
        path: What `export_graph` wrote.
        device: "cpu" or "cuda"; the outputs are on the CPU.
        threads: Of one product; torch's own number by default.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file isn't such a graph, or the device's provider isn't there.
        ImportError: onnxruntime isn't installed.

    Attributes:
        return_dict: What holds for a call that doesn't give it; `run_graph` takes the configuration's.
        has_shifts: Whether queries have `route_shifts`, which are 0 in a graph of a model without route
            layers; `run_graph` asks the model.
    """

    def __init__(
        self, path: str | os.PathLike[str], device: str = "cpu", threads: int | None = None
    ) -> None:
        self.path = Path(path)
        self.device = device
        self.threads = threads
        self.return_dict: bool | None = True
        self.has_shifts = True
        self._open()

    def _open(self) -> None:
        runtime = import_runtime()
        if not self.path.exists():
            raise FileNotFoundError(f"there is no graph {self.path}")
        provider = PROVIDERS.get(self.device)
        there = runtime.get_available_providers()
        if provider not in there:
            raise ValueError(
                f"onnxruntime has no provider for device {self.device!r} here, only {', '.join(there)}: "
                "take device='cpu', or install onnxruntime-gpu"
            )
        options = runtime.SessionOptions()
        options.intra_op_num_threads = self.threads or torch.get_num_threads()
        options.log_severity_level = 3
        # Threads that spin after a product keep torch's own from routing what came of it.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        slower = SLOWER if self.device == "cpu" else None
        try:
            self._session = runtime.InferenceSession(
                str(self.path), options, providers=[provider], disabled_optimizers=slower
            )
        except Exception as error:  # classes of its own, without a common one
            raise ValueError(f"{self.path} can't be read as ONNX: {error}") from None
        self.about = read_about(self.path, dict(self._session.get_modelmeta().custom_metadata_map))

    def __call__(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        task: Task = "query",
        *,
        return_dict: bool | None = None,
        **_: Any,
    ) -> Any:
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        ids, mask = input_ids.cpu(), mask.to(torch.int64).cpu()
        parts = list(parts_of_batch(mask.bool())) if self.device == "cpu" else []
        if len(parts) <= 1:
            values = self._run(ids, mask, task)
        else:
            values = {}
            for rows, length in parts:
                found = self._run(ids[rows, :length], mask[rows, :length], task)
                for name, part in found.items():
                    if name not in values:
                        values[name] = part.new_zeros(*mask.shape, *part.shape[2:])
                    values[name][rows, :length] = part
        if task == "document":
            values["router_logits"] = None
        if task == "document" or not self.has_shifts:
            values["route_shifts"] = None
        output = FastLaneOutput(**values)
        is_wanted = self.return_dict if return_dict is None else return_dict
        return output if is_wanted else output.to_tuple()

    def _run(self, input_ids: Tensor, attention_mask: Tensor, task: Task) -> dict[str, Any]:
        given = {
            "input_ids": input_ids.numpy(),
            "attention_mask": attention_mask.numpy(),
            "is_query": np.array(task == "query"),
        }
        found = self._session.run(READ, given)
        return {name: torch.from_numpy(each) for name, each in zip(READ, found, strict=True)}

    def __getstate__(self) -> dict[str, Any]:
        names = ("path", "device", "threads", "return_dict", "has_shifts")
        return {name: getattr(self, name) for name in names}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._open()


def run_graph(model: FastLaneModel, forward: GraphForward) -> None:
    """Makes a model run a graph; a ValueError unless it was written of this one."""
    if forward.about["checkpoint"] != graph_digest(model):
        raise ValueError(
            f"{forward.path} was written of other weights or settings: write it anew with "
            "'fastlane export DIR --onnx'"
        )
    forward.return_dict = model.config.return_dict
    forward.has_shifts = model.route_layers is not None
    model.forward = forward  # type: ignore[assignment, method-assign]


def import_runtime() -> ModuleType:
    """The module `onnxruntime`, imported at first use."""
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise ImportError(
            'the backend "onnx" needs onnxruntime: pip install "fastlane-st[onnx]"'
        ) from error
    module: ModuleType = onnxruntime
    return module
