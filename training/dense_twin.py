"""Trains the dense twin of a FastLane run: the control that a multi-vector claim is measured against.

    python training/dense_twin.py --config training/fastlane-minilm.yaml --output runs/dense-twin
    python benchmarks/quality.py --dense runs/dense-twin …

One mean-pooled vector of the same backbone, trained from the same configuration: the same batches in
the same order, steps, encoder learning rate, schedule, dtype, lengths, prompts, dropout and frozen
layers, with Sentence Transformers' own trainer and loss. What a run gains over its twin comes from
many vectors and their routing, not from the data or the training.

What it leaves out, since one vector has none of it: projection and router with their learning rates,
the number of routes, the Gumbel gate with its temperature, distillation, the teacher, the oracle, and
the parts of the loss. `loss_weights`, `num_routes` and the like may stand in the configuration, so that
it is the run's own file. `--resume` goes on from the newest checkpoint, as in `train.py`.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import set_seed  # type: ignore[import-untyped]
from callbacks import explain_out_of_memory
from sentence_transformers import (
    MultiVectorEncoderTrainingArguments,
    SentenceTransformer,
    SentenceTransformerModelCardData,
    SentenceTransformerTrainer,
)
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.losses import (
    CachedMultipleNegativesRankingLoss,
    MultipleNegativesRankingLoss,
)
from sentence_transformers.sentence_transformer.modules import Pooling
from train import (
    CONFIG_NAME,
    backbone_folder,
    build_encoder,
    find_checkpoint,
    load_dataset,
    prompts_by_column,
    set_dropout,
    training_arguments,
)
from trainer import OriginCollator
from training_config import TrainingConfig
from transformers import TrainerCallback

from fastlane_st import FastLaneConfig


class DenseTrainer(SentenceTransformerTrainer):
    """Sentence Transformers' trainer, with the arguments and the batches of a FastLane run."""

    training_args_class = MultiVectorEncoderTrainingArguments
    data_collator_class = OriginCollator  # queries and documents have lengths of their own

    def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
        """Adds none: theirs copies training texts and their files into the card."""


def main() -> None:
    """Reads the command line and trains."""
    parser = argparse.ArgumentParser(description="Train the dense twin of a FastLane run.")
    parser.add_argument("--config", required=True, help="YAML file of the run")
    parser.add_argument("--output", required=True, help="in place of its output_dir")
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="in place of the file's")
    arguments = parser.parse_args()
    config = TrainingConfig.load(arguments.config, arguments.overrides)
    train_twin(replace(config, output_dir=arguments.output), resume=arguments.resume)


def train_twin(
    config: TrainingConfig, resume: bool = False, callbacks: Sequence[TrainerCallback] = ()
) -> SentenceTransformer:
    """Trains by `config` and leaves a Sentence Transformers checkpoint in its `output_dir`."""
    if config.backbone is None:
        raise ValueError(
            f"a twin starts from a plain encoder, got the FastLane checkpoint {config.model}; set "
            "model=null and backbone=… to the encoder that it was built over"
        )
    output = Path(config.output_dir)
    checkpoint = find_checkpoint(config, resume)
    arguments = training_arguments(config)
    arguments.learning_rate_mapping = {}  # of projection and router
    if arguments.world_size > 1 or arguments.n_gpu > 1:
        raise ValueError(
            f"the twin trains in one process on one device, got {arguments.world_size} processes and "
            f"{arguments.n_gpu} GPUs; start with python, and CUDA_VISIBLE_DEVICES=0 in front"
        )

    set_seed(config.seed)
    encoder = build_encoder(config)  # as the run starts
    twin = build_twin(config, encoder.fastlane_config)
    freeze(twin, config)
    dataset = load_dataset(config, encoder)
    arguments.prompts = prompts_by_column(twin, dataset)
    trainer = DenseTrainer(
        model=twin,
        args=arguments,
        train_dataset=dataset,
        loss=build_loss(twin, config),
        callbacks=list(callbacks),
    )
    output.mkdir(parents=True, exist_ok=True)
    config.save(output / CONFIG_NAME)
    set_seed(config.seed)
    with explain_out_of_memory(config):
        trainer.train(resume_from_checkpoint=checkpoint)
    twin.save_pretrained(str(output))
    print(f"wrote {output}")
    return twin


def build_twin(config: TrainingConfig, settings: FastLaneConfig) -> SentenceTransformer:
    """The untrained twin: the run's backbone and a mean over all of its token states.

    `settings` is the configuration of the run's model, whose lengths and prompts it shares.
    """
    assert config.backbone is not None
    transformer = Transformer(
        str(backbone_folder(config.backbone)),
        model_kwargs={"dtype": torch.float32},
        query_length=settings.query_length,
        document_length=settings.document_length,
        unpad_inputs=False,
    )
    transformer.model.set_attn_implementation(config.attention)
    set_dropout(transformer, config.dropout)
    return SentenceTransformer(
        modules=[transformer, Pooling(transformer.get_embedding_dimension(), "mean")],
        prompts={"query": settings.query_prompt, "document": settings.document_prompt},
        # Neither looks for the backbone on the Hub nor makes examples of the training texts.
        model_card_data=SentenceTransformerModelCardData(
            local_files_only=True, generate_widget_examples=False
        ),
    )


def freeze(twin: SentenceTransformer, config: TrainingConfig) -> None:
    """Freezes what the run keeps, and the pooler, which a mean doesn't use."""
    backbone: Any = twin[0].model
    for name, parameter in backbone.named_parameters():
        name = f"backbone.{name}"  # as FastLaneModel has it, so that the patterns mean the same
        if name.startswith("backbone.pooler.") or any(
            re.search(pattern, name) for pattern in config.frozen
        ):
            parameter.requires_grad_(False)
    trained = any(parameter.requires_grad for parameter in backbone.parameters())
    if not (trained and config.encoder_learning_rate):
        raise ValueError(
            f"nothing of the twin is trained: encoder_learning_rate is {config.encoder_learning_rate} "
            f"and frozen is {list(config.frozen)}; it has no projection or router to train instead"
        )


def build_loss(twin: SentenceTransformer, config: TrainingConfig) -> torch.nn.Module:
    """Contrastive over the batch's documents, by the cosine times `config.scale`."""
    if config.mini_batch_size is None:
        return MultipleNegativesRankingLoss(twin, scale=config.scale)
    return CachedMultipleNegativesRankingLoss(
        twin, scale=config.scale, mini_batch_size=config.mini_batch_size
    )


if __name__ == "__main__":
    main()
