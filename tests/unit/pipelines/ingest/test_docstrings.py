import platform
import sys
import warnings
from importlib import import_module

import pytest

from cluster.errors import UserError
from pipelines.ingest.config import DocstringsConfig
from pipelines.ingest.docstrings import package_versions, read_docstrings, reproducible, split_docstring
from pipelines.ingest.pipeline import ingest_step

REST = "word " * 25


def test_first_paragraph_and_rest():
    assert split_docstring(f"Merge two\n    frames.\n\n    {REST}\n\n    End.") == (
        "Merge two frames.",
        f"{REST.strip()} \n\nEnd.",
    )
    assert split_docstring("pdtr(k, m, out=None)\n\nPoisson sum.\n\nMore.") == ("Poisson sum.", "More.")
    assert split_docstring("Only one paragraph.") == ("Only one paragraph.", "")
    assert split_docstring("f(x)\n\nOnly one.") == ("Only one.", "")


@pytest.fixture
def package(tmp_path, monkeypatch):
    folder = tmp_path / "quarry"
    (folder / "inner").mkdir(parents=True)
    (folder / "__init__.py").write_text(f'''
from collections import OrderedDict
from quarry import inner
from quarry.inner import dig
__all__ = ["dig", "Cart", "inner", "old", "gone", "OrderedDict", "_hidden"]
class Cart:
    """Carry ore along the rails.

    {REST} cart
    """
    def push(self):
        """Push the cart forward.

        {REST} push
        """
    @property
    def load(self):
        """Say how much it holds.

        {REST} load
        """
        raise RuntimeError("a property was run")
def _hidden():
    """Never seen.

    {REST} hidden
    """
def __getattr__(name):
    if name == "old":
        raise RuntimeError("deprecated")
    raise AttributeError(name)
''')
    (folder / "inner" / "__init__.py").write_text(f'''
def dig():
    """Dig for ore.

    {REST} dig
    """
def short():
    """Too short.

    Few words.
    """
''')
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "quarry"
    for name in [name for name in sys.modules if name.partition(".")[0] == "quarry"]:
        del sys.modules[name]


def test_public_names_are_walked_and_nothing_is_run(package):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = read_docstrings(DocstringsConfig(packages=(package,), methods_of=("quarry.Cart",)))
    ids = [document.doc_id for document in found.documents()]
    assert ids == ["quarry.Cart", "quarry.dig", "quarry.Cart.load", "quarry.Cart.push"]
    assert [query.text for query in found.queries()][1] == "Dig for ore."
    assert found.facts["names_not_importable"] == 2
    assert found.facts["names_too_short"] == 1
    assert found.facts["names_repeated"] == 1
    assert not set(ids) & {query.query_id for query in found.queries()}


def test_methods_are_read_only_where_asked(package):
    found = read_docstrings(DocstringsConfig(packages=(package,), methods_of=()))
    assert [document.doc_id for document in found.documents()] == ["quarry.Cart", "quarry.dig"]


def test_a_package_without_documentation_is_refused(package):
    import_module(package)
    with pytest.raises(UserError, match="no documentation found"):
        read_docstrings(DocstringsConfig(packages=(package,), min_document_words=1000))


def test_absent_packages_are_refused_before_any_import():
    with pytest.raises(UserError, match="package no_such_package is not installed"):
        ingest_step(DocstringsConfig(packages=("pydantic", "no_such_package")))


def test_versions_make_the_identity():
    versions = package_versions(("pydantic", "yaml"))
    assert set(versions) == {"pydantic", "yaml"}
    step = ingest_step(DocstringsConfig(packages=("pydantic",)))
    assert step.identity["sources"] == {"pydantic": versions["pydantic"], "python": platform.python_version()}


def test_docstrings_that_differ_between_processes_are_left_out(tmp_path, monkeypatch):
    (tmp_path / "noisy.py").write_text(
        'import os\n__all__ = ["calm", "noisy", "ordered"]\n'
        'def calm():\n    "Stay the same.\\n\\nIn every process."\n'
        'def noisy():\n    pass\nnoisy.__doc__ = f"Made at import.\\n\\nBy process {os.getpid()}."\n'
        'def ordered():\n    pass\nordered.__doc__ = f"A set.\\n\\n{set(map(str, range(50)))}"\n'
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    found, counts = reproducible(("noisy",), ())
    assert [name for name, _ in found] == ["noisy.calm"]
    assert counts["not_reproducible"] == 2


def test_a_package_that_cannot_be_imported_says_why(tmp_path, monkeypatch):
    (tmp_path / "broken_package.py").write_text("import no_such_dependency\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UserError, match="no_such_dependency"):
        reproducible(("broken_package",), ())
