import unittest

from ledger import Ledger, LedgerError


class Transfers(unittest.TestCase):
    def setUp(self):
        self.ledger = Ledger()
        self.ledger.open("ann", 100)
        self.ledger.open("bob")

    def test_transfer(self):
        self.ledger.transfer("ann", "bob", 30)
        self.assertEqual(self.ledger.balances, {"ann": 70, "bob": 30})

    def test_an_account_is_opened_once(self):
        with self.assertRaises(LedgerError):
            self.ledger.open("bob")
