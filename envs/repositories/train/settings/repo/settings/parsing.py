"""Lines of the form ``name = value``."""


def parse(text):
    """Return names and values; what follows a # is a comment."""
    found = {}
    for number, line in enumerate(text.splitlines(), 1):
        line = line.partition("#")[0].strip()
        if not line:
            continue
        name, equals, value = line.partition("=")
        if not equals:
            raise ValueError(f"line {number} has no =")
        found[name.strip()] = value.strip()
    return found
