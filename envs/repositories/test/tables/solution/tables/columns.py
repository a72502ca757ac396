"""Which columns there are."""


def columns(rows):
    """Return the names of all columns, in the order in which they first appear."""
    return list(dict.fromkeys(name for row in rows for name in row))


def cell(row, name):
    """Return the text of a value; a missing one is empty."""
    return str(row.get(name, ""))
