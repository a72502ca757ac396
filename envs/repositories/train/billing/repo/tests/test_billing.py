import unittest
from datetime import date

from billing import due_dates, overdue


class Billing(unittest.TestCase):
    def test_due_dates(self):
        self.assertEqual(due_dates(date(2024, 3, 5), 2), [date(2024, 3, 5), date(2024, 4, 5)])

    def test_overdue(self):
        self.assertEqual(overdue(date(2024, 3, 1), date(2024, 3, 20)), 5)
        self.assertEqual(overdue(date(2024, 3, 1), date(2024, 3, 10)), 0)
