"""Parts of pages: one HTML file that needs no other, its tables, and its figures."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from .style import NamedFigure

_CSS = """
:root { --ink: #1f2937; --soft: #6b7280; --line: #e5e7eb; --accent: #332288; }
* { box-sizing: border-box; }
body { margin: 0; background: #f3f4f6; color: var(--ink);
  font: 15px/1.5 system-ui, "Segoe UI", "Helvetica Neue", Arial, "Liberation Sans", sans-serif; }
main { max-width: 1160px; margin: 0 auto; padding: 36px 44px 56px; background: #fff; }
header { border-bottom: 3px solid var(--accent); padding-bottom: 14px; margin-bottom: 16px; }
h1 { font-size: 27px; line-height: 1.25; margin: 6px 0 10px; letter-spacing: -0.01em; }
h2 { font-size: 19px; margin: 38px 0 8px; }
h3 { font-size: 15px; margin: 22px 0 4px; }
p { margin: 6px 0 10px; max-width: 96ch; }
.kicker, .small, .foot, figcaption { color: var(--soft); font-size: 13.5px; }
.badge { display: inline-block; border: 1px solid #c2410c; background: #fff7ed; color: #9a3412;
  border-radius: 4px; padding: 0 8px; margin-left: 8px; }
.badge.real { border-color: #047857; background: #ecfdf5; color: #065f46; }
.lead { font-size: 17px; }
.note { border-left: 4px solid #c2410c; background: #fff7ed; padding: 8px 14px; margin: 8px 0;
  max-width: none; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; margin: 6px 0 4px; font-size: 14px;
  font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: 5px 8px; border-bottom: 1px solid var(--line); }
td { white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
thead th { font-weight: 600; border-bottom: 2px solid var(--ink); vertical-align: bottom; }
tr.group td { font-weight: 600; padding-top: 14px; border-bottom-color: var(--ink); }
tr.minor td { color: var(--soft); }
tr.first td { background: #f5f3ff; font-weight: 600; }
sup { line-height: 0; font-size: 11px; color: var(--soft); font-weight: 400; }
ol.foot { margin: 4px 0; padding-left: 20px; }
.dot { display: inline-block; width: 10px; height: 10px; border-radius: 5px; margin-right: 7px; }
figure { margin: 18px 0 30px; }
figure img { display: block; max-width: 100%; height: auto; border: 1px solid var(--line); }
figcaption { margin-top: 6px; max-width: 110ch; }
details { margin: 10px 0; }
summary { cursor: pointer; font-weight: 600; color: var(--accent); }
.columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(290px, 1fr)); gap: 4px 40px; }
.columns table { font-size: 13.5px; }
.columns td { white-space: normal; overflow-wrap: anywhere; padding: 3px 6px; }
.columns td:first-child { color: var(--soft); padding-left: 0; }
pre { background: #f3f4f6; border: 1px solid var(--line); border-radius: 4px; padding: 10px 14px;
  font-size: 13.5px; white-space: pre-wrap; overflow-wrap: anywhere; }
@media (max-width: 700px) { main { padding: 22px 18px; } }
@media print {
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  body { background: #fff; font-size: 9.5pt; }
  main { max-width: none; padding: 0; }
  figure, tr, .note, .columns > div { break-inside: avoid; }
  h2, h3 { break-after: avoid; }
  .scroll { overflow: visible; }
  th, td { padding: 3px 5px; }
}
"""


def document(title: str, parts: Iterable[str]) -> str:
    """Return a whole page in the style of reports; `parts` are HTML already, the title is text."""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}: margformer_fast</title><style>{_CSS}</style></head>\n<body><main>\n"
        + "\n".join(parts)
        + "\n</main></body></html>\n"
    )


def table(head: Sequence[str], body: Iterable[tuple[str, Sequence[str]]]) -> str:
    """Return a table. Cells are HTML already; each row has its CSS class, ``"group"`` is a heading."""
    rows = []
    for kind, cells in body:
        wide = f' colspan="{len(head)}"' if kind == "group" else ""
        mark = f' class="{kind}"' if kind else ""
        rows.append(f"<tr{mark}>" + "".join(f"<td{wide}>{cell}</td>" for cell in cells) + "</tr>")
    top = "".join(f"<th>{cell}</th>" for cell in head)
    inside = f"<thead><tr>{top}</tr></thead><tbody>{''.join(rows)}</tbody>"
    return f'<div class="scroll"><table>{inside}</table></div>'


def pairs(title: str, values: Mapping[str, Any]) -> str:
    """Return names and values as a table, nested names joined by dots; nothing if there are none."""
    rows = "".join(
        f"<tr><td>{escape(name)}</td><td>{escape(str(value))}</td></tr>" for name, value in _flat(values)
    )
    return f"<div><h3>{escape(title)}</h3><table><tbody>{rows}</tbody></table></div>" if rows else ""


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def picture(figure: NamedFigure, data: bytes) -> str:
    """Return a figure with its caption; `data` is its PNG file."""
    source = f"data:image/png;base64,{base64.b64encode(data).decode()}"
    return (
        f'<figure id="{escape(figure.stem)}"><img alt="{escape(figure.title)}" src="{source}">'
        f"<figcaption><b>{escape(figure.title)}.</b> {escape(figure.caption)}</figcaption></figure>"
    )


def folded(title: str, inside: str) -> str:
    """Return what shows only its title, which is text, until it is asked for; `inside` is HTML already."""
    return f"<details><summary>{escape(title)}</summary>{inside}</details>"
