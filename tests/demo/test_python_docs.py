"""The demo corpus holds well-formed passages of the running Python's documentation."""

import subprocess
import sys
from collections import Counter

import pytest

from fastlane_st.data.corpus import CorpusDocument
from fastlane_st.demo.python_docs import DEMO_QUESTIONS, MAX_WORDS, python_documents


@pytest.fixture(scope="module")
def documents() -> dict[str, CorpusDocument]:
    return {document.id: document for document in python_documents()}


def test_there_are_some_thousand_passages(documents: dict[str, CorpusDocument]) -> None:
    assert 2500 <= len(documents) <= 4500
    assert 400 <= sum(id.startswith("topic:") for id in documents) <= 1000


def test_two_calls_give_the_same_passages_in_the_same_order(
    documents: dict[str, CorpusDocument],
) -> None:
    assert list(python_documents()) == list(documents.values())


def test_ids_and_texts_are_unique() -> None:
    documents = list(python_documents())
    assert [id for id, n in Counter(d.id for d in documents).items() if n > 1] == []
    assert [text for text, n in Counter(d.text for d in documents).items() if n > 1] == []


def test_every_passage_has_a_title_and_a_text_of_a_readable_length(
    documents: dict[str, CorpusDocument],
) -> None:
    for document in documents.values():
        assert document.title.strip(), document.id
        assert 6 <= len(document.text.split()) <= MAX_WORDS, document.id


def test_docstrings_stand_under_their_dotted_names(documents: dict[str, CorpusDocument]) -> None:
    assert documents["json.dumps"].title == "json.dumps"
    assert documents["json.dumps"].text.startswith("Serialize obj to a JSON formatted str.")
    assert documents["str.split"].title == "str.split"
    assert "longest common leading component" in documents["os.path.commonprefix"].text
    for name in ("print", "datetime.date.today", "random.choice", "re.Pattern.finditer"):
        assert documents[name].title == name
    assert "concurrent.futures.ThreadPoolExecutor.submit" not in documents  # inherited
    assert "concurrent.futures.Executor.submit" in documents


def test_a_topic_is_split_under_its_headings_and_definitions(
    documents: dict[str, CorpusDocument],
) -> None:
    assert documents["topic:assert"].title == "The assert statement"
    titles = {document.title for document in documents.values()}
    assert {"Augmented assignment statements", "object.__del__(self)", "str.zfill(width)"} <= titles
    assert not any(title.startswith(("1. ", "2. ")) for title in titles)


def test_code_stays_with_the_text_before_it(documents: dict[str, CorpusDocument]) -> None:
    passages = [d.text for d in documents.values() if "def whats_on_the_telly" in d.text]
    assert len(passages) == 1
    assert "evaluated from left to right when" in passages[0]
    assert "\n    if penguin is None" in passages[0] or "\n       if penguin" in passages[0]


def test_long_docstrings_continue_under_numbered_ids(documents: dict[str, CorpusDocument]) -> None:
    assert documents["csv"].title == documents["csv#2"].title == "csv"
    assert documents["csv"].text != documents["csv#2"].text


def test_markup_is_reduced_to_its_words(documents: dict[str, CorpusDocument]) -> None:
    text = "\n".join(document.text for document in documents.values())
    for markup in (":class:`", ":func:`", ".. versionadded", ".. note::", "**PEP"):
        assert markup not in text


def test_inherited_and_generated_docstrings_are_left_out(
    documents: dict[str, CorpusDocument],
) -> None:
    text = "\n".join(document.text for document in documents.values())
    assert "See help(type(self)) for accurate signature" not in text
    assert "Alias for field number" not in text
    assert "OSError.strerror" not in documents


@pytest.mark.parametrize(
    ("question", "title", "words"),
    [
        (
            DEMO_QUESTIONS[0],
            "tempfile.TemporaryDirectory",
            "the directory and everything contained",
        ),
        (DEMO_QUESTIONS[1], "Function definitions", "the default parameter value is in effect"),
        (DEMO_QUESTIONS[2], "heapq.nlargest", "Find the n largest elements in a dataset"),
        (DEMO_QUESTIONS[3], "getpass.getpass", "Prompt for a password, with echo turned off"),
        (DEMO_QUESTIONS[4], "html.escape", 'Replace special characters "&", "<" and ">"'),
    ],
)
def test_every_demo_question_has_its_answer(
    documents: dict[str, CorpusDocument], question: str, title: str, words: str
) -> None:
    texts = [" ".join(d.text.split()) for d in documents.values() if d.title == title]
    assert sum(words in text for text in texts) == 1, question


def test_building_prints_nothing_warns_of_nothing_and_imports_nothing_odd() -> None:
    code = (
        "import sys; from fastlane_st.demo.python_docs import python_documents; "
        "documents = list(python_documents()); "
        "odd = {'antigravity', 'this', 'tkinter', 'idlelib', 'turtle', 'torch'} & set(sys.modules); "
        "sys.exit(f'{len(documents)} documents, {odd}' if odd or not documents else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
