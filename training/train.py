"""Trains a FastLane encoder.

    OMP_NUM_THREADS=2 accelerate launch training/train.py --config training/fastlane-minilm.yaml
    python training/train.py --config training/fastlane-minilm.yaml max_steps=100 seed=1
    python training/train.py --config training/medquad-lora.yaml

`--resume` goes on from the newest checkpoint of the run, to the same weights as if it had never
stopped. With several processes each takes batches of its own: a query's negatives are those of its
process, and gradients are averaged. With `lora` in the configuration only an adapter is trained, and is
what the run leaves.
"""

from __future__ import annotations

import argparse
import copy
import os
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import set_seed  # type: ignore[import-untyped]
from callbacks import GateSchedule, JsonLog, explain_out_of_memory, module_of
from data import check_batches, load_sources
from datasets import DatasetDict
from passages import join_positives
from sentence_transformers import MultiVectorEncoderTrainingArguments
from sentence_transformers.util import get_device_name
from topics import TopicBatchSampler, add_topics
from trainable import add_adapter, check_base, freeze_unused
from trainer import FastLaneTrainer
from training_config import TrainingConfig
from transformers import TrainerCallback

from fastlane_st import FastLaneEncoder
from fastlane_st.hub import BASE_MODEL, base_weights, save_delta
from fastlane_st.losses import CachedRoutedContrastiveLoss, RoutedContrastiveLoss

CONFIG_NAME = "training_config.yaml"
# What a resumed run may have anew.
FREE = ("output_dir", "log_every", "save_every", "keep_checkpoints", "query_num_routes", "delta")


def main() -> None:
    """Reads the command line and trains."""
    parser = argparse.ArgumentParser(description="Train a FastLane encoder.")
    parser.add_argument("--config", required=True, help="YAML file; see training_config.py")
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="in place of the file's")
    arguments = parser.parse_args()
    train(TrainingConfig.load(arguments.config, arguments.overrides), resume=arguments.resume)


def train(
    config: TrainingConfig, resume: bool = False, callbacks: Sequence[TrainerCallback] = ()
) -> FastLaneEncoder:
    """Trains by `config` and leaves a whole checkpoint, or an adapter, in its `output_dir`."""
    output = Path(config.output_dir)
    checkpoint = find_checkpoint(config, resume)
    arguments = training_arguments(config)  # starts the process group, where there is one
    arguments.distributed_state.wait_for_everyone()  # all have looked before one writes
    if arguments.n_gpu > 1:
        raise ValueError(
            f"{arguments.n_gpu} GPUs are visible to one process; start with accelerate launch, or "
            "set CUDA_VISIBLE_DEVICES=0"
        )

    if arguments.device.type == "cpu" and torch.get_num_threads() == 1 < (os.cpu_count() or 1):
        print("one thread a process, as accelerate launch sets it: OMP_NUM_THREADS gives it more")

    # The model, as every process builds it, and what teaches it.
    set_seed(config.seed)
    encoder = build_encoder(config)
    base = find_base(config, encoder) if config.delta else None
    teacher = build_teacher(config, encoder, arguments.device)
    dataset = load_dataset(config, encoder, arguments.world_size)
    arguments.prompts = prompts_by_column(encoder, dataset)
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
        document_fraction=config.document_fraction,
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

    set_seed(config.seed, device_specific=True)  # so that processes draw noise of their own
    with explain_out_of_memory(config):
        trainer.train(resume_from_checkpoint=checkpoint)

    if trainer.is_world_process_zero():
        encoder.save_pretrained(str(output))
        if base is not None:
            save_delta(module_of(encoder).model, base, output / "delta")
        print(f"wrote {output}")
    trainer.accelerator.wait_for_everyone()
    return encoder


def find_checkpoint(config: TrainingConfig, resume: bool) -> str | None:
    """The newest whole checkpoint of the run to resume; None for a new run."""
    output = Path(config.output_dir)
    if not resume:
        if output.exists() and any(output.iterdir()):
            raise ValueError(f"{output} isn't empty; resume, delete it, or name a new output_dir")
        return None
    # trainer_state.json is the last file that is written.
    states = output.glob("checkpoints/checkpoint-*/trainer_state.json")
    folders = sorted((each.parent for each in states), key=lambda each: int(each.name[11:]))
    if not folders:
        raise ValueError(f"{output / 'checkpoints'} holds no checkpoint to resume from")
    # Learning rates come back with the optimiser's state, so that new ones would be ignored.
    old, new = (each.to_dict() for each in (TrainingConfig.load(output / CONFIG_NAME), config))
    changed = [f"{key} was {old[key]}" for key in new if new[key] != old[key] and key not in FREE]
    if changed:
        raise ValueError(
            f"a resumed run keeps its settings, but {', '.join(changed)}; to change them, start a new "
            f"run with `model: {folders[-1]}`"
        )
    return str(folders[-1])


