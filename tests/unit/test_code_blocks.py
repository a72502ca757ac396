"""Which part of an answer is its code, however models fence it."""

from __future__ import annotations

import re
import time

import pytest

from areal.envs.code_blocks import code_block, program_of
from areal.envs.code_problems import defines

NESTED = 'def f():\n    """Do.\n\n    ```\n    f()\n    ```\n    """\n    return 1\n'

BLOCKS = {
    "a bare block": ("```\nx\n```", "x\n"),
    "the last of equals": ("```python\na\n```\ny\n```py\nb\n``` \nz", "b\n"),
    "Python before sample output": ("```python\nx\n```\nIt prints:\n```\n3\n```", "x\n"),
    "Python before output by name": ("```python\nx\n```\n```text\n3\n```\n```bash\nls\n```", "x\n"),
    "Python after another language": ("```cpp\nint\n```\n```python\nx\n```", "x\n"),
    "bare before another language": ("```\nx\n```\n```output\n3\n```", "x\n"),
    "Python before an empty block": ("```python\nx\n```\n```python\n```", "x\n"),
    "py": ("```py\nx\n```\n```\n3\n```", "x\n"),
    "python3": ("```python3\nx\n```\n```\n3\n```", "x\n"),
    "Python": ("```Python\nx\n```\n```\n3\n```", "x\n"),
    "a title": ('```python title="a.py"\nx\n```\n```\n3\n```', "x\n"),
    "attributes": ("```{.python .numberLines}\nx\n```\n```\n3\n```", "x\n"),
    "space before the name": ("``` python\nx\n```\n```\n3\n```", "x\n"),
    "a tag before the fence": ("<answer>```python\nx\n```</answer>", "x\n"),
    "two tags before the fence": ("<answer> <code>```python\nx\n```</code></answer>", "x\n"),
    "a thought before the fence": ("<think>hm</think>```python\nx\n```", "x\n"),
    "a draft in a thought": ("<think>\n```python\na\n```\n</think>\n\n```\nb\n```", "b\n"),
    "an open draft in a thought": ("<think>\n```python\na\n</think>\n```python\nb\n```", "b\n"),
    "a thought without its beginning": ("So\n```python\na\n```\n</think><answer>```\nb\n```</answer>", "b\n"),
    "a thought in the code": ("```python\nprint('</think>')\n```", "print('</think>')\n"),
    "only drafts": ("<think>```python\na\n```</think> That is it.", None),
    "words before the fence": ("Here it is: ```python\nx\n```", "x\n"),
    "no end": ("```python\nx\ny", "x\ny"),
    "a tag for an end": ("<answer>\n```python\nx\n</answer>", "x"),
    "no end before the next": ("```python\na\n```python\nb\n```", "b\n"),
    "no end before output": ("```python\nx\n```output\n3\n```", "x\n"),
    "an end behind the code": ("```python\nreturn x```", "return x\n"),
    "an end behind the code, and words": (
        "```python\nreturn x```\nDone. Its output:\n```\n3\n```",
        "return x\n",
    ),
    "words behind the end": ("```python\nx\n```: it's done\nmore", "x\n"),
    "the next one behind the end": ("```python\na\n```</answer> Or: ```python\nb\n```", "b\n"),
    "the next one right behind the end": ("```python\na\n``````python\nb\n```", "b\n"),
    "a longer end": ("```python\na\n````\n```output\n3\n```", "a\n"),
    "a block in words behind the end": ("```python\na\n``` prints ```3```\nb", "a\n"),
    "tildes": ("~~~python\nx\n~~~\n```\n3\n```", "x\n"),
    "four backticks": ("````python\nx = '```'\n```\n````", "x = '```'\n```\n"),
    "fences in a docstring": (f"```python\n{NESTED}```\nDone.", NESTED),
    "fences in a docstring, no end": (f"```python\n{NESTED}", NESTED),
    "fences in a comment": ("```python\n# use ``` here\nx # or ```\n```", "# use ``` here\nx # or ```\n"),
    "indented": ("  ```python\n  if x:\n      y\n  ```", "if x:\n    y\n"),
    "in a list": ("1. Do:\n   ```python\n   x\n   ```\n2. Done", "x\n"),
    "behind the mark of a list": ("- ```python\n  x\n  ```", "x\n"),
    "less indented than its fence": ("    ```python\nif x:\n    y\n    ```", "if x:\n    y\n"),
    "a completion": ("```python\n    return x\n```", "    return x\n"),
    "CRLF": ("So:\r\n```python\r\nx\r\n```\r\nDone", "x\r\n"),
    "inline code": ("`a` and ```b```", None),
    "nothing": ("", None),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_the_block_that_counts(name: str):
    text, found = BLOCKS[name]
    assert code_block(text) == found


SOLUTION = "def f(x):\n    return x\n"


@pytest.mark.parametrize(
    "text",
    [
        "```python\n{}```\nUse it:\n```python\nprint(f(3))\n```",
        "```\n{}```\nOutput:\n```\n3\n```",
        "```\nf(3)\n```\n```\n{}```\n```\n3\n```",
        "```python\nprint(f(3))\n```\n```\n{}```",
        "```python\ndef f(x): return 0\n```\nNo:\n```python\n{}```",
    ],
)
def test_a_block_with_the_wanted_function_counts_before_others(text: str):
    assert code_block(text.format(SOLUTION), defines("f")) == SOLUTION
    assert code_block(text.format(SOLUTION), defines("g")) == code_block(text.format(SOLUTION))


@pytest.mark.parametrize(
    ("source", "defined"),
    [
        ("def f(x): pass", True),
        ("async  def f(x): pass", True),
        ("f = lambda x: x", True),
        ("f: Callable = g", True),
        ("class f: pass", True),
        ("def ff(x): pass", False),
        ("print(f(3))", False),
        ("# def f", False),
        ("x = f = 3", False),
    ],
)
def test_definitions(source: str, defined: bool):
    assert bool(re.search(defines("f"), source, re.MULTILINE)) is defined


@pytest.mark.parametrize(
    ("text", "program"),
    [
        ("x = 1", ("x = 1", False)),
        ("<think>no</think>\nx = 1", ("\nx = 1", False)),
        ("<answer>x = 1</answer>", ("x = 1", False)),
        ("So <code>a</code> or <answer>\nb\n</answer>.", ("\nb\n", False)),
        ("<answer>```\nx\n```</answer>", ("x\n", True)),
        ("a < b and <answer>", ("a < b and <answer>", False)),
    ],
)
def test_programs_without_a_block(text: str, program: tuple[str, bool]):
    assert program_of(text) == program


HOSTILE = [
    *(
        "```\n",
        "```python\nx```\n",
        "```\n'''\n",
        "```\n'''\n```\n",
        "~~~\n```\n",
        "<a>",
        "- ",
        "`" * 999 + "\n",
    ),
    *("</think>", "<answer>", "</answer>\n", "<", "1", "``` x ", " ", "\t```\n", "def f", "</think>```\n"),
]


@pytest.mark.parametrize("piece", HOSTILE)
def test_hostile_text_takes_linear_time(piece: str):
    def seconds(size: int) -> float:
        text = "```\n" + piece * (size // len(piece))
        start = time.process_time()
        program_of(text, defines("f"))
        program_of(text[4:])
        return time.process_time() - start

    # Quadratic time would be 64 times as long; the best of several, since a busy machine is slow at times.
    long, short = (min(seconds(size) for _ in range(4)) for size in (400_000, 50_000))
    assert long < 20 * max(short, 0.01)
