import unittest

from lazy import Lazy, Registry


class Values(unittest.TestCase):
    def test_once(self):
        calls = []
        value = Lazy(lambda: calls.append(1) or "loaded")
        self.assertEqual([value.get(), value.get(), calls], ["loaded", "loaded", [1]])

    def test_names(self):
        registry = Registry(str.upper)
        self.assertEqual(registry.get("a"), "A")
        self.assertEqual(registry.names(), ["a"])
