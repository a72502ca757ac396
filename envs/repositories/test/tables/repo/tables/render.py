"""Tables as text."""

from tables.columns import cell, columns


def render(rows):
    """Return rows, which are dicts, as a table."""
    names = columns(rows)
    lines = [names, *([cell(row, name) for name in names] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines)]
    return "\n".join("  ".join(text.ljust(width) for text, width in zip(line, widths)).rstrip() for line in lines)
