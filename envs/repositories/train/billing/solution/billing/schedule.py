"""The dates of a subscription."""

from billing.dates import add_months, days_between


def due_dates(start, count):
    """Return the dates of so many monthly bills; the first one is due at the start."""
    return [start, *(add_months(start, months) for months in range(1, count))]


def overdue(due, today, grace=14):
    """Return by how many days a bill is late, beyond the days of grace; 0 if it is not."""
    return max(0, days_between(due, today) - grace)
