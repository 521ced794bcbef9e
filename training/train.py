"""Trains a FastLane encoder.

    OMP_NUM_THREADS=2 accelerate launch -m training.train --config training/fastlane-minilm.yaml
    python -m training.train --config training/fastlane-minilm.yaml max_steps=100 seed=1
    python -m training.train --config training/medquad-lora.yaml

`--resume` goes on from the newest checkpoint of the run, to the same weights as if it had never
stopped. With several processes each takes batches of its own: a query's negatives are those of its
process, and gradients are averaged. With `lora` in the configuration the run trains and saves only an
adapter. `accelerate launch --quiet` keeps accelerate's own traceback out of a failed run's message.
"""

from __future__ import annotations

import argparse
import copy
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import set_seed  # type: ignore[import-untyped]
from datasets import DatasetDict
from sentence_transformers import MultiVectorEncoderTrainingArguments
from sentence_transformers.util import get_device_name
from transformers import TrainerCallback

from fastlane_st import FastLaneEncoder
from fastlane_st.hub import BASE_MODEL, save_delta
from fastlane_st.losses import CachedRoutedContrastiveLoss, RoutedContrastiveLoss
from fastlane_st.trainer import prompts_by_column

from .callbacks import GateSchedule, JsonLog, explain_out_of_memory, module_of
from .command_line import HOW_TO_RESUME, add_run_options, announce, exit_status
from .data import check_batches, check_sources, load_sources
from .passages import join_positives
from .runs import CONFIG_NAME, backbone_folder, find_base, find_checkpoint
from .topics import TopicBatchSampler, add_topics
from .trainable import add_adapter, check_base, freeze_unused
from .trainer import FastLaneTrainer
from .training_config import TrainingConfig


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains as the command line says; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m training.train", description="Train a FastLane encoder."
    )
    add_run_options(parser)
    options = parser.parse_args(arguments)

    def command() -> None:
        train(TrainingConfig.load(options.config, options.overrides), resume=options.resume)

    return exit_status("train", command, HOW_TO_RESUME)


def train(
    config: TrainingConfig, resume: bool = False, callbacks: Sequence[TrainerCallback] = ()
) -> FastLaneEncoder:
    """Trains by `config` and saves a checkpoint, or an adapter, in its `output_dir`.

    Args:
        config: The settings of the run.
        resume: Go on from the run's newest checkpoint.
        callbacks: More callbacks, called after those of the run.

    Returns:
        The trained encoder.

    Raises:
        ValueError: The run can't start: a setting, a source or a folder doesn't fit.
        FloatingPointError: Loss or gradient became infinite or NaN; the message names the rows.
        MemoryError: The message names the settings to lower.
    """
    check_sources(config.sources)  # before a model is loaded or built
    output = Path(config.output_dir)
    checkpoint = find_checkpoint(config, resume)
    arguments = training_arguments(config)  # starts the process group, where there is one
    arguments.distributed_state.wait_for_everyone()  # no process writes before all have looked
    if arguments.n_gpu > 1:
        raise ValueError(
            f"{arguments.n_gpu} GPUs are visible to one process; start with accelerate launch, or "
            "set CUDA_VISIBLE_DEVICES=0"
        )

    if arguments.device.type == "cpu" and torch.get_num_threads() == 1 < (os.cpu_count() or 1):
        print("one thread a process, as accelerate launch sets it; OMP_NUM_THREADS raises it")

    # Every process builds the same model and reads the same data.
    set_seed(config.seed)
    encoder = build_encoder(config)
    base = find_base(config, encoder) if config.delta else None
    teacher = build_teacher(config, encoder, arguments.device)
    dataset = load_dataset(config, encoder, arguments.world_size)
    arguments.prompts = prompts_by_source(encoder.prompts, dataset)
    add_adapter(encoder, config)
    freeze_unused(encoder, config)

    loss_class: Callable[..., RoutedContrastiveLoss] = RoutedContrastiveLoss
    if config.mini_batch_size is not None:
        loss_class = partial(CachedRoutedContrastiveLoss, mini_batch_size=config.mini_batch_size)
    loss = loss_class(
        encoder,
        config.loss_weights,
        num_routes=config.num_routes,
        scale=config.scale,
        oracle_scale=config.oracle_scale,
        teacher=teacher,
    )
    trainer = FastLaneTrainer(
        model=encoder,
        args=arguments,
        train_dataset=dataset,
        loss=loss,
        callbacks=[GateSchedule(config), JsonLog(output / "log.jsonl"), *callbacks],
    )
    if trainer.is_world_process_zero():
        output.mkdir(parents=True, exist_ok=True)
        config.save(output / CONFIG_NAME)

    set_seed(config.seed, device_specific=True)  # each process draws its own noise
    with explain_out_of_memory(config):
        trainer.train(resume_from_checkpoint=checkpoint)

    if trainer.is_world_process_zero():
        encoder.save_pretrained(str(output))
        if base is not None:
            save_delta(module_of(encoder).model, base, output / "delta")
        print(f"wrote {output}")
    trainer.accelerator.wait_for_everyone()
    return encoder


