r"""Customs of writing that differ between countries, books and programs."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kinds import cases

from areal.rewards.answers import final_answer, read_reference
from areal.rewards.math import MathVerifier
from areal.rewards.mathematics.decimals import repeating
from areal.rewards.mathematics.same import judge

KINDS = r"""
# equations that are not solved
10
  = x=10   10 = x   m+n=10   AB = 10   |z| = 10   f(3)=10   2\cdot 5 = 10
  / 2x=10   x^2=10   -x = 10   x/2=10   x+1=10   10=2x
y=2x+3
  = 2x-y=-3   y-3=2x   y = 3+2x
  / 3   2x-y   y=3x+2
2x+z=1
  = z = 1-2x   4x+2z=2
  / 1   2x+z   2x+z=2
# equations that are multiples
x^2+y^2=25
  = x^2+y^2-25=0   2x^2+2y^2=50   25=x^2+y^2
  / x^2+y^2=5   x^2-y^2=25   2x^2+2y^2=25   25
\frac{x^2}{4}+\frac{y^2}{3}=1
  = 3x^2+4y^2=12   x^2/16+y^2/12=1/4
  / \frac{x^2}{3}+\frac{y^2}{4}=1   3x^2+4y^2=1   1
# values by name
x=2, y=3
  = (2,3)   y=3, x=2   x=2 and y=3   \begin{cases}x=2\\y=3\end{cases}   (x,y)=(2,3)
  / (3,2)   x=3, y=2   x=2   \begin{cases}x=3\\y=2\end{cases}
(3,-2)
  = y=-2, x=3   x=3,\ y=-2   3,-2
  / x=-2, y=3   y=3, x=-2   -2,3
x_1=1, x_2=2
  = 1, 2   (1,2)   \{2,1\}
  / (2,1)   1   1, 3
x = -3, x = 15
  = x_1 = 15, x_2 = -3   x_1=-3, x_2=15   15, -3
  / x_1 = 15, x_2 = 3   x_1 = -3   y = -3, x = 15
3i+5
  = 5+3\mathrm{i}   5 + 3i   z = 5+3\mathrm{i}
  / 5+3   3+5\mathrm{i}   5-3\mathrm{i}
# quantities in several units
2 \text{ hours } 30 \text{ minutes}
  = 2 hours 30 minutes   2 hours and 30 minutes   2 h 30 min   2\text{ hr }30\text{ min}
  / 2 hours 40 minutes   30 hours 2 minutes   2   30
\text{January 1, 2000}
  = Jan 1, 2000   1 January 2000   January 1st, 2000   Jan. 1, 2000
  / Jun 1, 2000   January 2, 2000   2000
# times
12:00
  = 12:00   12:00 PM   \text{12:00}
  / 1:00   11:00   12:01   12
3:30 \text{ PM}
  = 3:30 p.m.   3:30\,\text{PM}   3:30   3:30PM
  / 3:30 AM   3:03 PM   4:30   7:60
2024-05-01
  = 2024-05-01   May 1, 2024   1 May 2024
  / 2018   2024-05-02   2024-01-05   2024
5'2"
  = 5'2"   5 feet 2 inches   5 ft 2 in   5 ft. 2 in.
  / 52   5'3"   2'5"   5.2
# repeating decimals
1/3
  = 0.\bar{3}   0.\dot{3}   0.333...   0.3333\ldots   0.(3)   0.\overline{33}   0.3\overline{3}
  / 0.\bar{4}   0.\dot{3}4   0.3\ldots   0.(4)   0.34\ldots
\frac{1}{6}
  = 0.1\overline{6}   0.1\bar{6}   0.1666...   0.1\dot{6}   0.1\overline 6
  / 0.\overline{16}   0.16...   0.\dot{1}\dot{6}   0.1(7)
\frac{41}{333}
  = 0.\overline{123}   0.\dot{1}2\dot{3}   0.123123123\ldots   0.(123)
  / 0.123   0.12\dot{3}   0.\overline{12}   0.123\ldots
# decimal commas and lakhs
1.5
  = 1{,}5   1,5   3/2
  / 1, 5   (1,5)   1,6   15   1,50,000
1000.99
  = 1000,99   1,000.99   1000{,}99
  / 1000,98   100,099   100099
1234567
  = 12,34,567   1,234,567   12,34,567 dollars
  / 12,34,568   1,23,4567   123,4567
₹1,00,000
  = 100000   1,00,000   100,000   Rs. 1,00,000
  / 10000   1,00,00   1000000
1000
  = 1{,}000   1,000   1,\!000
  / 1   1,00   1.000
# no number
10
  / 4 6   1 0   5 5   10 0   \ne 10   >10   \ge 10   != 10
\text{0x1F}
  = 0x1f   31   0x1F
  / 0x1E   0x1   1
