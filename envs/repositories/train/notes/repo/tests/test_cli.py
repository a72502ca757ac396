import unittest

from notes import Notes, main


class CommandLine(unittest.TestCase):
    def test_add_and_list(self):
        said, notes = [], Notes()
        self.assertEqual(main(["add", "buy", "milk"], notes, said.append), 0)
        self.assertEqual(main(["list", "--limit", "1"], notes, said.append), 0)
        self.assertEqual(said, ["1 notes", "buy milk"])

    def test_unknown_options(self):
        said = []
        self.assertEqual(main(["list", "--all"], Notes(), said.append), 2)
        self.assertEqual(said, ["unknown option --all"])
