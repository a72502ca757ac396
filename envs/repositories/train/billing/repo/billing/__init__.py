"""When bills are due."""

from billing.dates import add_months, days_between
from billing.schedule import due_dates, overdue

__all__ = ["add_months", "days_between", "due_dates", "overdue"]
