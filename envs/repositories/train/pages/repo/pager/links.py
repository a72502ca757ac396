"""The line of links below a page."""

from pager.pages import page_count


def links(items, number, size):
    """Return the numbers of all pages as text, the current one in brackets."""
    numbers = range(1, page_count(items, size) + 1)
    return " ".join(f"[{n}]" if n == number else str(n) for n in numbers)
