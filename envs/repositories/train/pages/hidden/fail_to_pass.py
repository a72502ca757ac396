from pager import links, page, page_count


def test_a_page_that_is_not_full_counts():
    assert page_count(10, 3) == 4
    assert page_count(1, 5) == 1
    assert page_count(101, 10) == 11


def test_the_last_items_are_on_a_page():
    assert page(list(range(10)), 4, 3) == [9]
    assert page("abcde", 2, 3) == "de"


def test_links_lead_to_the_last_page():
    assert links(10, 4, 3) == "1 2 3 [4]"
