"""Bars of MB/s as SVG."""

from __future__ import annotations

from typing import Any
from xml.sax.saxutils import escape

ROW, LABEL, WIDTH = 22, 90, 640


def picture(found: dict[str, Any]) -> str:
    """One group of bars for each case; `cached` stands out."""
    parts: list[str] = []
    top = 10
    for case in found.values():
        clients = {name: figures["MB_per_s"] for name, figures in case["clients"].items()}
        most = max(clients.values())
        parts.append(f'<text x="10" y="{top + 14}" font-weight="bold">{escape(case["title"])}, MB/s</text>')
        top += ROW + 4
        for name, speed in clients.items():
            length = max(1, round((WIDTH - LABEL - 80) * speed / most))
            colour = "#0b7285" if name == "cached" else "#adb5bd"
            parts.append(f'<text x="{LABEL - 8}" y="{top + 14}" text-anchor="end">{escape(name)}</text>')
            parts.append(f'<rect x="{LABEL}" y="{top + 2}" width="{length}" height="{ROW - 6}" fill="{colour}"/>')
            parts.append(f'<text x="{LABEL + length + 6}" y="{top + 14}">{speed:.0f}</text>')
            top += ROW
        top += 12
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{top}" font-family="sans-serif" '
        f'font-size="13"><rect width="100%" height="100%" fill="white"/>\n{body}\n</svg>\n'
    )
