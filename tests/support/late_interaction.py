"""Late-interaction checkpoints as others save them: Sentence Transformers, PyLate, Stanford ColBERT."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import MultiVectorEncoder
from sentence_transformers.base.modules import Dense, Normalize, Transformer
from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask
from torch import nn

from tests.conftest import build_backbone

DIM = 4


def write_backbone(family: str, folder: Path, added: tuple[str, ...] = ()) -> None:
    """A tiny backbone and its tokenizer, whose vocabulary has some more tokens."""
    backbone, tokenizer = build_backbone(family)
    tokenizer.add_tokens(list(added))
    backbone.resize_token_embeddings(len(tokenizer))
    backbone.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def write_multi_vector_encoder(family: str, folder: Path, **transformer: Any) -> None:
    """A folder of Sentence Transformers with prompts, lengths, a skip list and two projections."""
    write_backbone(family, folder / "backbone")
    torch.manual_seed(1)
    modules = [
        Transformer(str(folder / "backbone"), query_length=9, document_length=12, **transformer),
        token_dense(8, 6),
        token_dense(6, DIM),
        MultiVectorMask(skiplist_words=["?", "and"]),
        Normalize(module_input_name="token_embeddings"),
    ]
    prompts = {"query": "find ", "document": "text "}
    MultiVectorEncoder(modules=modules, prompts=prompts, device="cpu").save(str(folder))


def token_dense(width: int, dim: int, **options: Any) -> Dense:
    settings = {"bias": False, "activation_function": nn.Identity(), **options}
    return Dense(width, dim, module_input_name="token_embeddings", **settings)


def write_pylate(family: str, folder: Path, **settings: Any) -> None:
    """A folder as PyLate 1 saves it: marker tokens, a punctuation skip list, expansion of queries."""
    write_backbone(family, folder, added=("[Q] ", "[D] "))
    torch.manual_seed(2)
    modules = [("", "sentence_transformers.models.Transformer")]
    modules += [("1_Dense", "pylate.models.Dense.Dense")]
    listed = [
        {"idx": number, "name": str(number), "path": path, "type": kind}
        for number, (path, kind) in enumerate(modules)
    ]
    write_json(folder / "modules.json", listed)
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": 31, "do_lower_case": False})
    config = {
        "model_type": "ColBERT",
        "query_prefix": "[Q] ",
        "document_prefix": "[D] ",
        "query_length": 10,
        "document_length": 14,
        "attend_to_expansion_tokens": False,
        "skiplist_words": ["?"],
        "do_query_expansion": True,
        "similarity_fn_name": "MaxSim",
        **settings,
    }
    write_json(folder / "config_sentence_transformers.json", config)
    dense = folder / "1_Dense"
    dense.mkdir()
    head = {"in_features": 8, "out_features": DIM, "bias": False}
    write_json(
        dense / "config.json", {**head, "activation_function": "torch.nn.modules.linear.Identity"}
    )
    save_file({"linear.weight": torch.randn(DIM, 8)}, dense / "model.safetensors")


def write_stanford(family: str, folder: Path) -> None:
    """A folder as Stanford ColBERT saves it: one file of weights with the projection in it."""
    write_backbone(family, folder, added=("[unused0]", "[unused1]"))
    torch.manual_seed(3)
    config = json.loads((folder / "config.json").read_text())
    write_json(folder / "config.json", {**config, "architectures": ["HF_ColBERT"]})
    backbone, _ = build_backbone(family)
    backbone.resize_token_embeddings(config["vocab_size"])
    prefix = f"{backbone.base_model_prefix}."
    weights = {prefix + name: value for name, value in backbone.state_dict().items()}
    weights["linear.weight"] = torch.randn(DIM, 8)
    save_file(
        {name: value.contiguous() for name, value in weights.items()}, folder / "model.safetensors"
    )
    metadata = {"query_maxlen": 11, "doc_maxlen": 13, "attend_to_mask_tokens": True}
    write_json(folder / "artifact.metadata", {**metadata, "mask_punctuation": True})


def halve(folder: Path, dtype: torch.dtype) -> None:
    """Stores all weights of a checkpoint in bfloat16 or float16."""
    for path in folder.rglob("*.safetensors"):
        weights = {name: value.to(dtype) for name, value in load_file(path).items()}
        save_file(weights, path, metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    write_json(folder / "config.json", {**config, "dtype": str(dtype).removeprefix("torch.")})


def write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content))
