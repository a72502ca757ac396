"""The ledger itself."""

from ledger.errors import LedgerError


class Ledger:
    """Balances by the names of accounts, and a journal of transfers."""

    def __init__(self):
        self.balances = {}
        self.journal = []

    def open(self, name, balance=0):
        """Open an account."""
        if name in self.balances:
            raise LedgerError(f"there is an account {name} already")
        self.balances[name] = balance

    def transfer(self, payer, payee, amount):
        """Move an amount from one account to another."""
        self.balances[payer] -= amount
        self.balances[payee] += amount
        self.journal.append((payer, payee, amount))

    def total(self):
        """Return the sum of all balances."""
        return sum(self.balances.values())
