"""A layer table for people and for programs."""

import csv
import io
import json

from cnnjax.inspection.field_of_view import FieldOfView
from cnnjax.inspection.layer_table import Row, Table

FORMATS = ("text", "json", "csv", "markdown")
HEADER = (
    "name",
    "type",
    "activations",
    "learnables",
    "parameters",
    "MACs",
    "memory",
    "field of view",
    "stride",
    "offset",
)
NUMBERS = range(4, 10)  # columns that are aligned on the right


def render(table: Table, findings: list[str], how: str) -> str:
    """The table and what was found, as 'text', 'json', 'csv' or 'markdown'."""
    return dict(text=_text, json=_json, csv=_csv, markdown=_markdown)[how](table, findings)


def labelled(shape: tuple[int, ...]) -> str:
    """'55(S) x 55(S) x 96(C) x 1(B)': which axes are Spatial, Channel and Batch."""
    batch, *spatial, channels = shape if len(shape) > 1 else (1, *shape)
    return " x ".join([*(f"{n}(S)" for n in spatial), f"{channels}(C)", f"{batch}(B)"])


def learnables(row: Row) -> str:
    """'kernel 11x11x3x96, bias 96'."""
    return ", ".join(
        f"{name} {'x'.join(map(str, shape)) or '1'}" for name, shape in sorted(row.learnables.items(), reverse=True)
    )


def _per_axis(views: tuple[FieldOfView, ...] | None, field: str) -> str:
    """One number where all axes agree, else '5x3'."""
    if not views:
        return ""
    values = ["" if (value := getattr(view, field)) is None else f"{value:g}" for view in views]
    return values[0] if len(set(values)) == 1 else "x".join(value or "?" for value in values)


def _bytes(count: int) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}" if count < 1000 * size else f"{count / size:,.0f} {unit}"
    return f"{count} B"


def _cells(row: Row) -> tuple[str, ...]:
    return (
        row.name,
        row.type,
        labelled(row.shape),
        learnables(row),
        f"{row.parameters:,}" if row.parameters else "",
        f"{row.macs:,}" if row.macs else "",
        _bytes(row.memory),
        *(_per_axis(row.field_of_view, field) for field in ("size", "stride", "offset")),
    )


def _totals(table: Table) -> str:
    return (
        f"{len(table.rows)} layers, {table.parameters:,} parameters ({_bytes(4 * table.parameters)} in float32), "
        f"{table.macs:,} multiply-accumulates, {_bytes(table.memory)} of activations, for one example of "
        f"{labelled(table.input_shape)}."
    )


def _notes(table: Table, findings: list[str]) -> list[str]:
    lines = [f"No fields of view: {table.unknown}"] if table.unknown else []
    return lines + (findings or ["No issue was found."])


def _text(table: Table, findings: list[str]) -> str:
    rows = [HEADER, *map(_cells, table.rows)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADER))]
    pad = lambda column, cell: cell.rjust(widths[column]) if column in NUMBERS else cell.ljust(widths[column])
    lines = ["  ".join(pad(column, cell) for column, cell in enumerate(row)).rstrip() for row in rows]
    lines.insert(1, "-" * max(map(len, lines)))
    return "\n".join([*lines, "", _totals(table), "", *_notes(table, findings)])


def _markdown(table: Table, findings: list[str]) -> str:
    line = lambda cells: "| " + " | ".join(cells) + " |"
    rule = line(["---:" if column in NUMBERS else "---" for column in range(len(HEADER))])
    notes = [f"- {note}" for note in _notes(table, findings)]
    return "\n".join([line(HEADER), rule, *(line(_cells(row)) for row in table.rows), "", _totals(table), "", *notes])


def as_dict(row: Row) -> dict:
    """A row as JSON values; fields of view without the intervals of each position."""
    views = [
        dict(size=view.size, stride=view.stride, offset=view.offset, padding=view.padding)
        for view in row.field_of_view or ()
    ]
    return row._asdict() | dict(field_of_view=views or None)


def _json(table: Table, findings: list[str]) -> str:
    totals = dict(parameters=table.parameters, macs=table.macs, memory=table.memory)
    value = dict(input_shape=table.input_shape, layers=[as_dict(row) for row in table.rows], totals=totals)
    return json.dumps(value | dict(unknown=table.unknown or None, issues=findings), indent=2)


def _csv(table: Table, findings: list[str]) -> str:
    """The rows alone, with plain numbers; what was found does not fit in a table of layers."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*HEADER[:6], "memory in bytes", *HEADER[7:]])
    for row in table.rows:
        cells = _cells(row)
        writer.writerow([*cells[:4], row.parameters, row.macs, row.memory, *cells[7:]])
    return text.getvalue().rstrip("\n")
