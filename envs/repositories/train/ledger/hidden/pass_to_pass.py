from ledger import Ledger, LedgerError


def test_transfers():
    ledger = Ledger()
    ledger.open("ann", 100)
    ledger.open("bob")
    ledger.transfer("ann", "bob", 30)
    ledger.transfer("ann", "bob", 70)
    ledger.transfer("bob", "ann", 1)
    assert ledger.balances == {"ann": 1, "bob": 99}
    assert ledger.journal == [("ann", "bob", 30), ("ann", "bob", 70), ("bob", "ann", 1)]
    assert ledger.total() == 100


def test_accounts_are_opened_once():
    ledger = Ledger()
    ledger.open("ann", 5)
    said = None
    try:
        ledger.open("ann", 7)
    except LedgerError as error:
        said = str(error)
    assert [said, ledger.balances] == ["there is an account ann already", {"ann": 5}]
