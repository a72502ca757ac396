"""Which columns there are."""


def columns(rows):
    """Return the names of the columns."""
    return list(rows[0]) if rows else []


def cell(row, name):
    """Return the text of a value; a missing one is empty."""
    return str(row.get(name, ""))
