from pager import links, page, page_count


def test_full_pages():
    assert page_count(9, 3) == 3
    assert page_count(0, 4) == 1
    assert page([1, 2, 3, 4], 2, 2) == [3, 4]


def test_an_empty_list_has_an_empty_page():
    assert page([], 1, 5) == []
    assert links(0, 1, 5) == "[1]"


def test_no_such_page():
    found = []
    for number in (0, 3):
        try:
            page([1, 2, 3, 4], number, 2)
        except IndexError as error:
            found.append(str(error))
    assert found == ["there is no page 0", "there is no page 3"]
