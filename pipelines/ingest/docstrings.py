"""Documentation of installed packages as a collection: real text that every Python environment holds."""

import inspect
import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import packages_distributions, version

import orjson

from cluster.child import run_module
from cluster.errors import UserError
from pipelines.ingest.config import DocstringsConfig
from pipelines.ingest.pairs import Pair, draw_splits, folded, join_pairs
from pipelines.ingest.rows import Collection

# The first paragraph of a function written in C is its signature.
_SIGNATURE = re.compile(r"[\w.]+\(.*\)(\s*->.*)?", re.DOTALL)
_PARAGRAPH = re.compile(r"\n\s*\n")
SOURCE = "docstrings"
WALK = "pipelines.ingest.walk"
HASH_SEEDS = (1, 2)

Named = tuple[str, str]


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
    found, counts = reproducible(config.packages, config.methods_of)
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


def reproducible(packages: tuple[str, ...], methods_of: tuple[str, ...]) -> tuple[list[Named], Counter[str]]:
    """Return (dotted name, docstring) of the public names, and counts of names left out by reason.

    Some docstrings are made while a package is imported, out of sets or random numbers, and differ from one process
    to the next. Two processes of different hash seeds read all of them; where they disagree the name is left out.
    """
    wanted = orjson.dumps({"packages": packages, "methods_of": methods_of})
    with ThreadPoolExecutor(len(HASH_SEEDS)) as threads:
        first, second = threads.map(lambda seed: run_module(WALK, wanted, seed), HASH_SEEDS)
    read = orjson.loads(first)
    others = dict(orjson.loads(second)["found"])
    found = [(name, text) for name, text in read["found"] if others.get(name) == text]
    counts = Counter(read["counts"])
    counts["not_reproducible"] = len(read["found"]) - len(found)
    return found, counts


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
