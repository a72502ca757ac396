import unittest

from calls import forget, remembered


class Memory(unittest.TestCase):
    def test_a_call_is_made_once(self):
        made = []
        double = remembered()(lambda x: made.append(x) or 2 * x)
        self.assertEqual([double(2), double(2), double(3)], [4, 4, 6])
        self.assertEqual(made, [2, 3])

    def test_forget(self):
        made = []
        note = remembered()(lambda x: made.append(x))
        note(1)
        forget(note)
        note(1)
        self.assertEqual(made, [1, 1])
