"""Tiny random encoders and a word-level tokenizer: every test runs without a download."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertModel,
    ModernBertConfig,
    ModernBertModel,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    XLMRobertaConfig,
    XLMRobertaModel,
)

from fastlane_st import FastLaneModel
from fastlane_st.new_model import from_backbone

settings.register_profile("untimed", deadline=None)  # a busy machine fails no test
settings.load_profile("untimed")

WORDS = """
how do i parse read write sort a an the file list json string number date time set dict
from to of in with is are loads dumps open path join python and or not short long ?
""".split()
DOCUMENTS = [
    "json loads a string to a dict",
    "open the file and read the string",
    "sort a list of number in time",
    "join a path to the file",
    "date and time with python",
    "set",
]
QUERIES = ["how do i parse json ?", "read a file", "sort the long list of number and string", "set"]
SIZE = {
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "max_position_embeddings": 40,
}


def build_tokenizer(cls: str, sep: str, pad: str, unk: str, mask: str) -> PreTrainedTokenizerFast:
    # XLM-RoBERTa's position embeddings count from the padding id, which must be 1.
    vocabulary = {token: index for index, token in enumerate([cls, pad, sep, unk, mask, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=unk))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    frame = [(cls, vocabulary[cls]), (sep, vocabulary[sep])]
    tokenizer.post_processor = processors.TemplateProcessing(f"{cls} $A {sep}", None, frame)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        cls_token=cls,
        sep_token=sep,
        pad_token=pad,
        unk_token=unk,
        mask_token=mask,
        model_max_length=32,
    )


def build_backbone(family: str) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    torch.manual_seed(0)
    if family == "xlm-roberta":
        tokenizer = build_tokenizer("<s>", "</s>", "<pad>", "<unk>", "<mask>")
        config = XLMRobertaConfig(vocab_size=len(tokenizer), pad_token_id=1, **SIZE)
        return XLMRobertaModel(config), tokenizer
    tokenizer = build_tokenizer("[CLS]", "[SEP]", "[PAD]", "[UNK]", "[MASK]")
    special = {"cls_token_id": 0, "pad_token_id": 1, "sep_token_id": 2}
    if family == "bert":
        return BertModel(BertConfig(vocab_size=len(tokenizer), pad_token_id=1, **SIZE)), tokenizer
    special |= {"bos_token_id": 0, "eos_token_id": 2}
    return ModernBertModel(
        ModernBertConfig(vocab_size=len(tokenizer), **special, **SIZE)
    ), tokenizer


def sharpen(model: FastLaneModel) -> FastLaneModel:
    """Makes a tiny random router choose by content: fresh scorers give nearly equal logits."""
    torch.manual_seed(1)
    for parameter in model.router.parameters():
        torch.nn.init.normal_(parameter, std=2.0)
    return model


@pytest.fixture(scope="session")
def backbone_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Gives the folder of a tiny random encoder of a family."""

    def build(family: str) -> Path:
        folder = tmp_path_factory.getbasetemp() / f"backbone-{family}"
        if not folder.exists():
            backbone, tokenizer = build_backbone(family)
            backbone.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
        return folder

    return build


def build_model(backbone_folder: Path) -> FastLaneModel:
    """A FastLaneModel over a tiny encoder; queries are cut at 10 tokens, documents at 12."""
    built = from_backbone(
        backbone_folder,
        embedding_dim=4,
        router_dim=8,
        router_num_heads=2,
        query_length=10,
        document_length=12,
        calibration_texts=DOCUMENTS,
    )
    return sharpen(built)


@pytest.fixture(scope="session", params=["bert", "modernbert", "xlm-roberta"])
def any_model(
    request: pytest.FixtureRequest, backbone_folder: Callable[[str], Path]
) -> FastLaneModel:
    """`build_model` over each family in turn."""
    return build_model(backbone_folder(request.param))


@pytest.fixture(scope="session")
def model(backbone_folder: Callable[[str], Path]) -> FastLaneModel:
    """`build_model` over a tiny BERT."""
    return build_model(backbone_folder("bert"))


@pytest.fixture(scope="session")
def checkpoint(model: FastLaneModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that `model` saves."""
    folder = tmp_path_factory.mktemp("checkpoints") / "tiny-fastlane"
    model.save_pretrained(folder)
    return folder