-5
  = minus 5   negative 5   \text{minus 5}
  / 5   minus 6   negative
# intervals by other customs
[0,1)
  = [0,1[   x \ge 0 \text{ and } x < 1   0 \le x < 1
  / ]0,1[   ]0,1]   x \ge 0 \text{ and } x \le 1   0,1
(-\infty,-1)\cup(1,\infty)
  = (-oo, -1) U (1, oo)   ]-\infty,-1[\cup]1,\infty[   x<-1 or x>1
  / (-oo, -1] U (1, oo)   x>-1 or x<1   x<-1   ]-\infty,-1]\cup]1,\infty[
-1<x<1
  = (-1,1)   x>-1 and x<1   1>x>-1   x<1\text{ and }x>-1
  / -1,1   \{-1,1\}   x>-1   [-1,1]
f(2)<f(1)<f(4)
  = f(4)>f(1)>f(2)   f(2) < f(1) < f(4)
  / f(1)<f(2)<f(4)   f(4)<f(1)<f(2)   f(2)<f(1)
x \ne 3
  = 3 \ne x   x \neq 3   x != 3
  / x = 3   x \ne 4   3
\mathbb{R}
  = all real numbers   \text{all real numbers}   \Bbb R   \mathbf{R}   (-\infty,\infty)   ℝ
  / (0,\infty)   \mathbb{Z}   \emptyset   0
# matrices and vectors
\begin{pmatrix}1&2\\3&4\end{pmatrix}
  = [[1,2],[3,4]]   Matrix([[1, 2], [3, 4]])   \begin{smallmatrix}1&2\\3&4\end{smallmatrix}
  = \begin{Bmatrix}1&2\\3&4\end{Bmatrix}
  / [[1,2],[3,5]]   [[1,3],[2,4]]   [[1,2,3,4]]   (1,2,3,4)
\begin{pmatrix}1\\-2\\3\end{pmatrix}
  = (1,-2,3)   \langle 1,-2,3\rangle   [1,-2,3]^T   (1,-2,3)^\top   [[1],[-2],[3]]
  / (1,2,3)   (3,-2,1)   [-1,-2,3]^T   \begin{pmatrix}1\\-2\end{pmatrix}
# angles
\cos 15^\circ
  = \sin 75^\circ   \cos(15^\circ)   \frac{\sqrt6+\sqrt2}{4}   \cos 15°
  / \cos 15   \sin 15^\circ   \cos 75^\circ   15
\frac{\sqrt3}{3}
  = \tan 30^\circ   \tan\frac{\pi}{6}   0.57735
  / \tan 30   \tan 60^\circ   0.5773   0.57736
45^\circ
  = 45^o   45^\text{o}   45°
  / 44^o   135^\text{o}   45^\circ + 1
# rounded answers
\frac{3}{56}
  = 0.053571   0.0535714   0.05357143
  / 0.05357   0.053572   0.0536
# remainders and whole numbers that may be any
5 \pmod 7
  = 5   5 \bmod 7   x \equiv 5 \pmod{7}   5 (mod 7)
  / 6   5 \pmod 8   x \equiv 6 \pmod{7}   7
2k\pi
  = 2\pi k, k\in\mathbb{Z}   2k\pi \text{ where } k \in \mathbb{Z}   2k\pi, k is an integer
  = 2k\pi\ (k \in \mathbb{Z})
  / k\pi, k\in\mathbb{Z}   2k\pi, k\in\mathbb{N}   2k, k\in\mathbb{Z}
# lists that go on
1, 2, \ldots, n
  = 1,2,\dots,n   1, 2, ..., n
  / 1, 3, 5, \ldots, 2n-1   n   1, 2
# large numbers in words
2.5 \text{ million}
  = 2500000   2,500,000   2.5 million   2.5\times 10^6
  / 2.5 billion   250000   25
\$1.5\text{ million}
  = \$1,500,000   1500000   1.5 million dollars
  / 1.5\text{ thousand}   1.5\text{ billion}   15
# parts
\frac{5}{36}
  = 5 out of 36   5 \text{ out of } 36   13.8889\%   5:36
  / 6 out of 36   36 out of 5   13.889\%   13.8887\%
# sets by what their members have in common
x>2
  = \{x|x>2\}   \{x \mid x > 2\}   \{x: x>2\}   \{x\in\mathbb{R}|x>2\}
  / \{x|x\ge 2\}   \{x|x<2\}   \{2\}   \{x|x>3\}
\{x|1<x<3\}
  = (1,3)   1<x<3   \left\{x \mid 1 < x < 3\right\}
  / [1,3]   \{1,3\}   \{x|1<x<4\}
x=\frac{-b\pm\sqrt{b^2-4ac}}{2a}
  = \frac{-b\pm\sqrt{b^2-4ac}}{2a}   \frac{-b+\sqrt{b^2-4ac}}{2a}, \frac{-b-\sqrt{b^2-4ac}}{2a}
  / \frac{b\pm\sqrt{b^2-4ac}}{2a}   \frac{-b\pm\sqrt{b^2+4ac}}{2a}   \frac{-b+\sqrt{b^2-4ac}}{2a}
# spelled out
12
  = twelve   Twelve   \text{twelve}
  / twenty   eleven   \text{twelve or thirteen}
\text{forty-two}
  = 42   forty two   Forty-Two
  / 24   forty   two
204_5
  = 204_{\text{five}}   204_\text{five}   204_{5}   204_{(5)}
  / 204_{\text{six}}   205_{\text{five}}   2045
# binomials and floors
10
  = {5 \choose 2}   \binom{5}{2}   \lfloor 10.7 \rfloor
  / {6 \choose 2}   {2 \choose 5}   \lceil 10.7 \rceil
\lfloor x\rfloor
  = floor(x)   \left\lfloor x \right\rfloor   \lfloor{x}\rfloor
  / \lceil x\rceil   x   \lfloor x\rfloor+1
# ratios
3:2
  = 3 \text{ to } 2   3\colon 2   6:4   3/2
  / 2 \text{ to } 3   2\colon 3   32
# units
5.4\text{ m/s}
  = 5.4\,\mathrm{m}\,\mathrm{s}^{-1}   5.4 \frac{\text{m}}{\text{s}}   5.4\ meters per second
  / 5.4 \frac{\text{km}}{\text{h}}   5.4\,\mathrm{m}\,\mathrm{s}^{-2}   5.3\ meters per second
6\ \mathrm{cm^2}
  = 6 cm^2   6\text{ cm}^2   6 cm²   6 square centimeters
  / 6\ \mathrm{m^2}   6 cm^3   7 cm²
# several choices
A, C
  = AC   A and C   (A), (C)   C, A   \text{A and C}
  / A   A, B   ABC   A, C, D
# styles
12
  = \underline{12}   {\color{red}{12}}   \color{red} 12   \textcolor{blue}{12}
  = \Large{12}   \boldsymbol{12}   12\   \text{The answer is } 12
  / \underline{13}   \textcolor{blue}{13}   \color{red} 13   \Large{1}
"""

CASES = list(cases(KINDS))


@pytest.fixture(scope="module")
def verifier() -> Iterator[MathVerifier]:
    made = MathVerifier(workers=1)
    yield made
    made.close()


@pytest.mark.parametrize(("kind", "target", "answer", "right"), CASES)
def test_kind(verifier: MathVerifier, kind: str, target: str, answer: str, right: bool):
    assert verifier.equivalent(answer, target) is right


@given(
    whole=st.integers(0, 999), fixed=st.from_regex(r"[0-9]{0,3}", fullmatch=True), period=st.integers(1, 9998)
)
@settings(max_examples=100, deadline=None)
def test_a_repeating_decimal_is_its_fraction_in_any_notation(whole: int, fixed: str, period: int):
    digits = str(period)
    value = Fraction(
        int(f"{whole}{fixed}{digits}") - int(f"{whole}{fixed}"), (10 ** len(digits) - 1) * 10 ** len(fixed)
    )
    for text in (
        rf"{whole}.{fixed}\overline{{{digits}}}",
        rf"{whole}.{fixed}\bar{{{digits}}}",
        rf"{whole}.{fixed}{digits * 20}\ldots",
    ):
        assert repeating(text, 0) == (value, len(text))
        assert judge(text, f"{value.numerator}/{value.denominator}") is True
        assert judge(text, f"{value.numerator + 1}/{value.denominator}") is False


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"So \boxed{12\ }", "12"),
        (r"\boxed{\text{Answer: }12}", "12"),
        (r"\boxed{\text{The answer is } 12}", "12"),
    ],
)
def test_what_stands_in_a_box_beside_the_answer_is_not_judged(verifier: MathVerifier, text: str, answer: str):
    assert verifier.equivalent(final_answer(text) or "", answer)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Add.\n\n## Final Answer\n\n42", "42"),
        ("Add.\nAnswer:\n42", "42"),
        ("Add.\n**Final answer:**\n$x = 3$", "$x = 3$"),
        ("Think.\n<answer> 42 </answer>", "42"),
        ("Think.\nThe correct answer is B", "B"),
        ("Think.\nThe correct option is (C)", "(C)"),
        ("Add.\nThe solution\n42", None),
        ("Add.\n## Answers of others\n42", None),
        ("Think.\n<answer> 42 </answer> or so\nwell", None),
    ],
)
def test_references_that_say_where_their_answer_is(text: str, answer: str | None):
    found = read_reference(text)
    assert (found and found.answer) == answer
