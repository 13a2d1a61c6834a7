"""The figures as bars, in SVG written by hand."""

from __future__ import annotations

from collections.abc import Sequence
from xml.sax.saxutils import escape

from tests.bench.report import COLUMNS, Found

ROW, LABEL, PANEL, VALUE = 20, 150, 330, 46  # Pixels.
OURS, THEIRS = "#0b7285", "#adb5bd"


def picture(found: Sequence[Found]) -> str:
    """For each case the bars of two figures side by side; `cached` stands out."""
    parts: list[str] = []
    top = 10
    for case in found:
        if case.bars():
            top = _case(parts, case, top) + 14
    body = "\n".join(parts)
    width = LABEL + 2 * PANEL
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{top}" viewBox="0 0 {width} {top}" '
        f'font-family="sans-serif" font-size="12">\n<rect width="100%" height="100%" fill="white"/>\n{body}\n</svg>\n'
    )


def _case(parts: list[str], case: Found, top: int) -> int:
    parts.append(_text(10, top + 14, case.title, 'font-weight="bold"'))
    top += ROW + 2
    for column, name in enumerate(case.bars()):
        better = "less is better" if name.startswith("cpu") else "more is better"
        parts.append(_text(LABEL + column * PANEL, top + 12, f"{COLUMNS[name][0]} ({better})", 'fill="#495057"'))
    top += ROW - 2
    for client, row in case.rows.items():
        parts.append(_text(LABEL - 8, top + 13, client, 'text-anchor="end"'))
        for column, name in enumerate(case.bars()):
            most = max(other[name] for other in case.rows.values()) or 1.0
            left, length = LABEL + column * PANEL, max(1, round((PANEL - VALUE - 14) * row[name] / most))
            colour = OURS if client.startswith("cached") else THEIRS
            parts.append(f'<rect x="{left}" y="{top + 3}" width="{length}" height="{ROW - 7}" fill="{colour}"/>')
            parts.append(_text(left + length + 5, top + 13, format(row[name], COLUMNS[name][1])))
        top += ROW
    return top


def _text(x: int, y: int, text: str, more: str = "") -> str:
    return f'<text x="{x}" y="{y}"{" " + more if more else ""}>{escape(text)}</text>'
