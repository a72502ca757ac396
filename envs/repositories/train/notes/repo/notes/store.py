"""The notes themselves."""


class Notes:
    """Texts in the order in which they were added."""

    def __init__(self, texts=()):
        self.texts = list(texts)

    def add(self, text):
        """Add a note."""
        if not text.strip():
            raise ValueError("a note has a text")
        self.texts.append(text.strip())

    def newest(self, limit=None):
        """Return the notes, the newest first, at most so many."""
        return self.texts[::-1][:limit]
