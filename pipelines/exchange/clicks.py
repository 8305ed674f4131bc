"""A click log as graded judgments: pairs shown often enough, their smoothed click-through rate cut into grades.

Two passes: the first sums clicks and impressions of every pair (digests in memory, no texts), the second adds texts
and judgments. Position bias is not modelled; `ClicksConfig` has the formula.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path

from pipelines.exchange.columns import columns_in, named_roles, number, require
from pipelines.exchange.config import ClicksConfig, ImportConfig
from pipelines.exchange.dataset import DataSet, folded
from pipelines.exchange.examples import split_of
from pipelines.ingest.readers import Record, read_records
from pipelines.ingest.rows import BadRow
from pipelines.ingest.validate import RowError, bad_row, content, optional_content

ROLES = ("query", "document", "clicks", "impressions", "title", "split")


@dataclass(frozen=True)
class Shown:
    """One usable row of the log."""

    origin: tuple[str, int]
    query: str
    document: str
    title: str | None
    split: str | None
    clicks: int
    impressions: int

    @property
    def pair(self) -> bytes:
        """Equal where query and document are equal but for white space."""
        text = "\n".join(map(folded, (self.query, self.title or "", self.document)))
        return blake2b(text.encode(), digest_size=12).digest()


@dataclass
class Totals:
    """Clicks and impressions of every pair."""

    of_pair: dict[bytes, tuple[int, int]] = field(default_factory=dict)
    clicks: int = 0
    impressions: int = 0

    def add(self, shown: Shown) -> None:
        """Count one row."""
        clicks, impressions = self.of_pair.get(shown.pair, (0, 0))
        self.of_pair[shown.pair] = (clicks + shown.clicks, impressions + shown.impressions)
        self.clicks += shown.clicks
        self.impressions += shown.impressions

    @property
    def mean_rate(self) -> float:
        """Click-through rate of the whole log."""
        return self.clicks / self.impressions if self.impressions else 0.0


def grade(clicks: int, impressions: int, mean_rate: float, config: ClicksConfig) -> int:
    """Return how many cuts the smoothed rate (clicks + k m) / (impressions + k) reaches, 0 to 3."""
    weight = config.prior_impressions
    rate = (clicks + weight * mean_rate) / (impressions + weight)
    return sum(rate >= cut for cut in config.cuts)


def read_clicks(config: ImportConfig, dataset: DataSet, advance: Callable[[int], None]) -> list[str]:
    """Add every document of the log, and the queries and judgments of the pairs that have a grade.

    Returns:
        Notes: the log's mean rate, and what the grades leave aside.

    Raises:
        UserError: A file is missing or lacks a column.
    """
    roles = named_roles(config.columns, ROLES)
    for file in config.files:
        columns, where = columns_in(file.path)
        require(columns, where, roles, ("query", "document", "clicks", "impressions"))
    totals = Totals()
    for file in config.files:
        for row in _rows(file.path, roles):
            advance(1)
            if isinstance(row, BadRow):
                dataset.rejects.add(row)
            else:
                totals.add(row)
    waiting = set(totals.of_pair)
    for file in config.files:
        for row in _rows(file.path, roles):
            advance(1)
            if isinstance(row, BadRow):
                continue
            if row.pair not in waiting:
                dataset.rejects.merge("row added to an earlier row of its pair")
                continue
            waiting.discard(row.pair)
            _judge(dataset, row, totals, config.clicks, file.split)
    return [
        f"{totals.clicks:,} clicks in {totals.impressions:,} impressions: mean rate {totals.mean_rate:.4f}",
        "the position at which a document was shown is not modelled: what stood first is flattered",
    ]


def _judge(dataset: DataSet, row: Shown, totals: Totals, config: ClicksConfig, split: str | None) -> None:
    doc_id = dataset.document(row.origin, row.document, row.title)
    clicks, impressions = totals.of_pair[row.pair]
    if impressions < config.min_impressions:
        dataset.rejects.merge(f"pair shown fewer than {config.min_impressions} times")
        return
    relevance = grade(clicks, impressions, totals.mean_rate, config)
    if not relevance:
        dataset.rejects.merge(f"pair whose rate is below {config.cuts[0]:g}")
        return
    query_id = dataset.query(row.origin, row.query)
    if query_id is not None and doc_id is not None:
        dataset.positive(query_id, doc_id, float(relevance), split or row.split)


def _rows(path: Path, roles: dict[str, str]) -> Iterator[Shown | BadRow]:
    for record in read_records(path, path.name, tuple(roles.values())):
        if isinstance(record, BadRow):
            yield record
            continue
        try:
            yield _shown(record, roles, path.name)
        except RowError as error:
            yield bad_row(path.name, record, error)


def _shown(record: Record, roles: dict[str, str], source: str) -> Shown:
    clicks, impressions = (_count(record, roles[role]) for role in ("clicks", "impressions"))
    if clicks > impressions:
        raise RowError("more clicks than impressions")
    return Shown(
        origin=(source, record.row),
        query=content(record, roles["query"]),
        document=content(record, roles["document"]),
        title=optional_content(record, roles["title"]),
        split=split_of(record, roles["split"]),
        clicks=clicks,
        impressions=impressions,
    )


def _count(record: Record, column: str) -> int:
    value = number(record.values.get(column), column)
    if value < 0 or value != int(value):
        raise RowError(f"{column} is not a whole number of times")
    return int(value)
