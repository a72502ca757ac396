import unittest

from settings import load, parse


class Settings(unittest.TestCase):
    def test_parse(self):
        self.assertEqual(parse("a = 1 # one\n\nb=2"), {"a": "1", "b": "2"})

    def test_defaults(self):
        self.assertEqual(load("a = 1", {"a": "0", "c": "3"}), {"a": "1", "c": "3"})
