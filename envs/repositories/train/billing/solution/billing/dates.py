"""Arithmetic on dates."""

from calendar import monthrange
from datetime import date


def add_months(day, months):
    """Return the day so many months later, or the last one of that month."""
    years, month = divmod(day.month - 1 + months, 12)
    year, month = day.year + years, month + 1
    return date(year, month, min(day.day, monthrange(year, month)[1]))


def days_between(first, second):
    """Return how many days the second date is after the first."""
    return (second - first).days
