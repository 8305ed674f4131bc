"""Documentation of installed packages as a collection: real text that every Python environment holds."""

import importlib
import inspect
import re
import warnings
from collections import Counter
from collections.abc import Iterator
from importlib.metadata import packages_distributions, version
from types import ModuleType

from cluster.errors import UserError
from pipelines.ingest.config import DocstringsConfig
from pipelines.ingest.pairs import Pair, draw_splits, folded, join_pairs
from pipelines.ingest.rows import Collection

# Test suites and vendored copies of other projects are public by name only.
_NOT_DOCUMENTED = frozenset({"conftest", "externals", "test", "testing", "tests"})
# The first paragraph of a function written in C is its signature.
_SIGNATURE = re.compile(r"[\w.]+\(.*\)(\s*->.*)?", re.DOTALL)
_PARAGRAPH = re.compile(r"\n\s*\n")
SOURCE = "docstrings"


def package_versions(packages: tuple[str, ...]) -> dict[str, str]:
    """Return the installed version of every package, without importing it.

    Raises:
        UserError: One is not installed.
    """
    distributions = packages_distributions()
    missing = [name for name in packages if name not in distributions]
    if missing:
        raise UserError(
            f"package {missing[0]} is not installed",
            where="data.packages",
            got=", ".join(packages),
            expected="importable names of installed packages, without dots",
            fix='pip install -e ".[demo]" brings the default ones, or name others in data.packages',
        )
    return {name: version(distributions[name][0]) for name in packages}


def read_docstrings(config: DocstringsConfig) -> Collection:
    """Return queries (first paragraphs) and documents (the rest) of the public names, split and joined."""
    found: list[tuple[str, str]] = []
    counts: Counter[str] = Counter()
    with warnings.catch_warnings():
        # Deprecated names warn when they are looked at.
        warnings.simplefilter("ignore")
        for package in config.packages:
            found += _walk(
                importlib.import_module(package), package, package, frozenset(config.methods_of), counts
            )
    pairs = []
    # Of several names with one text, the one nearest to the top of its package comes first.
    found.sort(key=lambda entry: (entry[0].count("."), entry[0]))
    for row, (name, docstring) in enumerate(found, start=1):
        query, document = split_docstring(docstring)
        if not query or len(document.split()) < config.min_document_words:
            counts["too_short"] += 1
        else:
            pairs.append(Pair(row=row, query=query, document=document, name=name))
    if not pairs:
        raise UserError(
            "no documentation found",
            where="data.packages",
            got=", ".join(config.packages),
            expected=f"docstrings of at least {config.min_document_words} words after the first paragraph",
            fix="name other packages, or lower data.min_document_words",
        )
    pairs = _distinct(pairs, counts)
    names = {"names_read": len(found)} | {
        f"names_{reason}": count for reason, count in sorted(counts.items())
    }
    joined, _ = join_pairs(pairs, SOURCE)
    judgments, facts = draw_splits(joined, config.splits, config.near_duplicate_jaccard, config.seed)
    return Collection(
        documents=lambda: iter(joined.documents.values()),
        queries=lambda: iter(joined.queries.values()),
        judgments=lambda: iter(judgments),
        facts=names | facts,
    )


def split_docstring(docstring: str) -> tuple[str, str]:
    """Return the first paragraph, white space folded, and the rest; a leading signature is left out."""
    first, *rest = _PARAGRAPH.split(inspect.cleandoc(docstring), maxsplit=1)
    if rest and _SIGNATURE.fullmatch(first.strip()):
        first, *rest = _PARAGRAPH.split(rest[0], maxsplit=1)
    return folded(first), rest[0].strip() if rest else ""


def _distinct(pairs: list[Pair], counts: Counter[str]) -> list[Pair]:
    """Return one pair of each (query, document): a name that is exported twice is one text."""
    first: dict[tuple[str, str], Pair] = {}
    for pair in pairs:
        first.setdefault((pair.query, folded(pair.document)), pair)
    counts["repeated"] += len(pairs) - len(first)
    return list(first.values())


def _walk(
    module: ModuleType, package: str, prefix: str, methods_of: frozenset[str], counts: Counter[str]
) -> Iterator[tuple[str, str]]:
    """Yield (dotted name, docstring) of the public classes and functions of a module and those below it."""
    declared = getattr(module, "__all__", None)
    for name in sorted(set(dir(module) if declared is None else declared)):
        if name.startswith("_") or name in _NOT_DOCUMENTED:
            continue
        value = _public(module, prefix, name)
        dotted = f"{prefix}.{name}"
        if value is None:
            counts["not_importable"] += 1
        elif isinstance(value, ModuleType):
            # A module of another name is an import of the package's own, not a part of its interface.
            if value.__name__ == dotted:
                yield from _walk(value, package, dotted, methods_of, counts)
        elif not _belongs(value, package, declared is not None):
            continue
        elif inspect.isclass(value) or inspect.isroutine(value):
            yield from _documented(dotted, value.__doc__)
            if inspect.isclass(value) and dotted in methods_of:
                yield from _members(dotted, value, package)


def _public(module: ModuleType, prefix: str, name: str) -> object:
    try:
        return getattr(module, name)
    except AttributeError:
        pass
    except Exception:  # noqa: BLE001  a lazy attribute may raise anything; the caller counts it
        return None
    try:
        return importlib.import_module(f"{prefix}.{name}")
    except Exception:  # noqa: BLE001  an optional dependency may be absent; the caller counts it
        return None


def _belongs(value: object, package: str, declared: bool) -> bool:
    """Return whether a value is the package's own; C functions name none: trusted if declared."""
    owner = getattr(value, "__module__", None)
    return owner.split(".")[0] == package if isinstance(owner, str) else declared


def _members(dotted: str, owner: type, package: str) -> Iterator[tuple[str, str]]:
    for name in dir(owner):
        definer = next((base for base in owner.__mro__ if name in vars(base)), None)
        if name.startswith("_") or definer is None or definer.__module__.split(".")[0] != package:
            continue
        # Read from the class's own dict: a property is described, never run.
        member = vars(definer)[name]
        if isinstance(member, staticmethod | classmethod):
            member = member.__func__
        if callable(member) or inspect.isdatadescriptor(member):
            yield from _documented(f"{dotted}.{name}", member.__doc__)


def _documented(dotted: str, docstring: object) -> Iterator[tuple[str, str]]:
    if isinstance(docstring, str) and docstring.strip():
        yield dotted, docstring
