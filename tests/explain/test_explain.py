"""Explanations of a query and a document, and how they are shown."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from fastlane_st import FastLaneEncoder
from fastlane_st.cli.main import main
from fastlane_st.explain import explain_pair
from tests.conftest import DOCUMENTS

QUERY = "how to sort a list"


@pytest.fixture(scope="module")
def encoder(checkpoint: Path) -> FastLaneEncoder:
    return FastLaneEncoder(checkpoint)


def test_the_scores_are_those_of_the_encoder(encoder: FastLaneEncoder) -> None:
    found = explain_pair(encoder, QUERY, DOCUMENTS[0], 2)
    [document] = encoder.encode_document([DOCUMENTS[0]], num_routes=None)
    for num_routes, expected in ((2, found.score), (None, found.words.score)):
        [query] = encoder.encode_query([QUERY], num_routes=num_routes)
        assert float((query @ document.T).amax(dim=1).sum()) == pytest.approx(expected, abs=1e-5)
    assert len(found.routes) == 2
    assert sum(route.similarity for route in found.routes) == pytest.approx(found.score, abs=1e-5)
    [scored] = encoder.encode_query([QUERY], output_value=None, num_routes=1)
    best = scored["router_logits"][scored["token_mask"]].max()
    assert max(logit for _, logit in found.logits) == pytest.approx(float(best))
    top, _ = max(found.logits, key=lambda pair: pair[1])
    [route] = explain_pair(encoder, QUERY, DOCUMENTS[0], 1).routes
    assert route.query_span == top
    whole = explain_pair(encoder, QUERY, DOCUMENTS[0], None)
    assert whole.routes == ()
    assert whole.score == pytest.approx(whole.words.score, abs=1e-5)


def test_a_long_document_is_explained_by_its_best_window(encoder: FastLaneEncoder) -> None:
    text = " ".join(DOCUMENTS * 30)
    found = explain_pair(encoder, QUERY, text, 1)
    for match in found.words.matches:
        if match.document_span is not None:
            assert text[slice(*match.document_span)].strip()
    assert found.to_dict()["words"]


class Texts(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def test_texts_are_escaped_and_whole(encoder: FastLaneEncoder) -> None:
    query, document = (
        "sort <script>a list",
        'a <img src=x onerror="alert(1)"> & list of <b>lists</b>',
    )
    found = explain_pair(encoder, query, document)
    page = Texts()
    page.feed(found._repr_html_())
    assert query in page.text
    assert document in page.text
    assert not {"script", "img"} & set(page.tags)
    assert "mark" in page.tags
    ElementTree.fromstring(found.to_svg())


def test_control_characters_do_not_reach_a_terminal_or_a_picture(encoder: FastLaneEncoder) -> None:
    found = explain_pair(encoder, "sort\x1b[31m list", "a\x1b[31m list \x07")
    assert "\x1b" not in found.to_text()
    ElementTree.fromstring(found.to_svg())


def test_the_command_prints_and_writes(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["explain", QUERY, DOCUMENTS[0], "--model", str(checkpoint), "--routes", "1"]
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert "full MaxSim" in shown
    assert "centred on" in shown
    for name in ("page.html", "picture.svg"):
        assert main([*command, "--out", str(tmp_path / name)]) == 0
        assert (tmp_path / name).read_text("utf-8").startswith("<")
    capsys.readouterr()
    assert main([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["words"][0]["query_word"] == "how"
    assert len(found["routes"]) == 1
    assert main([*command, "--out", "page.pdf"]) == 1
    assert "--out must end in .html or .svg, got 'page.pdf'" in capsys.readouterr().err
    assert main(["explain", QUERY, " ", "--model", str(checkpoint)]) == 1
    assert "document must be a text that isn't empty" in capsys.readouterr().err


def test_another_ending_or_an_empty_query_is_refused(
    encoder: FastLaneEncoder, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"saved as .html or .svg, got 'x.png'"):
        explain_pair(encoder, QUERY, DOCUMENTS[0]).save(tmp_path / "x.png")
    with pytest.raises(ValueError, match="query 0 is empty"):
        explain_pair(encoder, " ", DOCUMENTS[0])