def build_encoder(config: TrainingConfig) -> FastLaneEncoder:
    """Builds the encoder to train, with the run's dropout and attention."""
    if config.backbone is not None:
        known = {"base_model": config.backbone} if config.backbone == BASE_MODEL else {}
        folder = backbone_folder(config.backbone)
        encoder = FastLaneEncoder.from_backbone(folder, **known, **config.backbone_options)
    else:
        encoder = FastLaneEncoder(config.model)
    check_base(encoder, config)
    encoder.fastlane_config.query_num_routes = config.query_num_routes
    for name in ("query_length", "document_length"):
        wanted, longest = getattr(config, name), getattr(encoder.fastlane_config, name)
        if wanted is not None and wanted > longest:
            raise ValueError(f"{name} must be at most the model's own, {longest}, got {wanted}")
    module_of(encoder).model.backbone.set_attn_implementation(config.attention)
    set_dropout(encoder, config.dropout)
    return encoder


def set_dropout(model: torch.nn.Module, probability: float) -> None:
    """Sets the probability of every dropout layer; the configuration that is saved stays."""
    layers: Iterable[Any] = model.modules()
    for layer in layers:
        if isinstance(layer, torch.nn.Dropout):
            layer.p = probability
        elif isinstance(getattr(layer, "attention_dropout", None), float):
            layer.attention_dropout = probability


def load_dataset(
    config: TrainingConfig, encoder: FastLaneEncoder, num_processes: int = 1
) -> DatasetDict:
    """Reads the run's sources, joins positives where `join` says so, and adds topics if asked.

    Args:
        config: The settings of the run.
        encoder: The untrained encoder of the run: it says which texts are near.
        num_processes: How many processes draw batches.
    """
    dataset = load_sources(config.sources, config.batch_size, num_processes, config.seed)
    for name, rows in dataset.items():
        announce(f"{name}: {len(rows):,} rows")
    for source in config.sources:
        if source.join > 1:
            announce(f"{source.label}: joining near positives, {source.join} to a passage")
            rows = join_positives(dataset[source.label], encoder, source.join, config.seed)
            check_batches(source.label, rows, config.batch_size)
            dataset[source.label] = rows
    if config.topic_size is not None:
        for name, rows in dataset.items():
            num_topics = max(1, len(rows) // config.topic_size)
            announce(f"{name}: encoding {len(rows):,} queries, for {num_topics:,} topics")
            dataset[name] = add_topics(rows, encoder, config.topic_size, config.seed)
    return dataset


def build_teacher(
    config: TrainingConfig, encoder: FastLaneEncoder, device: torch.device
) -> FastLaneEncoder | None:
    """Loads the teacher, if the run has one; it computes in the run's dtype."""
    if config.teacher is None:
        return None
    is_initial = config.teacher == "initial"
    teacher = copy.deepcopy(encoder) if is_initial else FastLaneEncoder(config.teacher)
    if teacher.tokenizer.get_vocab() != encoder.tokenizer.get_vocab():
        raise ValueError(f"the teacher {config.teacher} has another tokenizer than the model")
    if config.dtype == "bfloat16":
        in_bfloat16 = torch.autocast(device.type, torch.bfloat16)
        teacher.forward = in_bfloat16(teacher.forward)  # type: ignore[method-assign]
    return teacher.to(device)


def prompts_by_source(
    prompts: Mapping[str, str | None], dataset: DatasetDict
) -> dict[str, dict[str, str]] | None:
    """Gives each column of each source the model's prompt; None without prompts."""
    found = {
        source: prompts_by_column(prompts, names) for source, names in dataset.column_names.items()
    }
    return {source: each for source, each in found.items() if each is not None} or None


def training_arguments(config: TrainingConfig) -> MultiVectorEncoderTrainingArguments:
    """Translates the settings to the names of Sentence Transformers and Hugging Face."""
    lengths = {"query": config.query_length, "document": config.document_length}
    return MultiVectorEncoderTrainingArguments(
        output_dir=str(Path(config.output_dir) / "checkpoints"),
        per_device_train_batch_size=config.batch_size,
        gradient_accumulation_steps=config.gradient_accumulation,
        max_steps=config.max_steps or -1,
        num_train_epochs=config.epochs or 1,
        learning_rate=config.encoder_learning_rate,
        # Matched by re.search to names such as model.0.model.router.norm.weight.
        learning_rate_mapping={
            r"^model\.0\.model\.projection\.": config.projection_learning_rate,
            r"^model\.0\.model\.router\.": config.router_learning_rate,
        },
        lr_scheduler_type="linear",
        warmup_steps=config.warmup,
        max_grad_norm=config.max_gradient_norm,
        # Without it several processes on a CPU would each train alone and overwrite each other.
        use_cpu=get_device_name() == "cpu",
        bf16=config.dtype == "bfloat16",
        max_length={side: length for side, length in lengths.items() if length is not None},
        # Neither puts a text into a batch twice: it would be its own negative.
        batch_sampler="no_duplicates" if config.topic_size is None else TopicBatchSampler,
        multi_dataset_batch_sampler=config.source_sampling,
        dataloader_drop_last=True,  # a small last batch has few negatives
        dataloader_pin_memory=torch.cuda.is_available(),
        # Gradient caching synchronises at the last mini-batch, which has only documents.
        ddp_find_unused_parameters=config.mini_batch_size is not None,
        logging_steps=config.log_every,
        logging_nan_inf_filter=False,  # FastLaneTrainer stops at the first one
        save_steps=config.save_every,
        save_total_limit=config.keep_checkpoints,
        seed=config.seed,
        report_to="none",
    )


if __name__ == "__main__":
    sys.exit(main())
