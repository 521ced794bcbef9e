"""Makes the demo's corpus from the documentation that every Python installation holds."""

import functools
import importlib
import inspect
import re
import textwrap
from collections.abc import Iterator
from types import ModuleType

from ..data.corpus import CorpusDocument

# The passages of Python 3.10 to 3.13 answer each question, mostly in other words than its own.
DEMO_QUESTIONS: tuple[str, ...] = (
    "How do I make a temporary folder that is deleted when I'm done?",
    "Why does my function's default list keep the items of earlier calls?",
    "How do I find the three biggest numbers without sorting everything?",
    "How do I ask the user for a password without showing it on the screen?",
    "How do I escape user input before showing it on a web page?",
)

MAX_WORDS = 180
_MIN_WORDS = 6
# A passage of a long text ends once it holds this many words, so that it keeps to one subject.
_ENOUGH_WORDS = 80
_SHORT_WORDS = 25  # a last passage shorter than this joins the one before it

# Well-known modules that import quickly and without side effects; missing ones are skipped.
# fmt: off
_MODULES = (
    "builtins", "abc", "argparse", "asyncio", "base64", "bisect", "calendar", "codecs",
    "collections", "collections.abc", "concurrent.futures", "concurrent.futures.process",
    "concurrent.futures.thread", "configparser", "contextlib", "contextvars", "copy", "csv",
    "dataclasses", "datetime", "decimal", "difflib", "email.message", "email.utils", "enum",
    "fnmatch", "fractions", "functools", "getpass", "glob", "graphlib", "gzip", "hashlib", "heapq",
    "hmac", "html", "html.parser", "http.client", "http.server", "importlib", "inspect", "io",
    "ipaddress", "itertools", "json", "locale", "logging", "logging.handlers", "math", "mimetypes",
    "multiprocessing", "multiprocessing.pool", "operator", "os", "os.path", "pathlib", "pickle",
    "platform", "pprint", "queue", "random", "re", "secrets", "select", "selectors", "shelve",
    "shlex", "shutil", "signal", "smtplib", "socket", "sqlite3", "ssl", "statistics", "string",
    "struct", "subprocess", "sys", "tarfile", "tempfile", "textwrap", "threading", "time", "timeit",
    "traceback", "types", "typing", "unicodedata", "unittest", "unittest.mock", "urllib.parse",
    "urllib.request", "uuid", "warnings", "weakref", "xml.etree.ElementTree", "zipfile", "zlib",
    "zoneinfo",
)
# fmt: on
_SHOWN_AS = {
    "concurrent.futures.process": "concurrent.futures",
    "concurrent.futures.thread": "concurrent.futures",
}
_PROPERTIES = (property, functools.cached_property)
_UNDERLINED = re.compile(r"(\S.*)\n([*=\-~^#])\2+")
_DEFINITION = re.compile(r"(?!\w+\. )(?:(?:class|static|classmethod) )?\w[\w.]*[.(\[].*[^.,:;]")
_MARKUP = tuple(
    (re.compile(pattern, re.MULTILINE), replacement)
    for pattern, replacement in (
        (r":[a-z][\w:+-]*:`~(?:[\w.]*\.)?(\w+[^`]*)`", r"\1"),  # :class:`~a.b.C` -> C
        (r"(?::[a-z][\w:+-]*:)?`([^`<]+?)\s*<[^`>]+>`_{0,2}", r"\1"),  # `text <target>`_ -> text
        (r":[a-z][\w:+-]*:`!?([^`]+)`", r"\1"),  # :func:`f` -> f
        (r"``([^`]+)``", r"\1"),
        (r"`([^`'\n]+)`_?", r"\1"),
        (r"(?<![\w*])\*(\w|\w[^*\n]*\w)\*(?![\w*])", r"\1"),  # *emphasis*
        (r"(?<![\w*])\*\*(\w[^*\"]*[\w.:])\*\*(?![\w*])", r"\1"),  # **bold type**
        (r"^( *)\.\. version(added|changed)::", r"\1\2 in version"),
        (r"^( *)\.\. (\w+)::", r"\1\2:"),  # .. note::
        (r":(?:param|type) (\w+):", r"\1:"),
        (r"(?<=\n\n)[=\-]{5,}\n\n", ""),  # a rule between paragraphs
        (r" (\S*[a-z])-\n( *)(?=[a-z])", r"\n\2\1-"),  # a word that was broken at its hyphen
    )
)

