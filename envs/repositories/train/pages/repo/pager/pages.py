"""Pages of a list; the first one has the number 1."""


def page_count(items, size):
    """Return how many pages so many items take."""
    if size < 1:
        raise ValueError("a page has at least one item")
    return max(1, items // size)


def page(items, number, size):
    """Return the items of a page."""
    if not 1 <= number <= page_count(len(items), size):
        raise IndexError(f"there is no page {number}")
    start = (number - 1) * size
    return items[start : start + size]
