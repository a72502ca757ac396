"""Runs the visible tests of a repository and prints the failures; it runs inside the sandbox.

The text of this file is the source of a job (repo.py). It supports unittest's classes, and functions
``test_...()`` as in pytest. The model reads its output, which decides nothing.
"""

import importlib.util
import os
import re
import sys
import traceback
import unittest
from types import ModuleType


def load(path: str) -> ModuleType:
    """Return a test file as a module."""
    name = re.sub(r"\W", "_", path.removesuffix(".py"))
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def suite_of(module: ModuleType) -> unittest.TestSuite:
    """Return the tests of a module."""
    suite = unittest.TestLoader().loadTestsFromModule(module)
    for name, value in vars(module).items():
        if name.startswith("test") and callable(value) and not isinstance(value, type):
            suite.addTest(unittest.FunctionTestCase(value))
    return suite


def title(test: unittest.TestCase) -> str:
    """Return the name of a test."""
    if isinstance(test, unittest.FunctionTestCase):
        return str(test.id()).rpartition(".")[2]
    return ".".join(test.id().split(".")[-2:])


def files_of(wanted: str) -> list[str]:
    """Return the selected test files."""
    if wanted:
        return [wanted]
    return sorted(
        os.path.relpath(os.path.join(folder, name), ".")
        for folder, _, names in os.walk(".")
        for name in names
        if name.startswith("test_") and name.endswith(".py")
    )


def main(wanted: str) -> None:
    """Run tests and print the failures."""
    passed, failed = 0, 0
    for path in files_of(wanted):
        try:
            suite = suite_of(load(path))
        except Exception:  # noqa: BLE001 (a repository may raise anything)
            failed += 1
            print(f"FAILED {path}: it cannot be imported")
            print(traceback.format_exc(limit=-3).rstrip())
            continue
        result = unittest.TestResult()
        suite.run(result)
        wrong = [*result.failures, *result.errors]
        for test, text in wrong:
            print(f"FAILED {path} {title(test) if isinstance(test, unittest.TestCase) else test}")
            print(text.rstrip())
        failed += len(wrong)
        passed += max(0, result.testsRun - len(wrong))
    print(f"{passed} passed, {failed} failed")


main(globals().get("WANTED", ""))
