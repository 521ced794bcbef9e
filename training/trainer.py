"""The trainer: that of Sentence Transformers, which also knows what is in a batch."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from callbacks import FiniteGradients, module_of
from peft import set_peft_model_state_dict
from safetensors.torch import load_file
from sentence_transformers import MultiVectorEncoderTrainer
from sentence_transformers.multi_vector_encoder.data_collator import MultiVectorEncoderDataCollator
from topics import NOT_TEXTS
from torch import Tensor
from torch.utils.data import DataLoader

from fastlane_st.losses import RoutedContrastiveLoss
from fastlane_st.modeling.adapters_fastlane import loaded_adapters


@dataclass
class OriginCollator(MultiVectorEncoderDataCollator):
    """Tokenises the texts of a batch and keeps where its rows came from."""

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, Any]:
        """The batch as the trainer wants it, and `origins`."""
        texts = [
            {name: text for name, text in row.items() if name not in NOT_TEXTS} for row in features
        ]
        return {**super().__call__(texts), "origins": [row["origin"] for row in features]}


class FastLaneTrainer(MultiVectorEncoderTrainer):
    """Logs the parts of the loss, and stops where loss or gradient is no finite number."""

    data_collator_class = OriginCollator

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.processing_class = None  # or transformers writes its token ids into our configuration
        # Those of the step: each of its batches may be what broke a gradient.
        self.batches: deque[list[str]] = deque(maxlen=self.args.gradient_accumulation_steps)
        self.add_callback(FiniteGradients(self.check_finite))

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """The loss of one batch; see `transformers.Trainer`."""
        self.batches.append(inputs.pop("origins"))
        loss = super().compute_loss(model, inputs, num_items_in_batch=num_items_in_batch)
        assert isinstance(loss, Tensor)
        assert isinstance(self.loss, RoutedContrastiveLoss)
        self.check_finite("loss", loss)
        self.track_loss_components(self.loss.measures)
        return (loss, {}) if return_outputs else loss

    def check_finite(self, what: str, value: Tensor) -> None:
        """Raises a FloatingPointError if `value` isn't finite, in all processes if it is in one.

        The weights are as they were before the step, and saved.
        """
        is_finite = torch.isfinite(value.detach()).reshape(1)
        if self.accelerator.gather(is_finite).all():
            return
        saved = Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}"
        is_saved = saved.exists()
        self.accelerator.wait_for_everyone()  # all have looked before one writes
        if not is_saved:
            self._save_checkpoint(self.model, trial=None)
        where = "another process" if is_finite.item() else self.name_rows()
        raise FloatingPointError(
            f"the {what} is not finite at step {self.state.global_step + 1}, in {where}. Look at "
            f"those rows; the weights before that step are in {saved}, to start from as `model` with lower "
            "learning rates or in float32"
        )

    def name_rows(self) -> str:
        """The rows of the step's batches, file by file: `pairs.jsonl:3, 8, 17; more.jsonl:2, 4`."""
        rows = [origin.rpartition(":") for batch in self.batches for origin in batch]
        files = {file: [number for other, _, number in rows if other == file] for file, *_ in rows}
        return "; ".join(f"{file}:{', '.join(numbers)}" for file, numbers in files.items())

    def get_train_dataloader(self) -> DataLoader[Any]:
        """The batches of this process; see `sentence_transformers`."""
        dataloader: DataLoader[Any] = super().get_train_dataloader()
        shard: Any = dataloader.batch_sampler
        # With several processes accelerate's shard hides the sampler's `set_epoch`, so that a run
        # resumed in its second epoch would draw the first epoch's batches again.
        if not hasattr(shard, "set_epoch"):
            shard.set_epoch = shard.batch_sampler.set_epoch
        return dataloader

    def _load_from_checkpoint(self, checkpoint_path: str) -> None:
        model = module_of(self.model).model
        adapters = loaded_adapters(model)
        if not adapters:
            super()._load_from_checkpoint(checkpoint_path)
            return
        # In place, so that what is frozen stays frozen: `load_adapter` makes new parameters.
        weights = load_file(Path(checkpoint_path) / "adapter_model.safetensors")
        state = {name.removeprefix("base_model.model."): value for name, value in weights.items()}
        [name] = adapters
        set_peft_model_state_dict(model, state, name)

    def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
        """Marks the model as retrained, so that its card is written anew; ours isn't theirs."""
        self.model.model_card_data.add_tags("generated_from_trainer")

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        # Theirs writes in every process at once, and pickles the arguments.
        if self.args.should_save:
            self.model.save_pretrained(str(output_dir or self.args.output_dir))
