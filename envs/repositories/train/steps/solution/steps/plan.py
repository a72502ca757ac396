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
        left = list(self.steps)
        done = []
        while left:
            ready = [name for name in left if all(need in done for need in self.steps[name][1])]
            if not ready:
                raise ValueError(f"a circle: {', '.join(left)}")
            chosen = max(ready, key=lambda name: self.steps[name][0])
            left.remove(chosen)
            done.append(chosen)
        return done
