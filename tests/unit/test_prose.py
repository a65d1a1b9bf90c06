"""The documents and docstrings are plain English: what is counted here may only become less."""

import ast
import inspect
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = {
    "src": "src/**/*.py",
    "README": "README.md",
    "CHANGELOG": "CHANGELOG.md",
    "CONTRIBUTING": "CONTRIBUTING.md",
    "SECURITY": "SECURITY.md",
    "docs": "docs/**/*.md",
    "client": "clients/python/src/**/*.py",
    "client README": "clients/python/README.md",
}
COUNTED = ("words for persons", "docstrings that begin with a clause", "sentences over 25 words")
BOUNDS = {"src": (0, 0, 1), "README": (0, 0, 0), "CHANGELOG": (0, 0, 0), "docs": (0, 0, 1)}
BOUNDS |= {"CONTRIBUTING": (0, 0, 0), "SECURITY": (0, 0, 0), "client": (0, 0, 1), "client README": (0, 0, 0)}
PERSONS = re.compile(r"\b(?:whoever|whom|nobody|somebody|for ever|as ever|meanwhile)\b", re.IGNORECASE)
CLAUSE = re.compile(r"(?:What|Who|The same|That)\b")
WORD = re.compile(r"\w[\w'./:-]*")
CODE = re.compile(r"^ *```.*?^ *```$|`+[^`]+`+|(?<=\])\([^)]*\)", re.DOTALL | re.MULTILINE)
# A blank line, an item, a heading, a cell of a table, an entry such as "ValueError: …", or the end of a sentence.
BREAK = re.compile(r"\n\s*\n|\n(?=\s*(?:[-*#|]|\d+\.|\w+(?:, \w+)*:)\s)|\|\s|(?<=[.!?])[*_)\"]*\s+")


def docstrings(source: str) -> list[str]:
    values = [node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Expr)]
    texts = [value.value for value in values if isinstance(value, ast.Constant)]
    return [inspect.cleandoc(text) for text in texts if isinstance(text, str)]


def comments(source: str) -> list[str]:
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return [token.string for token in tokens if token.type == tokenize.COMMENT]


def offences(file: Path) -> Iterator[tuple[str, str]]:
    """Yield what is counted, and where it begins."""
    text, is_code = file.read_text(), file.suffix == ".py"
    documents = docstrings(text) if is_code else [text]
    for line in "\n".join([*documents, *(comments(text) if is_code else ())]).splitlines():
        yield from ((COUNTED[0], line) for _ in PERSONS.findall(line))
    yield from ((COUNTED[1], document) for document in documents if is_code and CLAUSE.match(document))
    sentences = [sentence for document in documents for sentence in BREAK.split(CODE.sub("code", document))]
    yield from ((COUNTED[2], sentence) for sentence in sentences if len(WORD.findall(sentence or "")) > 25)


@pytest.mark.parametrize("area", FILES)
def test_prose_becomes_plainer(area: str) -> None:
    found = [
        (kind, f"{file.relative_to(ROOT)}: {text}")
        for file in ROOT.glob(FILES[area])
        for kind, text in offences(file)
    ]
    for kind, bound in zip(COUNTED, BOUNDS[area], strict=True):
        places = [place.splitlines()[0] for found_kind, place in found if found_kind == kind]
        assert len(places) <= bound, f"{area}: {len(places)} {kind}, the bound is {bound}:\n" + "\n".join(
            places
        )
