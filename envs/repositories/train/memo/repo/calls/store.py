"""Where answers are kept."""


class Store:
    """At most so many answers by their keys; None: any number."""

    def __init__(self, most=None):
        self.most = most
        self.answers = {}

    def __contains__(self, key):
        return key in self.answers

    def get(self, key):
        """Return an answer."""
        return self.answers[key]

    def put(self, key, answer):
        """Keep an answer, and forget one if there are too many."""
        self.answers[key] = answer
        if self.most is not None and len(self.answers) > self.most:
            del self.answers[next(iter(self.answers))]
