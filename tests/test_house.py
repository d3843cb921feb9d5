"""The house keeps its shape: short modules, short functions, imports first, docstrings that are
sentences.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

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
def test_docstrings_are_sentences(file):
    tree = ast.parse(file.read_text())
    documented = [
        n for n in ast.walk(tree) if isinstance(n, ast.Module | ast.ClassDef | ast.FunctionDef)
    ]
    texts = [ast.get_docstring(node) for node in documented]
    assert [text for text in texts if text and text.startswith("Of ")] == []


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_bytes()) <= LONGEST_README


def test_one_training_step_is_read_in_few_modules():
    """From the loop down to the loss: what it takes to read one step."""
    modules = [
        "train/loop",
        "train/step",
        "views/stream",
        "views/draws",
        "views/assemble",
        "views/ops",
    ]
    modules += ["models/encoder", "losses/objective", "losses/functional"]
    assert len(modules) <= 9
    assert all((ROOT / "effssl" / f"{module}.py").is_file() for module in modules)
