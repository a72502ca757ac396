from datetime import date

from billing import add_months, days_between, due_dates, overdue


def test_days_within_a_month():
    assert [day.isoformat() for day in due_dates(date(2024, 3, 5), 2)] == ["2024-03-05", "2024-04-05"]
    assert [day.isoformat() for day in due_dates(date(2024, 3, 5), 1)] == ["2024-03-05"]
    assert add_months(date(2024, 1, 2), 0).isoformat() == "2024-01-02"


def test_overdue():
    assert overdue(date(2024, 3, 1), date(2024, 3, 20)) == 5
    assert overdue(date(2024, 3, 1), date(2024, 3, 20), grace=30) == 0
    assert days_between(date(2024, 3, 9), date(2024, 3, 2)) == -7