_Paragraph = tuple[int, str]  # indentation and lines


def python_documents() -> Iterator[CorpusDocument]:
    """Yields passages of at most `MAX_WORDS` words: docstrings first, then the language reference.

    They come from the standard library and `pydoc_data.topics` of the running interpreter, so they
    differ a little between versions. Ids look like `json.dumps`, `csv#2` and `topic:with#3`.
    """
    seen: set[str] = set()
    for source, passages in _sources():
        for number, (title, text) in enumerate(passages, start=1):
            if len(text.split()) < _MIN_WORDS or text in seen:
                continue
            seen.add(text)
            yield CorpusDocument(source if number == 1 else f"{source}#{number}", text, title)


def _sources() -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Yields each id with the (title, text) of its passages."""
    named: set[str] = set()
    for name, docstring in _docstrings():
        if name not in named and not _is_generated(docstring):
            named.add(name)
            text = _tidy_markup(inspect.cleandoc(docstring))
            yield name, [(name, p) for p in _split(_paragraphs(text))]
    for topic, text in _topics():
        sections = _sections(_paragraphs(_tidy_markup(text)))
        yield f"topic:{topic}", [(title, p) for title, run in sections for p in _split(run)]


def _docstrings() -> Iterator[tuple[str, str]]:
    """Yields the dotted names and docstrings of modules, functions, classes and methods."""
    for module_name in _MODULES:
        try:
            module = importlib.import_module(module_name)
        except ImportError:
            continue
        shown = _SHOWN_AS.get(module_name, module_name)
        yield shown, module.__doc__ or ""
        for name, member in _public_members(module):
            shown_member = name if module_name == "builtins" else f"{shown}.{name}"
            yield from _member_docstrings(shown_member, member)


def _public_members(module: ModuleType) -> Iterator[tuple[str, object]]:
    members = vars(module)  # getattr would run a module's __getattr__: imports and warnings
    listed = members.get("__all__")
    names = [name for name in (members if listed is None else listed) if name in members]
    # Functions before classes: `random.choice` is better known than `random.Random.choice`.
    for name in sorted(names, key=lambda name: (inspect.isclass(members[name]), name)):
        member = members[name]
        is_documented = inspect.isclass(member) or inspect.isroutine(member)
        if inspect.isclass(member) and member.__name__ != name:
            continue  # os.error is a second name of OSError
        is_own = listed is not None or _is_at_home(member, module.__name__)
        if is_documented and is_own and not name.startswith("_"):
            yield name, member


def _is_at_home(member: object, module_name: str) -> bool:
    """Tells a module's own members from what it imports: `_random` is the C half of `random`."""
    if module_name == "builtins":  # consoles add Python functions of their own
        return inspect.isclass(member) or inspect.isbuiltin(member)
    home = getattr(member, "__module__", None) or ""
    return str(home).lstrip("_").split(".")[0] == module_name.split(".")[0]


def _member_docstrings(name: str, member: object) -> Iterator[tuple[str, str]]:
    if not inspect.isclass(member):
        yield name, _as_text(member.__doc__)
        return
    own = vars(member)  # what a class inherits is listed under the class that has it
    yield name, _as_text(own.get("__doc__"))
    for attribute in sorted(own):
        value = own[attribute]
        is_documented = inspect.isroutine(value) or isinstance(value, _PROPERTIES)
        if is_documented and not attribute.startswith("_"):
            yield f"{name}.{attribute}", _as_text(value.__doc__)


def _as_text(docstring: object) -> str:
    return docstring if isinstance(docstring, str) else ""