def build_encoder(config: TrainingConfig) -> FastLaneEncoder:
    """The encoder to train, with the run's dropout and attention."""
    if config.backbone is not None:
        name = {"base_model": config.backbone} if config.backbone == BASE_MODEL else {}
        folder = backbone_folder(config.backbone)
        encoder = FastLaneEncoder.from_backbone(folder, **name, **config.backbone_options)
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
    """Sets all dropout of a model; the configuration that it is saved with keeps its own."""
    layers: Iterable[Any] = model.modules()
    for layer in layers:
        if isinstance(layer, torch.nn.Dropout):
            layer.p = probability
        elif isinstance(getattr(layer, "attention_dropout", None), float):
            layer.attention_dropout = probability


def load_dataset(
    config: TrainingConfig, encoder: FastLaneEncoder, num_processes: int = 1
) -> DatasetDict:
    """The run's sources: positives joined where a source says so, and with topics if the run has any.

    The encoder is the one that the run starts with.
    """
    dataset = load_sources(config.sources, config.batch_size, num_processes, config.seed)
    for source in config.sources:
        if source.join > 1:
            rows = join_positives(dataset[source.label], encoder, source.join, config.seed)
            check_batches(source.label, rows, config.batch_size)
            dataset[source.label] = rows
    if config.topic_size is not None:
        for name, rows in dataset.items():
            dataset[name] = add_topics(rows, encoder, config.topic_size, config.seed)
    return dataset


def build_teacher(
    config: TrainingConfig, encoder: FastLaneEncoder, device: torch.device
) -> FastLaneEncoder | None:
    """The frozen teacher, if there is one; it computes in the same dtype as the model."""
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


def prompts_by_column(
    encoder: FastLaneEncoder, dataset: DatasetDict
) -> dict[str, dict[str, str]] | None:
    """The model's prompts for each column of each source: the trainer adds none by itself."""
    query, document = (encoder.prompts.get(side) or "" for side in ("query", "document"))
    if not (query or document):
        return None
    return {
        source: {name: query if name == "query" else document for name in names}
        for source, names in dataset.column_names.items()
    }


def training_arguments(config: TrainingConfig) -> MultiVectorEncoderTrainingArguments:
    """The settings as Sentence Transformers and Hugging Face call them."""
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
        # Without it several processes on a CPU would each train alone, and over each other's files.
        use_cpu=get_device_name() == "cpu",
        bf16=config.dtype == "bfloat16",
        max_length={side: length for side, length in lengths.items() if length is not None},
        # With either, no text is twice in a batch: it would be its own negative.
        batch_sampler="no_duplicates" if config.topic_size is None else TopicBatchSampler,
        multi_dataset_batch_sampler=config.source_sampling,
        dataloader_drop_last=True,  # a small last batch has few negatives
        dataloader_pin_memory=torch.cuda.is_available(),
        # Caching synchronises with the last mini-batch, which reaches only the documents' side.
        ddp_find_unused_parameters=config.mini_batch_size is not None,
        logging_steps=config.log_every,
        logging_nan_inf_filter=False,  # FastLaneTrainer stops at the first
        save_steps=config.save_every,
        save_total_limit=config.keep_checkpoints,
        seed=config.seed,
        report_to="none",
    )


def backbone_folder(name: str) -> Path:
    """Where a backbone is: that of our own checkpoint needs no download."""
    return base_weights() if name == BASE_MODEL else Path(name)


def find_base(config: TrainingConfig, encoder: FastLaneEncoder) -> Path:
    """The folder or name of the backbone that a delta is relative to."""
    if config.backbone is not None:
        return backbone_folder(config.backbone)
    if encoder.fastlane_config.base_model == BASE_MODEL:
        return base_weights()
    raise ValueError(f"delta needs the backbone's weights, and those of {config.model} are unknown")


if __name__ == "__main__":
    main()
