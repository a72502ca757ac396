import unittest

from tables import columns, render


class Tables(unittest.TestCase):
    def test_plain(self):
        rows = [{"name": "a", "size": 12}, {"name": "long", "size": 3}]
        self.assertEqual(render(rows), "name  size\na     12\nlong  3")

    def test_columns(self):
        self.assertEqual(columns([{"b": 1, "a": 2}]), ["b", "a"])
        self.assertEqual(columns([]), [])
