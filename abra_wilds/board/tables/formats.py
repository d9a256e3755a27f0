"""A table as Markdown, LaTeX, CSV and HTML, and a narrow form for a terminal."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from html import escape
from typing import Any

from abra_wilds.board.tables.notes import footnotes
from abra_wilds.board.tables.rows import PublishedRow, Table, TableRow
from abra_wilds.results.files import csv_text as as_csv
from abra_wilds.results.records import aligned
from abra_wilds.results.significance import spread

TEX = {
    **{c: rf"\{c}" for c in "&%$#_{}"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$"},
}
LEFT = ("Method", "TTA", "BN", "Epoch", "Backbone", "Outside data")
PAGE_STYLE = """
:root { color-scheme: light dark; }
body { font: 1rem/1.5 system-ui, sans-serif; margin: 2rem; }
.table { overflow-x: auto; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: bold; padding-bottom: .5rem; }
th, td { padding: .25rem .6rem; text-align: right; white-space: nowrap; border-bottom: 1px solid #8886; }
th[scope=row], th[scope=col]:first-child { text-align: left; }
"""


def grid(table: Table) -> tuple[list[tuple[str, str]], list[list[str]]]:
    """Headers and cells as text, the same for all formats that a person reads.

    Returns:
        [(group, header)], where the group is "" or says that a column is published, and one list a row.
    """
    columns = table.columns
    ours = ["p", "p (Holm)", "Difference", "d_z", "Images", "Forwards/image", "Outside data"]
    headers = [("", h) for h in ("Method", "TTA", "BN", "Epoch", "Backbone", *columns, "Seeds", *ours)]
    group = f"published ({table.layout.source})"
    headers += [(group, h) for h in (*table.layout.columns, "Seeds", "p", "p (Welch)")]
    marks = {text: mark for mark, text in footnotes(table).items()}
    return headers, [
        [
            *(*_named(row, marks), *_accs(row, columns, table.layout.tested)),
            *(*_tested(row), *_spent(row), *_printed(row, table)),
        ]
        for row in table.rows
    ]


def _named(row: TableRow, marks: Mapping[str, str]) -> list[str]:
    printed = row.published
    parts = [
        "SIMULATED" if row.simulated else "",
        "" if printed else "not in the paper",
        marks[printed.footnote] if printed and printed.footnote else "",
    ]
    label = row.label + "".join(f" [{part}]" for part in parts if part)
    terms = [str(row.terms.get(name) or "-") for name in ("bn_stats", "epoch")]
    return [label, row.key[1] or "-", *terms, row.backbone]


def _accs(row: TableRow, columns: list[str], tested: str) -> list[str]:
    if row.missing:
        return ["missing"] * len(columns) + ["0"]
    return [*(spread(row.mean_std(column), "missing") for column in columns), str(len(row.seeds(tested)))]


def _tested(row: TableRow) -> list[str]:
    c = row.comparison
    p = c.untested or "-" if c.result is None or c.result.p is None else f"{c.result.p:.2g}"
    return [
        p,
        "-" if c.p_holm is None else f"{c.p_holm:.2g}",
        "-" if c.result is None else f"{c.result.difference:+.2f}",
        "-" if c.result is None or c.result.d_z is None else f"{c.result.d_z:+.2f}",
    ]


def _spent(row: TableRow) -> list[str]:
    b = row.budget
    if b is None:
        return ["-", "-", "-"]
    return [
        "-" if b.images is None else f"{b.images:,.0f}",
        "-" if b.forwards is None else f"{b.forwards:.2f}",
        b.outside,
    ]


def _printed(row: TableRow, table: Table) -> list[str]:
    columns, printed = list(table.layout.columns), row.published
    if printed is None:
        return ["-"] * (len(columns) + 3)
    w = table.layout.welch(printed)
    p = "-" if w is None else f"{w[0]:.0e} ({w[1]:.0e} to {w[2]:.0e})"
    accs = (spread(printed.accs.get(column), "missing") for column in columns)
    return [*accs, str(printed.seeds), "-" if printed.p is None else f"{printed.p:.1e}", p]


def markdown(table: Table) -> str:
    """The table in Markdown, readable as text too."""
    headers, rows = grid(table)
    names = [f"published {header}" if group else header for group, header in headers]
    cells = [[value.replace("|", r"\|") for value in row] for row in [names, *rows]]
    widths = [max(3, *(len(row[i]) for row in cells)) for i in range(len(names))]
    left = [header in LEFT for _, header in headers]
    rule = ["-" * w if is_left else "-" * (w - 1) + ":" for w, is_left in zip(widths, left, strict=True)]
    lines = [
        "| "
        + " | ".join(
            v.ljust(w) if is_left else v.rjust(w) for v, w, is_left in zip(row, widths, left, strict=True)
        )
        + " |"
        for row in [cells[0], rule, *cells[1:]]
    ]
    notes = "\n".join(f"- {note}" for note in table.notes)
    return f"## {table.title}\n\n" + "\n".join(lines) + f"\n\n{notes}\n"


def narrow(table: Table) -> str:
    """The rows that have runs, in the column that is tested, for a terminal of 100 columns."""
    column = table.layout.tested
    cells = [["method", "TTA", column, "published", "seeds", "difference", "p (Holm)"]]
    for row in (row for row in table.rows if not row.missing):
        _, p_holm, difference, _ = _tested(row)
        printed = None if row.published is None else row.published.accs.get(column)
        name = row.label if row.published else f"{row.label} [not in the paper]"
        accs = [spread(row.mean_std(column), "missing"), spread(printed, "-")]
        cells.append([name, row.key[1] or "-", *accs, str(len(row.seeds(column))), difference, p_holm])
    left_out = sum(row.missing for row in table.rows)
    rest = f"\n{left_out} rows of the paper have no run." if left_out else ""
    return f"{table.title}\n\n{aligned(cells, left=2)}\n{rest}"


def latex(table: Table) -> str:
    """The table in LaTeX; it needs the packages booktabs and graphicx."""
    headers, rows = grid(table)
    n_ours = sum(not group for group, _ in headers)
    n_published = len(headers) - n_ours
    group = tex(headers[-1][0])
    kinds = "".join("l" if header in LEFT else "r" for _, header in headers)
    lines = [
        "% needs \\usepackage{booktabs,graphicx}",
        r"\begin{table*}",
        r"\centering",
        rf"\caption{{{tex(table.title)}}}",
        r"\resizebox{\linewidth}{!}{%",
        rf"\begin{{tabular}}{{{kinds}}}",
        r"\toprule",
        rf"\multicolumn{{{n_ours}}}{{c}}{{ours}} & \multicolumn{{{n_published}}}{{c}}{{{group}}} \\",
        rf"\cmidrule(r){{1-{n_ours}}} \cmidrule(l){{{n_ours + 1}-{len(headers)}}}",
        " & ".join(tex(header) for _, header in headers) + r" \\",
        r"\midrule",
        *(" & ".join(map(tex, row)) + r" \\" for row in rows),
        r"\bottomrule",
        r"\end{tabular}}",
        *(rf"\par\smallskip\raggedright\footnotesize {tex(note)}" for note in table.notes),
        r"\end{table*}",
    ]
    return "\n".join(lines) + "\n"


def tex(text: str) -> str:
    """Text for LaTeX, with minus signs that are not hyphens."""
    escaped = "".join(TEX.get(c, c) for c in text)
    return re.sub(r"^-(?=\d)", "$-$", escaped)


def csv_text(table: Table) -> str:
    """The table in CSV, one value a column, unrounded; what there is not is empty."""
    return as_csv([_values(table, row) for row in table.rows])


def _values(table: Table, row: TableRow) -> dict[str, Any]:
    c, b, printed = row.comparison, row.budget, row.published
    values: dict[str, Any] = {
        "table": table.layout.number,
        "method": row.label,
        "algorithm": row.key[0],
        "tta": row.key[1],
        "bn_stats": row.terms.get("bn_stats"),
        "epoch": row.terms.get("epoch"),
        "backbone": row.backbone,
        "data": None if row.missing else "SIMULATED" if row.simulated else "real",
        "status": "missing" if row.missing else "in the paper" if printed else "not in the paper",
    }
    for column in table.columns:
        mean, std = row.mean_std(column) or (None, None)
        seeds = row.seeds(column)
        values |= {f"{column}_mean": mean, f"{column}_std": std, f"{column}_n": len(seeds)}
    result = c.result
    values |= {
        "tested": table.layout.tested,
        "against": c.against,
        "pairs": result and result.n,
        "p": result and result.p,
        "p_holm": c.p_holm,
        "difference": result and result.difference,
        "d_z": result and result.d_z,
        "untested": c.untested,
        "differs_in": ", ".join(c.differs) or None,
        "images": b and b.images,
        "forwards_per_image": b and b.forwards,
        "outside_data": b and b.outside,
    }
    return values | _published_values(table, printed)


def _published_values(table: Table, printed: PublishedRow | None) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for column in table.layout.columns:
        mean, std = (printed and printed.accs.get(column)) or (None, None)
        values |= {f"published_{column}_mean": mean, f"published_{column}_std": std}
    p, least, most = (printed and table.layout.welch(printed)) or (None, None, None)
    return values | {
        "published_backbone": printed and printed.backbone,
        "published_n": printed and printed.seeds,
        "published_source": printed and table.layout.source,
        "published_footnote": printed and printed.footnote,
        "published_p": printed and printed.p,
        "published_welch_p": p,
        "published_welch_p_least": least,
        "published_welch_p_most": most,
    }


def html_table(table: Table) -> str:
    """The table and its notes in HTML, to stand in any page; it brings no style and no id."""
    headers, rows = grid(table)
    n_ours = sum(not group for group, _ in headers)
    title = escape(table.title)
    head = (
        f'<tr><th colspan="{n_ours}" scope="colgroup">ours</th>'
        f'<th colspan="{len(headers) - n_ours}" scope="colgroup">{escape(headers[-1][0])}</th></tr>'
    )
    named = "".join(f'<th scope="col">{escape(header)}</th>' for _, header in headers)
    body = "".join(
        f'<tr><th scope="row">{escape(row[0])}</th>'
        + "".join(f"<td>{escape(v)}</td>" for v in row[1:])
        + "</tr>\n"
        for row in rows
    )
    groups = f'<colgroup span="{n_ours}"></colgroup><colgroup span="{len(headers) - n_ours}"></colgroup>'
    notes = "".join(f"<li>{escape(note)}</li>\n" for note in table.notes)
    # A region that scrolls must be reachable by keyboard, hence the tabindex.
    return (
        f'<div class="table" role="region" aria-label="{title}" tabindex="0">\n'
        f"<table>\n<caption>{title}</caption>\n{groups}\n<thead>\n{head}\n<tr>{named}</tr>\n</thead>\n<tbody>\n{body}</tbody>\n</table>\n</div>\n"
        f'<ul class="notes">\n{notes}</ul>\n'
    )


def html_page(table: Table) -> str:
    """The table as a page of its own."""
    title = escape(table.title)
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{title}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>{PAGE_STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{title}</h1>\n{html_table(table)}</main>\n</body>\n</html>\n"
    )


FORMATS: dict[str, Callable[[Table], str]] = {
    "md": markdown,
    "tex": latex,
    "csv": csv_text,
    "html": html_page,
}
