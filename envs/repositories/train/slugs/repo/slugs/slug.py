"""One part of an address."""

import re


def slug(title):
    """Return a title in small letters, its words joined by hyphens."""
    words = re.findall("[a-z0-9]+", title.lower())
    return "-".join(words) or "untitled"
