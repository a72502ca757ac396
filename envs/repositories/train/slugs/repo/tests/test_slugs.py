import unittest

from slugs import address, slug


class Slugs(unittest.TestCase):
    def test_words(self):
        self.assertEqual(slug("  What's new, in 2024? "), "what-s-new-in-2024")
        self.assertEqual(slug("!?"), "untitled")

    def test_addresses(self):
        self.assertEqual(address("Blog", "New", taken={"/blog/new"}), "/blog/new-2")
