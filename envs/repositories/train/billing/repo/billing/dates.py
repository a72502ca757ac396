"""Arithmetic on dates."""

from datetime import date


def add_months(day, months):
    """Return the day so many months later."""
    return date(day.year, day.month + months, day.day)


def days_between(first, second):
    """Return how many days the second date is after the first."""
    years, months = second.year - first.year, second.month - first.month
    return 365 * years + 30 * months + second.day - first.day
