"""The trainer of Sentence Transformers, with files as this package writes them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sentence_transformers import MultiVectorEncoderTrainer


class EncoderTrainer(MultiVectorEncoderTrainer):
    """Saves checkpoints without pickles, keeps the configuration, and writes no other model card.

    Needs the extra `train`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # With one, transformers would write its token ids into our configuration.
        self.processing_class = None

    def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
        """Marks the model as retrained, which writes our card anew, and adds no card of theirs."""
        self.model.model_card_data.add_tags("generated_from_trainer")

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        # The inherited method writes in every process at once, and pickles the arguments.
        if self.args.should_save:
            self.model.save_pretrained(str(output_dir or self.args.output_dir))


def prompts_by_column(
    prompts: Mapping[str, str | None], columns: Iterable[str]
) -> dict[str, str] | None:
    """Gives each column the model's prompt, as the trainer adds none by itself; None without prompts."""
    query, document = (prompts.get(side) or "" for side in ("query", "document"))
    if not (query or document):
        return None
    return {name: query if name == "query" else document for name in columns}
