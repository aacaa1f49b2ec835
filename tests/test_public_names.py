"""Our backends and extractors have no door of their own into Spanhook: what they use, everybody's plugins can use."""

import ast
from pathlib import Path

import pytest

import spanhook
import spanhook.testing

ROOT = Path(__file__).parents[1]
MODULES = sorted(path for folder in ("backends", "extractors") for path in (ROOT / folder).rglob("*.py"))
PUBLIC = {"spanhook": spanhook.__all__, "spanhook.testing": spanhook.testing.__all__}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_our_plugins_use_public_names_only(path):
    """Names in `spanhook.__all__` are documented, which `tests/docs/test_reference.py` holds."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    imported = [
        (node.module or "", name.name) for node in nodes if isinstance(node, ast.ImportFrom) for name in node.names
    ]
    imported += [(name.name, "") for node in nodes if isinstance(node, ast.Import) for name in node.names]
    ours = [(module, name) for module, name in imported if module.partition(".")[0] == "spanhook"]
    assert [f"{module} {name}" for module, name in ours if name not in ("", *PUBLIC.get(module, ()))] == []
    assert {module for module, _ in ours} <= set(PUBLIC)


def test_a_type_checker_sees_a_misspelt_name():
    """A `__getattr__` that it can see would make every name one of ours, of type Any."""
    source = Path(spanhook.__file__).read_text(encoding="utf-8")
    seen = [node.name for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]
    assert "__getattr__" not in seen
