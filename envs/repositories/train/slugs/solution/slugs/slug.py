"""One part of an address."""

import re
import unicodedata


def slug(title):
    """Return a title in small letters without accents, its words joined by hyphens."""
    parts = unicodedata.normalize("NFKD", title.casefold())
    plain = "".join(part for part in parts if not unicodedata.combining(part))
    words = re.findall(r"[^\W_]+", unicodedata.normalize("NFKC", plain))
    return "-".join(words) or "untitled"
