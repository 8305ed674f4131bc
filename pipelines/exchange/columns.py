"""Which column of a file plays which role, checked before a row is read; and values that several formats share."""

import difflib
from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path

from cluster.errors import UserError
from pipelines.ingest.readers import Record, columns_of, existing, read_records
from pipelines.ingest.rows import BadRow
from pipelines.ingest.validate import RowError


def named_roles(given: Mapping[str, str], roles: Sequence[str]) -> dict[str, str]:
    """Return the name of every role's column: the one given, else the role's own name.

    Raises:
        UserError: A role is given that the format does not have.
    """
    for role in given:
        if role not in roles:
            near = difflib.get_close_matches(role, roles, n=1)
            raise UserError(
                "no such role",
                where=f"--column {role}={given[role]}",
                got=role,
                expected=", ".join(roles) or "no --column: this format's names are fixed",
                fix=f"did you mean --column {near[0]}={given[role]}?" if near else "",
            )
    return {role: given.get(role, role) for role in roles}


def columns_in(path: Path) -> tuple[list[str], str]:
    """Return the columns of a file, and where they were found.

    JSON lines have no header: the keys of the first row that can be read stand for it.

    Raises:
        UserError: There is no such file, it is of an unknown kind, or no row of it can be read.
    """
    columns = columns_of(existing(path, "file"))
    if columns is not None:
        return columns, str(path)
    first_bad: BadRow | None = None
    for record in read_records(path, path.name, ()):
        if isinstance(record, Record):
            return list(record.values), f"{path}, line {record.row}"
        first_bad = first_bad or record
    raise UserError(
        "no row can be read",
        where=f"{path}, line {first_bad.row}" if first_bad else str(path),
        got=first_bad.reason if first_bad else "an empty file",
        expected="one JSON object a line",
    )


def require(columns: Sequence[str], where: str, roles: Mapping[str, str], required: Sequence[str]) -> None:
    """Refuse a file that lacks the column of a required role.

    Raises:
        UserError: Names the file, its columns and the missing ones.
    """
    missing = [role for role in required if roles[role] not in columns]
    if missing:
        raise UserError(
            f"missing column {', '.join(roles[role] for role in missing)}",
            where=where,
            got=", ".join(columns) or "an empty file",
            expected=", ".join(roles[role] for role in required),
            fix=f"name the file's own: --column {missing[0]}=...",
        )


def alias(columns: Sequence[str], names: Sequence[str], where: str) -> str:
    """Return the first of ``names`` that is a column.

    Raises:
        UserError: None of them is.
    """
    for name in names:
        if name in columns:
            return name
    raise UserError(
        f"missing column {names[0]}",
        where=where,
        got=", ".join(columns) or "an empty file",
        expected=" or ".join(names),
        fix=f"a .tsv or .csv file needs a header line; rename the column to {names[0]}",
    )


def number(value: object, column: str) -> float:
    """Return a finite number.

    Raises:
        RowError: It is absent, or no finite number.
    """
    if value is None or value == "":
        raise RowError(f"no {column}")
    try:
        found = float(str(value)) if not isinstance(value, bool) else float(value)
    except ValueError as error:
        raise RowError(f"{column} is not a number") from error
    if not isfinite(found) or abs(found) > 3e38:
        raise RowError(f"{column} is not a finite number")
    return found


def elements(record: Record, column: str) -> list[object]:
    """Return the elements of a list column; none where it is absent or null.

    Raises:
        RowError: It holds something else.
    """
    value = record.values.get(column)
    if value is None:
        return []
    if not isinstance(value, list):
        raise RowError(f"{column} is not a list")
    return value
