import unittest

from steps import Plan, read_plan


class Order(unittest.TestCase):
    def test_needs_come_first(self):
        plan = read_plan("bake: mix\nmix")
        self.assertEqual(plan.order(), ["mix", "bake"])

    def test_priority(self):
        self.assertEqual(read_plan("a 1\nb 2").order(), ["b", "a"])

    def test_unknown_needs(self):
        plan = Plan()
        plan.add("a", needs=["b"])
        with self.assertRaises(ValueError):
            plan.order()
