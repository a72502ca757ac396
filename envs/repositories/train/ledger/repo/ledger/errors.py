"""What can go wrong."""


class LedgerError(Exception):
    """A booking that cannot be made."""
