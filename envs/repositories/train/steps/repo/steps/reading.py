"""Plans as text."""

from steps.plan import Plan


def read_plan(text):
    """Return the plan of lines such as ``bake 2: mix, heat``."""
    plan = Plan()
    for line in text.splitlines():
        head, _, needs = line.partition(":")
        name, *priority = head.split()
        plan.add(name, int(priority[0]) if priority else 0, [n.strip() for n in needs.split(",") if n.strip()])
    return plan
