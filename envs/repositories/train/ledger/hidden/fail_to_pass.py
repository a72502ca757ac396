from ledger import Ledger, LedgerError


def tried(payer, payee, amount):
    ledger = Ledger()
    ledger.open("ann", 100)
    ledger.open("bob")
    said = None
    try:
        ledger.transfer(payer, payee, amount)
    except LedgerError as error:
        said = str(error)
    return said, ledger.balances, ledger.journal


def test_amounts():
    assert tried("ann", "bob", -5) == ("the amount must be above 0", {"ann": 100, "bob": 0}, [])
    assert tried("ann", "bob", 0) == ("the amount must be above 0", {"ann": 100, "bob": 0}, [])


def test_more_than_there_is():
    assert tried("ann", "bob", 101) == ("ann has only 100", {"ann": 100, "bob": 0}, [])
    assert tried("bob", "ann", 1) == ("bob has only 0", {"ann": 100, "bob": 0}, [])


def test_unknown_accounts():
    assert tried("ann", "eve", 5) == ("there is no account eve", {"ann": 100, "bob": 0}, [])
    assert tried("eve", "bob", 5) == ("there is no account eve", {"ann": 100, "bob": 0}, [])
    assert tried("eve", "mal", 5) == ("there is no account eve", {"ann": 100, "bob": 0}, [])


def test_the_amount_comes_first():
    assert tried("eve", "mal", 0) == ("the amount must be above 0", {"ann": 100, "bob": 0}, [])
