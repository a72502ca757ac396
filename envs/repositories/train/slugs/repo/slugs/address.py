"""Whole addresses."""

from slugs.slug import slug


def address(*titles, taken=()):
    """Return the address below some titles; a number tells it from those that are taken."""
    plain = "/" + "/".join(slug(title) for title in titles)
    found, number = plain, 2
    while found in taken:
        found, number = f"{plain}-{number}", number + 1
    return found
