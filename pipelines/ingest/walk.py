"""Read the docstrings of the public names of packages: a process of its own, JSON in and JSON out."""

import importlib
import inspect
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from types import ModuleType

import orjson

# Test suites and vendored copies of other projects are public by name only.
_NOT_DOCUMENTED = frozenset({"conftest", "externals", "test", "testing", "tests"})


def read_names(packages: list[str], methods_of: list[str]) -> tuple[list[tuple[str, str]], Counter[str]]:
    """Return (dotted name, docstring) of every public name, and counts of names left out by reason."""
    counts: Counter[str] = Counter()
    found: list[tuple[str, str]] = []
    with warnings.catch_warnings():
        # Deprecated names warn when they are looked at.
        warnings.simplefilter("ignore")
        for package in packages:
            found += _walk(importlib.import_module(package), package, package, frozenset(methods_of), counts)
    return found, counts


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


def main() -> None:
    """Answer one request."""
    wanted = orjson.loads(sys.stdin.buffer.read())
    found, counts = read_names(wanted["packages"], wanted["methods_of"])
    sys.stdout.buffer.write(orjson.dumps({"found": found, "counts": counts}))


if __name__ == "__main__":
    main()
