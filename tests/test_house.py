"""The house keeps its shape: short modules, short functions, imports first, docstrings that end as
sentences do.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.conftest import LONGEST

ROOT = Path(__file__).parents[1]
MODULES = sorted(
    file for package in ("effssl", "analysis") for file in (ROOT / package).rglob("*.py")
)
LONGEST_MODULE, LONGEST_FUNCTION, LONGEST_README = 250, 60, 9216

each_module = pytest.mark.parametrize("file", MODULES, ids=lambda file: str(file.relative_to(ROOT)))


@each_module
def test_modules_and_functions_are_short(file):
    text = file.read_text()
    assert len(text.splitlines()) <= LONGEST_MODULE
    functions = [
        n
        for n in ast.walk(ast.parse(text))
        if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    long = {
        f.name: f.end_lineno - f.lineno + 1
        for f in functions
        if f.end_lineno - f.lineno >= LONGEST_FUNCTION
    }
    assert not long


# The commands of analysis/ are run by their path, and no wheel has them: one line finds the
# checkout.
FINDS_THE_CHECKOUT = "if __name__ == '__main__':\n    sys.path[0] = str(Path(__file__).parents[1])"


@each_module
def test_no_code_stands_between_imports(file):
    body = ast.parse(file.read_text()).body
    imports = [i for i, node in enumerate(body) if isinstance(node, ast.Import | ast.ImportFrom)]
    between = [] if not imports else body[imports[0] : imports[-1]]
    code = [
        ast.unparse(node) for node in between if not isinstance(node, ast.Import | ast.ImportFrom)
    ]
    assert code in ([], [FINDS_THE_CHECKOUT] if file.parent.name == "analysis" else [])


@each_module
def test_docstrings_end_as_sentences_do_and_do_not_begin_amid_one(file):
    tree = ast.parse(file.read_text())
    documented = [
        n for n in ast.walk(tree) if isinstance(n, ast.Module | ast.ClassDef | ast.FunctionDef)
    ]
    firsts = [text.split("\n\n")[0] for n in documented if (text := ast.get_docstring(n))]
    assert [f for f in firsts if not f.endswith((".", ":", "?")) or f.startswith("Of ")] == []


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_bytes()) <= LONGEST_README


def test_the_files_of_tests_that_begin_first_are_there():
    assert [name for name in LONGEST if not (ROOT / "tests" / name).is_file()] == []
