"""vLLM's plugins, over stand-ins for vLLM: the encoder's vectors for both sides, and clear errors."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, GPT2Config

from fastlane_st import FastLaneConfig, FastLaneEncoder, FastLaneModel
from fastlane_st.new_model import from_backbone
from fastlane_st.vllm import io_processor_class, register
from fastlane_st.vllm.request import parse_request
from tests.conftest import DOCUMENTS, QUERIES, sharpen
from tests.vllm import stand_ins

LONG = " ".join(DOCUMENTS)


@pytest.fixture(autouse=True)
def _stand_ins() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        stand_ins.install(patch)
        yield
    for own in ("model", "io_processor"):
        sys.modules.pop(f"fastlane_st.vllm.{own}", None)  # they hold stand-ins


@pytest.fixture(params=["bert", "modernbert", "xlm-roberta"])
def folder(
    request: pytest.FixtureRequest, backbone_folder: Callable[[str], Path], tmp_path: Path
) -> Path:
    """A checkpoint with prompts, route layers and punctuation that is no view."""
    model = from_backbone(
        backbone_folder(request.param),
        embedding_dim=4,
        router_dim=8,
        router_num_heads=2,
        num_route_layers=1,
        query_length=10,
        document_length=12,
        query_prompt="find ",
        document_prompt="text ",
        document_skip_ids=[20],
        calibration_texts=DOCUMENTS,
    )
    sharpen(model)
    assert model.route_layers is not None
    for parameter in [*model.projection.parameters(), *model.route_layers.parameters()]:
        parameter.data.add_(0.2 * torch.randn_like(parameter))
    model.save_pretrained(tmp_path)
    return tmp_path


class Engine:
    """What vLLM does with the plugins: one batch of texts, flat, as its engine hands them on."""

    def __init__(self, folder: Path) -> None:
        config = stand_ins.VllmConfig(FastLaneConfig.from_pretrained(folder), str(folder))
        module, _, name = io_processor_class().rpartition(".")
        self.processor = getattr(import_module(module), name)(config, None)
        register()
        module, _, name = stand_ins.ModelRegistry.models["FastLaneModel"].partition(":")
        self.model = getattr(import_module(module), name)(vllm_config=config)
        loaded = self.model.load_weights(load_file(folder / "model.safetensors").items())
        own = {name for name, _ in self.model.named_parameters() if "pooler.dense" not in name}
        assert own <= loaded

    def pool(self, prompts: list[list[int]], params: list[Any]) -> list[torch.Tensor]:
        flat = torch.tensor([id for prompt in prompts for id in prompt])
        positions = torch.tensor([place for prompt in prompts for place in range(len(prompt))])
        with torch.inference_mode():
            states = self.model(flat, positions)
            pooled: list[torch.Tensor] = self.model.pooler(
                states, stand_ins.PoolingMetadata(prompts, params)
            )
        return pooled

    def encode(self, **data: Any) -> list[torch.Tensor]:
        request = self.processor.parse_data(data)
        prompts = [one["prompt_token_ids"] for one in self.processor.pre_process(request)]
        params = [self.processor.merge_pooling_params() for _ in prompts]
        assert {one.task for one in params} <= self.model.pooler.get_supported_tasks()
        outputs = [
            SimpleNamespace(outputs=SimpleNamespace(data=one)) for one in self.pool(prompts, params)
        ]
        return [torch.tensor(one) for one in self.processor.post_process(outputs)]


@pytest.mark.parametrize("num_routes", ["default", 1, 2, 3, None])
def test_queries_get_the_encoders_vectors(folder: Path, num_routes: Any) -> None:
    found = Engine(folder).encode(texts=QUERIES, side="query", num_routes=num_routes)
    expected = FastLaneEncoder(folder).encode_query(QUERIES, num_routes=num_routes)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


@pytest.mark.parametrize("num_routes", ["default", 1, 3, 0.5, None])
def test_documents_get_the_encoders_vectors(folder: Path, num_routes: Any) -> None:
    texts = [*DOCUMENTS, LONG, ""]
    found = Engine(folder).encode(texts=texts, side="document", num_routes=num_routes)
    expected = FastLaneEncoder(folder).encode_document(texts, num_routes=num_routes)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


def test_token_embed_gives_views_and_router_logits(folder: Path) -> None:
    engine, model = Engine(folder), FastLaneModel.from_pretrained(folder)
    ids = model.tokenize(["read a file"], "query")["input_ids"]
    with torch.no_grad():
        query, document = model(ids, task="query"), model(ids, task="document")
    params = [stand_ins.PoolingParams(), stand_ins.PoolingParams(extra_kwargs={"side": "document"})]
    asked, told = engine.pool([ids[0].tolist()] * 2, params)
    torch.testing.assert_close(asked[:, :4], query.token_embeddings[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(asked[:, 4], query.router_logits[0], rtol=0, atol=1e-4)
    torch.testing.assert_close(told[:, :4], document.token_embeddings[0], rtol=0, atol=1e-5)
    assert told[:, 4].tolist() == [0.0] * ids.shape[1]


def test_scoring_by_maxsim_gets_views_alone(folder: Path) -> None:
    engine, model = Engine(folder), FastLaneModel.from_pretrained(folder)
    texts = ["read a file", "open the file"]
    prompts = [model.tokenizer(text)["input_ids"] for text in texts]
    params = [stand_ins.PoolingParams(), stand_ins.PoolingParams()]
    for one, mode in zip(params, ("cache_query", "score_doc"), strict=True):
        one.late_interaction_params = SimpleNamespace(mode=mode)
    query, document = engine.pool(prompts, params)
    model.config.query_prompt = model.config.document_prompt = ""  # which vLLM doesn't add
    [expected] = model.encode_query(texts[:1], num_routes=None)
    torch.testing.assert_close(query, expected, rtol=0, atol=1e-5)
    [expected] = model.encode_document(texts[1:], num_routes=None)
    torch.testing.assert_close(document, expected, rtol=0, atol=1e-5)


def test_requests_in_other_threads_do_not_meet(checkpoint: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    processor = Engine(checkpoint).processor
    first = processor.parse_data({"texts": ["set"], "side": "query", "num_routes": 1})
    processor.pre_process(first)
    with ThreadPoolExecutor(1) as pool:
        other = processor.parse_data({"texts": ["set"], "side": "document"})
        pool.submit(processor.pre_process, other).result()
    assert processor.merge_pooling_params().extra_kwargs == {"side": "query", "num_routes": 1}


GOOD = {"texts": ["set"], "side": "query"}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("set", "data must have texts and side, and maybe num_routes, got str"),
        ({"texts": ["set"]}, r"and maybe num_routes, got \['texts'\]"),
        ({**GOOD, "k": 1}, r"and maybe num_routes, got \['k', 'side', 'texts'\]"),
        ({**GOOD, "side": "queri"}, 'side must be "query" or "document", got \'queri\''),
        ({**GOOD, "texts": []}, r"texts must be a list of one text at least, got \[\]"),
        ({**GOOD, "texts": "set"}, "texts must be a list of one text at least, got 'set'"),
        ({**GOOD, "texts": ["set", 3]}, "document 1 must be a str, got int"),
        ({**GOOD, "texts": ["set", " "]}, "query 1 is empty, got ' '"),
        ({**GOOD, "texts": ["\ud800"]}, "query 0 is no valid Unicode"),
        ({**GOOD, "num_routes": 0}, "num_routes must be a positive integer or None, got 0"),
        ({**GOOD, "num_routes": 0.5}, "num_routes must be a positive integer or None, got 0.5"),
        ({**GOOD, "num_routes": "2"}, "got '2'; None keeps all tokens"),
        (
            {"texts": ["set"], "side": "document", "num_routes": 1.5},
            r"a fraction in \(0, 1\] or None, got 1\.5",
        ),
    ],
)
def test_bad_requests_are_named(data: Any, message: str, model: FastLaneModel) -> None:
    with pytest.raises(ValueError, match=message):
        parse_request(data, model.config)


def test_a_request_without_num_routes_takes_the_checkpoints(model: FastLaneModel) -> None:
    config = FastLaneConfig(query_num_routes=2, document_num_routes=0.25)
    assert parse_request(GOOD, config).asked == {"side": "query", "num_routes": 2}
    document = {"texts": [""], "side": "document"}
    assert parse_request(document, config).asked == {"side": "document", "num_routes": 0.25}


def test_what_can_not_be_served_is_refused() -> None:
    check_served = import_module("fastlane_st.vllm.model").check_served
    with pytest.raises(ValueError, match=r"one of bert, modernbert, .* got gpt2: serve it by"):
        check_served(FastLaneConfig(backbone_config=GPT2Config()))
    expansion = {"length": 8, "strategy": "min", "attend": False, "token": None}
    with pytest.raises(ValueError, match="query expansion can't run in vLLM"):
        check_served(FastLaneConfig(query_expansion=expansion))


def test_registering_twice_is_no_harm(checkpoint: Path) -> None:
    register()
    register()
    config = AutoConfig.from_pretrained(checkpoint)
    assert isinstance(config, FastLaneConfig)
    assert config.architectures == ["FastLaneModel"]  # the name that vLLM looks our class up by
    assert config.get_text_config().num_attention_heads == 2


def test_entry_points_lead_to_the_plugins() -> None:
    project = (Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8")
    import_module(io_processor_class().rpartition(".")[0])  # whose name hides none of the two
    for group, expected in (("general", register), ("io_processor", io_processor_class)):
        found = re.search(rf'vllm\.{group}_plugins"\]\nfastlane = "(.*):(.*)"', project)
        assert found
        module, name = found.groups()
        assert getattr(import_module(module), name) is expected


def test_importing_the_package_imports_no_vllm() -> None:
    code = (
        "import sys, fastlane_st.vllm; sys.exit(any(n in sys.modules for n in ('vllm', 'torch')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