def _is_generated(docstring: str) -> bool:
    """Whether it is the one line `Name(field, ...)` that dataclasses and namedtuples write."""
    return re.fullmatch(r"\w+\(.*\)", docstring) is not None


def _topics() -> Iterator[tuple[str, str]]:
    """Yields the topics of `help()`, shortest first: a part that two share goes to the shorter."""
    try:
        from pydoc_data.topics import topics
    except ImportError:
        return
    yield from sorted(topics.items(), key=lambda item: (len(item[1]), item[0]))


def _tidy_markup(text: str) -> str:
    """Reduces reStructuredText to what a reader needs; code keeps its lines."""
    for pattern, replacement in _MARKUP:
        text = pattern.sub(replacement, text)
    return text.replace("\t", "    ").strip("\n")


def _paragraphs(text: str) -> list[_Paragraph]:
    blocks = [block for block in re.split(r"\n[ \n]*\n", text) if block.strip()]
    return [(min(map(_indent, block.split("\n"))), block) for block in blocks]


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip(" "))


def _sections(paragraphs: list[_Paragraph]) -> Iterator[tuple[str, list[_Paragraph]]]:
    """Yields runs of paragraphs, each with its title: a heading or `str.find(sub[, start])`."""
    titles = [(-1, "")]  # a definition is the title of all that is indented more than itself
    run: list[_Paragraph] = []
    for (indent, block), following in zip(paragraphs, [*paragraphs[1:], (0, "")], strict=True):
        first, _, rest = block.strip().partition("\n")
        is_heading = _UNDERLINED.fullmatch(block) is not None
        is_definition = following[0] > indent and _DEFINITION.fullmatch(first) is not None
        if is_heading or is_definition or indent <= titles[-1][0]:
            if run:
                yield titles[-1][1], run
            run = []
            while titles and (is_heading or indent <= titles[-1][0]):
                titles.pop()
        if is_heading:
            titles.append((-1, first.replace('"', "")))
        elif is_definition:
            titles.append((indent, first))
            if rest:
                run.append((indent, rest))
        else:
            run.append((indent, block))
    if run:
        yield titles[-1][1], run


def _split(paragraphs: list[_Paragraph]) -> list[str]:
    """Gives passages of at most `MAX_WORDS` words; code stays with the text before it."""
    groups: list[list[_Paragraph]] = []
    for indent, block in paragraphs:
        if groups and (indent > groups[-1][0][0] or groups[-1][-1][1].endswith(":")):
            groups[-1].append((indent, block))
        else:
            groups.append([(indent, block)])
    texts = ["\n\n".join(block for _, block in group) for group in groups]
    if _count_words(texts) > MAX_WORDS:
        texts = _pack([piece for text in texts for piece in _cut(text)], "\n\n", _ENOUGH_WORDS)
    else:
        texts = ["\n\n".join(texts)]
    return [textwrap.dedent(text).strip("\n") for text in texts]


def _cut(text: str) -> list[str]:
    """Cuts a text that is too long: between paragraphs, else lines, else words."""
    if len(text.split()) <= MAX_WORDS:
        return [text]
    separator = next(separator for separator in ("\n\n", "\n", " ") if separator in text)
    pieces = _pack(text.split(separator), separator, MAX_WORDS)
    return [part for piece in pieces for part in _cut(piece)]


def _pack(pieces: list[str], separator: str, enough: int) -> list[str]:
    """Joins neighbours until they hold `enough` words; never more than `MAX_WORDS`."""
    packed: list[list[str]] = [[]]
    for piece in pieces:
        words = _count_words(packed[-1])
        if words and (words >= enough or words + len(piece.split()) > MAX_WORDS):
            packed.append([])
        packed[-1].append(piece)
    if len(packed) > 1 and _count_words(packed[-1]) < _SHORT_WORDS:
        rest = packed.pop()
        if _count_words(packed[-1] + rest) <= MAX_WORDS:
            packed[-1] += rest
        else:
            packed.append(rest)
    return [separator.join(group) for group in packed]


def _count_words(pieces: list[str]) -> int:
    return sum(len(piece.split()) for piece in pieces)
