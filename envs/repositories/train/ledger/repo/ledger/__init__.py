"""Accounts with balances in cents."""

from ledger.accounts import Ledger
from ledger.errors import LedgerError

__all__ = ["Ledger", "LedgerError"]
