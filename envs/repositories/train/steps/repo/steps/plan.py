"""The plan."""


class Plan:
    """Steps by their names."""

    def __init__(self):
        self.steps = {}

    def add(self, name, priority=0, needs=()):
        """Add a step."""
        if name in self.steps:
            raise ValueError(f"the step {name} is there twice")
        self.steps[name] = (priority, tuple(needs))

    def order(self):
        """Return the names in the order in which the steps can be made."""
        for name, (_, needs) in self.steps.items():
            for need in needs:
                if need not in self.steps:
                    raise ValueError(f"{name} needs {need}, which is no step")
        done = []
        while len(done) < len(self.steps):
            ready = [
                (str(priority), name)
                for name, (priority, needs) in self.steps.items()
                if name not in done and all(need in done for need in needs)
            ]
            if not ready:
                break
            done.append(sorted(ready, reverse=True)[0][1])
        return done
