"""Pieces of HTML: escaped text, tables that scroll, the page around them. No request leaves the page."""

import re
from collections.abc import Sequence
from html import escape

from pipelines.report.style import STYLE

# HTML forbids most control characters; bidirectional overrides would turn the page's own words around.
_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def text(value: object) -> str:
    """Return ``value`` as text that can stand anywhere in the page, in an attribute too."""
    return escape(_FORBIDDEN.sub("\N{REPLACEMENT CHARACTER}", str(value)), quote=True)


def rows_table(label: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in a box that scrolls sideways; the first column is a heading and stays in view.

    Args:
        label: What the table shows, for those who do not see it; plain text.
        header: Plain text, one a column.
        rows: Cells, HTML already.
    """
    head = "".join(f'<th scope="col">{text(each)}</th>' for each in header)
    body = "".join(
        f'<tr><th scope="row">{row[0]}</th>{"".join(f"<td>{cell}</td>" for cell in row[1:])}</tr>'
        for row in rows
    )
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{text(label)}"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def section(title: str, note: str, body: str) -> str:
    """Return a section; ``title`` and ``note`` are plain text, ``body`` is HTML."""
    return (
        f"<section><h2>{text(title)}</h2>{f'<p class=note>{text(note)}</p>' if note else ''}{body}</section>"
    )


def page(title: str, body: str) -> str:
    """Return the whole document; ``title`` is plain text, ``body`` is HTML."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        "style-src 'unsafe-inline'; img-src data:\">\n"
        f'<link rel="icon" href="data:,">\n<title>{text(title)}</title>\n<style>{STYLE}</style>\n</head>\n'
        f"<body>\n<main>{body}</main>\n</body>\n</html>\n"
    )
