"""The trainer of Sentence Transformers, with checks that name the rows of a broken batch."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import set_peft_model_state_dict
from safetensors.torch import load_file
from sentence_transformers.multi_vector_encoder.data_collator import MultiVectorEncoderDataCollator
from torch import Tensor
from torch.utils.data import DataLoader

from fastlane_st.losses import RoutedContrastiveLoss
from fastlane_st.modeling.adapters_fastlane import loaded_adapters
from fastlane_st.trainer import EncoderTrainer

from .callbacks import FiniteGradients, module_of
from .runs import how_to_start_from
from .topics import NOT_TEXTS


@dataclass
class OriginCollator(MultiVectorEncoderDataCollator):
    """Tokenises the texts of a batch and keeps the origin of each row."""

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, Any]:
        """Returns the trainer's columns and `origins`, such as `pairs.jsonl:17`, one for each row."""
        texts = [
            {name: text for name, text in row.items() if name not in NOT_TEXTS} for row in features
        ]
        return {**super().__call__(texts), "origins": [row["origin"] for row in features]}


class FastLaneTrainer(EncoderTrainer):
    """Logs the parts of the loss, and stops if loss or gradient is infinite or NaN."""

    data_collator_class = OriginCollator

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # The origins of the step's batches: each of them may have broken a gradient.
        self.batches: deque[list[str]] = deque(maxlen=self.args.gradient_accumulation_steps)
        self.add_callback(FiniteGradients(self.check_finite))

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Computes the loss of one batch; see `transformers.Trainer`."""
        self.batches.append(inputs.pop("origins"))
        loss = super().compute_loss(model, inputs, num_items_in_batch=num_items_in_batch)
        assert isinstance(loss, Tensor)
        assert isinstance(self.loss, RoutedContrastiveLoss)
        self.check_finite("loss", loss)
        self.track_loss_components(self.loss.measures)
        return (loss, {}) if return_outputs else loss

    def check_finite(self, what: str, value: Tensor) -> None:
        """Saves a checkpoint and raises a FloatingPointError if `value` is infinite or NaN.

        All processes raise if one of them has such a value. The checkpoint holds the weights from
        before the step.
        """
        is_finite = torch.isfinite(value.detach()).reshape(1)
        if self.accelerator.gather(is_finite).all():
            return
        saved = Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}"
        is_saved = saved.exists()
        self.accelerator.wait_for_everyone()  # no process writes before all have looked
        if not is_saved:
            self._save_checkpoint(self.model, trial=None)
        where = "another process" if is_finite.item() else self.name_rows()
        raise FloatingPointError(
            f"the {what} is not finite at step {self.state.global_step + 1}, in {where}. Look at "
            f"those rows; the weights before that step are in {saved}: start a new run with lower learning "
            f"rates or in float32 {how_to_start_from(saved)}"
        )

    def name_rows(self) -> str:
        """Names the rows of the step's batches by file: `pairs.jsonl:3, 8, 17; more.jsonl:2, 4`."""
        rows = [origin.rpartition(":") for batch in self.batches for origin in batch]
        files = {file: [number for other, _, number in rows if other == file] for file, *_ in rows}
        return "; ".join(f"{file}:{', '.join(numbers)}" for file, numbers in files.items())

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Returns the batches of this process; see `sentence_transformers`."""
        dataloader: DataLoader[Any] = super().get_train_dataloader()
        shard: Any = dataloader.batch_sampler
        # With several processes accelerate's shard hides the sampler's `set_epoch`, so that a run
        # resumed in its second epoch would draw the first epoch's batches again.
        if not hasattr(shard, "set_epoch"):
            shard.set_epoch = shard.batch_sampler.set_epoch
        return dataloader

    def _load_from_checkpoint(
        self, resume_from_checkpoint: str, model: torch.nn.Module | None = None
    ) -> None:
        ours = module_of(self.model).model
        adapters = loaded_adapters(ours)
        if not adapters:
            super()._load_from_checkpoint(resume_from_checkpoint)
            return
        # In place: `load_adapter` would make new parameters, none of them frozen.
        weights = load_file(Path(resume_from_checkpoint) / "adapter_model.safetensors")
        state = {name.removeprefix("base_model.model."): value for name, value in weights.items()}
        [name] = adapters
        set_peft_model_state_dict(ours, state, name)
