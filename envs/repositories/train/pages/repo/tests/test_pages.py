import unittest

from pager import links, page, page_count


class Pages(unittest.TestCase):
    def test_full_pages(self):
        self.assertEqual(page_count(9, 3), 3)
        self.assertEqual(page([1, 2, 3, 4], 2, 2), [3, 4])

    def test_links(self):
        self.assertEqual(links(9, 2, 3), "1 [2] 3")

    def test_no_such_page(self):
        with self.assertRaises(IndexError):
            page([1, 2], 2, 2)
