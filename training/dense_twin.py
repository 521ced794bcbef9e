"""Trains the dense twin of a FastLane run, the control for what many vectors gain.

    python -m training.dense_twin --config training/fastlane-minilm.yaml --output runs/dense-twin

The twin is one mean-pooled vector of the same backbone, trained from the same configuration: the same
batches in the same order, steps, encoder learning rate, schedule, dtype, lengths, prompts, dropout and
frozen layers, with Sentence Transformers' own trainer and loss. The difference between a run and its
twin comes from many vectors and their routing, not from the data or the training.

The configuration is the run's own file. The twin ignores the settings that one vector has no use for:
projection and router with their learning rates, the number of routes, the Gumbel gate, the teacher, and
the parts of the loss. `--resume` goes on from the newest checkpoint, as in `train.py`.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import set_seed  # type: ignore[import-untyped]
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
from transformers import TrainerCallback

from fastlane_st import FastLaneConfig

from .callbacks import explain_out_of_memory
from .command_line import HOW_TO_RESUME, add_run_options, exit_status
from .data import check_sources
from .runs import CONFIG_NAME, backbone_folder, find_checkpoint
from .train import (
    build_encoder,
    load_dataset,
    prompts_by_source,
    set_dropout,
    training_arguments,
)
from .trainer import OriginCollator
from .training_config import TrainingConfig


class DenseTrainer(SentenceTransformerTrainer):
    """Sentence Transformers' trainer, with the arguments and the batches of a FastLane run."""

    training_args_class: type[Any] = MultiVectorEncoderTrainingArguments
    data_collator_class: type[Any] = OriginCollator  # cuts queries and documents at own lengths

    def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
        """Adds no callback: it would copy training texts and paths into the model card."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains as the command line says; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m training.dense_twin", description="Train the dense twin of a FastLane run."
    )
    parser.add_argument("--output", required=True, help="replaces the run's output_dir")
    add_run_options(parser)
    options = parser.parse_args(arguments)

    def command() -> None:
        config = TrainingConfig.load(options.config, options.overrides)
        train_twin(replace(config, output_dir=options.output), resume=options.resume)

    return exit_status("dense_twin", command, HOW_TO_RESUME)


def train_twin(
    config: TrainingConfig, resume: bool = False, callbacks: Sequence[TrainerCallback] = ()
) -> SentenceTransformer:
    """Trains by `config` and saves a Sentence Transformers checkpoint in its `output_dir`.

    Arguments and errors are those of `train.train`; a configuration with `model` in place of
    `backbone`, or several processes, are a ValueError too.
    """
    if config.backbone is None:
        raise ValueError(
            f"a twin starts from a plain encoder, got the FastLane checkpoint {config.model}; set "
            "model=null and backbone=… to the encoder that it was built over"
        )
    check_sources(config.sources)  # before a model is loaded or built
    output = Path(config.output_dir)
    checkpoint = find_checkpoint(config, resume)
    arguments: Any = training_arguments(config)
    arguments.learning_rate_mapping = {}  # without projection and router
    if arguments.world_size > 1 or arguments.n_gpu > 1:
        raise ValueError(
            f"the twin trains in one process on one device, got {arguments.world_size} processes and "
            f"{arguments.n_gpu} GPUs; start with python, and CUDA_VISIBLE_DEVICES=0 in front"
        )

    set_seed(config.seed)
    encoder = build_encoder(config)  # draws from the generator as the run does, and clusters topics
    twin = build_twin(config, encoder.fastlane_config)
    freeze(twin, config)
    dataset = load_dataset(config, encoder)
    arguments.prompts = prompts_by_source(twin.prompts, dataset)
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
    """Builds the untrained twin: the run's backbone and the mean over its token states.

    Args:
        config: The settings of the run.
        settings: The configuration of the run's model; the twin has its lengths and prompts.
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
        # The card needs no look at the Hub, and must not show training texts.
        model_card_data=SentenceTransformerModelCardData(
            local_files_only=True, generate_widget_examples=False
        ),
    )


def freeze(twin: SentenceTransformer, config: TrainingConfig) -> None:
    """Freezes the parameters that match `frozen`, and the pooler, which a mean has no use for."""
    backbone: Any = twin[0].model
    for name, parameter in backbone.named_parameters():
        name = f"backbone.{name}"  # its name in FastLaneModel, for which the patterns are written
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
    """Builds the contrastive loss over the batch's documents, with cosine times `config.scale`."""
    if config.mini_batch_size is None:
        return MultipleNegativesRankingLoss(twin, scale=config.scale)
    return CachedMultipleNegativesRankingLoss(
        twin, scale=config.scale, mini_batch_size=config.mini_batch_size
    )


if __name__ == "__main__":
    sys.exit(main())
