"""Lists as `ls -l` prints them: aligned columns, the last one free to be as long as it is."""

from collections.abc import Sequence

from rich.console import Console


def print_rows(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows whose last cell, a name to copy, is never cut or wrapped.

    Args:
        header: One word a column.
        rows: Cells; numbers are told by their first character and aligned to the right.
    """
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header) - 1)]
    console = Console(highlight=False, markup=False, soft_wrap=True)
    console.print("  ".join([*map(str.ljust, header, widths), header[-1]]), style="bold")
    for row in rows:
        cells = [
            cell.rjust(width) if cell[:1].isdigit() else cell.ljust(width)
            for cell, width in zip(row, widths, strict=False)
        ]
        console.print("  ".join([*cells, row[-1]]))
