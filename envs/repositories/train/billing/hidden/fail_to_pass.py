from datetime import date

from billing import add_months, days_between, due_dates, overdue


def shown(dates):
    return " ".join(day.isoformat() for day in dates)


def test_the_last_day_of_a_month():
    assert shown(due_dates(date(2024, 1, 31), 4)) == "2024-01-31 2024-02-29 2024-03-31 2024-04-30"
    assert shown(due_dates(date(2023, 1, 29), 3)) == "2023-01-29 2023-02-28 2023-03-29"


def test_the_end_of_a_year():
    assert shown(due_dates(date(2023, 12, 5), 2)) == "2023-12-05 2024-01-05"
    assert add_months(date(2023, 11, 30), 15).isoformat() == "2025-02-28"
    assert add_months(date(2024, 2, 29), 12).isoformat() == "2025-02-28"


def test_days_are_counted():
    assert days_between(date(2024, 1, 31), date(2024, 3, 1)) == 30
    assert days_between(date(2023, 3, 1), date(2024, 3, 1)) == 366
    assert overdue(date(2024, 2, 20), date(2024, 3, 6)) == 1
