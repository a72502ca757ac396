from slugs import address, slug


def test_words():
    assert slug("  What's new, in 2024? ") == "what-s-new-in-2024"
    assert slug("A--B__c") == "a-b-c"


def test_nothing():
    assert slug("") == "untitled"
    assert slug("!? - …") == "untitled"


def test_addresses_that_are_taken():
    assert address("Blog", "New", taken={"/blog/new", "/blog/new-2"}) == "/blog/new-3"
    assert address("Blog", "!") == "/blog/untitled"
