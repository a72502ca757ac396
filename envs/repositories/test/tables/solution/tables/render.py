"""Tables as text."""

from tables.columns import cell, columns


def render(rows, form="plain"):
    """Return rows, which are dicts, as a table; the form is plain or markdown."""
    if form not in ("plain", "markdown"):
        raise ValueError(f"unknown form {form!r}")
    names = columns(rows)
    lines = [names, *([cell(row, name) for name in names] for row in rows)]
    if form == "markdown":
        return markdown(rows, names, lines) if rows else ""
    widths = [max(map(len, column)) for column in zip(*lines)]
    return "\n".join("  ".join(text.ljust(width) for text, width in zip(line, widths)).rstrip() for line in lines)


def markdown(rows, names, lines):
    """Return a heading and lines of cells as Markdown."""
    head, *rest = ([text.replace("|", "\\|").replace("\n", " ") for text in line] for line in lines)
    rule = ["--:" if numeric(rows, name) else "---" for name in names]
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, rule, *rest))


def numeric(rows, name):
    """Whether all values of a column are numbers."""
    values = [row[name] for row in rows if name in row]
    return all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)
