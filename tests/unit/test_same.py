r"""Kinds of notation: of each kind forms that are right, and near misses that are wrong."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kinds import cases

from areal.rewards.math import MathVerifier
from areal.rewards.mathematics.same import judge

KINDS = r"""
# tiny exact values
\frac{1}{3^{80}}
  = 3^{-80}   1/3^{80}   \frac{3}{3^{81}}
  / \frac{1}{3^{81}}   0   -\frac{1}{3^{80}}
\frac{1}{20!}
  = 1/20!   \frac{21}{21!}   \frac{1}{2432902008176640000}
  / \frac{1}{21!}   \frac{1}{2432902008176640001}
10^{-20}x
  = \frac{x}{10^{20}}   x \cdot 10^{-20}
  / 2\cdot 10^{-20}x   0   10^{-21}x
\sqrt{2}\cdot 10^{-30}
  = \frac{\sqrt2}{10^{30}}
  / \sqrt{3}\cdot 10^{-30}   0
e^{-200}
  = \frac{1}{e^{200}}   exp(-200)
  / e^{-201}   0
\left(\frac{1}{3^{80}}, 2\right)
  = (3^{-80}, 2)
  / (3^{-81}, 2)   (0, 2)
# large exact values
\frac{3^{1001}+1}{2\cdot 3^{1002}}
  = \frac{1}{6}+\frac{1}{2\cdot 3^{1002}}
  / \frac{5}{2\cdot 3^{1002}}   \frac16   \frac{3^{1001}+2}{2\cdot 3^{1002}}
2^{200}
  = 1606938044258990275541962092341162602522202993782792835301376
  / 2^{200}+1   2^{201}   1606938044258990275541962092341162602522202993782792835301377
20!
  = 2432902008176640000   2,432,902,008,176,640,000   20 \cdot 19!
  / 2432902008176640001   19!
# decimals
0.00000034
  = 3.4e-7   3.4 \times 10^{-7}   0.000000340   \frac{34}{10^8}
  / 0.00000012   0.00000035   0
3.14
  = 3.14   3.1416   \pi   3.140
  / 3.15   3.1   3.146   3
0.1234567
  = 0.1234567
  / 0.1234568   0.123456
0.5
  = 1/2   .5   0.50   \frac12
  / 0.49   0.51   0.4   5
1/3
  = 0.333333   0.3333333333   0.\overline{3}
  / 0.33   0.333334   0.3   0.333332
0.3
  = 0.30000000000000004   3/10
  / 0.30000001   0.2999
8
  = 8.0   8.00   8.
  / 7.9999999   8.0000001   8.1
-2.50
  = -2.5   -5/2   −2.5
  / 2.5   -2.51   -2.4
# scientific notation
4.5e33
  = 4.5 \times 10^{33}   4.5\cdot10^{33}   4.5*10**33   4.5 × 10³³   45e32   4.5E+33   4.5 x 10^33
  / 4.5e32   4.6 \times 10^{33}   4.5   -4.5e33   4.5e-33
1e3
  = 1000   1,000   10^3   10^{3}   1 \times 10^{3}
  / 100   1e4   3   1e-3
1.5e-8
  = 1.5 \times 10^{-8}   0.000000015   15 \times 10^{-9}   1.5 \times 10^{-8} \mathrm{~m}
  / 1.5e-9   1.6e-8   0
602000
  = 6.02e5   6.02 \times 10^5
  / 6.03e5   6.02e6
7.26e6
  = 7.26 \times 10^6 \text{ m/s}   7.259 \times 10^{6}   7260000
  / 7.27e6   7.26e5
3e
  = 3\mathrm{e}   3 \cdot e
  / 3   3e1
# full stops and Markdown
42
  = 42.   **42**   `42`   $42$   **42.**   $$42$$   \(42\)   \[ 42 \]   *42*   \text{42}   $42$.
  / 43.   **4**2   4.2   `24`
3.5
  = 3.5.   **3.5**   $3.5$.
  / 35   3.   5
x+1
  = $x+1$.   **x+1**   `x + 1`
  / x-1   **x**
# plain functions and constants
\dfrac{\pi}{4}
  = pi/4   π/4   \frac14\pi   0.25pi
  / pi/3   4/pi   pi   0.785
e^{12}-5
  = -5 + exp(12)   exp(12)-5   e**12 - 5
  / exp(12)+5   e^{12}   exp(11)-5
\ln 2
  = ln(2)   log(2)   \ln(2)   math.log(2)
  / ln(3)   2   ln(1/2)
x^2
  = x**2   x*x   x \cdot x   x²
  / x*2   x^3   2x
\sqrt{3}
  = sqrt3   sqrt(3)   √3   3^{1/2}   np.sqrt(3)
  / 3   sqrt(2)   √(33)
2\sqrt{6}
  = 2sqrt(6)   2√6   \sqrt{24}   2*sqrt(6)
  / \sqrt{26}   \sqrt{12}
\frac{1}{\sqrt n}
  = \sqrt{1/n}   n^{-1/2}   1/sqrt(n)
  / \sqrt{n}   \frac1n
\arcsin{1.3 \sin{\theta}}
  = \arcsin(1.3\sin\theta)   \sin^{-1}(1.3 \sin(\theta))
  / \arcsin(\sin\theta)   \arccos(1.3\sin\theta)
np.arcsin(10/13)
  = \arcsin\frac{10}{13}   asin(10/13)
  / \arcsin\frac{9}{13}   \arccos\frac{10}{13}
I_0e^{-\frac{t}{R C}}
  = I_0 e^{-t/RC}   I_0 exp(-t/(R*C))
  / I_0e^{t/RC}   I_0e^{-t/R}
\frac{1}{2a}(\exp{a*t} - \exp{-a*t})
  = \frac{\sinh(at)}{a}   \frac{e^{at}-e^{-at}}{2a}
  / \frac{\cosh(at)}{a}
\log_2 8
  = log2(8)   3   \log_{2}(8)   \frac{\ln 8}{\ln 2}
  / 2   4   \log_3 8
\frac12
  = {1 \over 2}   1÷2   0.5   \dfrac{1}{2}
  / \frac21   {2 \over 1}   0.05
# thousands
4000
  = 4\,000   4 000   4\ 000   4{,}000   4,000   4,\!000
  / 4,00   4 00   400   40\,000
1234567
  = 1,234,567   1 234 567   1\,234\,567
  / 1,234,56   123 4567   1,234,568
1,234
  = 1234   1\,234   1234.0
  / 234   1.234   1,235
(1,234)
  = (1, 234)
  / 1234
# mixed numbers
5/2
  = 2 1/2   2\frac12   2\frac{1}{2}   2½   2\ \frac{1}{2}
  / 2 1/3   21/2   3 1/2   -2 1/2
3
  = 3   6/2
  / 3 1/4   2 1/4
10
  = 10
  / 4 1/3
-3\frac{1}{4}
  = -3.25   -13/4   -3 1/4
  / -2.75   -3/4
# units
45
  = 45°   45\degree   45^\circ   45 degrees   45^{\circ}
  / 46°   4.5°   \frac{\pi}{4}
18
  = 18 dollars   $18   \$18   18 cents   18 kg   18\text{ dollars}   18 apples   USD 18
  / 19 dollars   $1.8   18x   18 million
120
  = 120 km/h   120\text{ km/h}   120 km per hour   120 \mathrm{~km} / \mathrm{h}
  / 12 km/h   120 - 1
25\text{ cm}^2
  = 25   25 cm^2   25 square centimeters   25\,\mathrm{cm}^{2}
  / 25 m^2   25 cm   24 cm^2
5 km
  = 5   5 kilometers   5\text{ km}
  / 5 m   5 miles   50 km
45^\circ
  = 45   45 degrees
  / 45 rad   \frac{\pi}{4}
\frac{37}{4} m
  = \frac{37m}{4}   9.25m
  / \frac{37}{4}   9m
2000000
  = 2 million   2 million dollars   2 million
  / 2 billion   2
1.50
  = \$1.50/kg   1.50 €   €1.50   \$1.50 per pound
  / \$1.05/kg   \$15.0
72
  = 72 \Omega   72 ohms   72 ¢
  / 7.2 \Omega
7/4
  = 1 3/4 cups   1.75 cups   7/4 cups
  / 1 1/4 cups   1 4/3 cups
# percent
50\%
  = 50%   50   0.5   1/2   50 percent
  / 5%   500   0.05   50.5
12.5
  = 12.5%   12.5\%
  / 1.25%   125%
0.07
  = 7%   7\%
  / 0.7%   70%
# choices
B
  = (B)   B.   \text{(B)}   B. foo   (B) 7   \textbf{(B)}\ 7   Option B   B) foo
  / A   (C) 7   B or C   AB   (B), (C)   A. B
(B) 7
  = B   (B)   7   B. 7
  / (A) 7   (B) 8   8   A
# lists, sets, tuples
3, -2
  = -2, 3   \{3,-2\}   3 and -2   x = 3 or x = -2   3; -2
  / 3   -2   3, 2   3, -2, 1
\pm 2
  = 2, -2   -2 and 2   x=\pm2
  / 2   -2   2, 3
3\pm\sqrt5
  = 3+\sqrt5, 3-\sqrt5
  / 3+\sqrt5
(3,2)
  = (3, 2)   \left(3,2\right)   3,2   (p,q)=(3,2)   x=3,y=2
  / (2,3)   (3,2,1)   (3)   2,3
\emptyset
  = \{\}   ∅   \varnothing
  / \{0\}   0
\begin{pmatrix}1\\2\end{pmatrix}
  = \begin{bmatrix}1\\2\end{bmatrix}   \begin{pmatrix} 1 \\ 4/2 \end{pmatrix}
  / \begin{pmatrix}2\\1\end{pmatrix}   \begin{pmatrix}1&2\end{pmatrix}
# intervals
(-\infty,3)
  = x<3   x \in (-\infty, 3)   (-inf, 3)   (-∞,3)   3 > x
  / (-\infty,3]   x>3   x\le 3   (3,inf)
[1,2)
  = 1 \le x < 2   \left[1,2\right)
  / [1,2]   (1,2)   (1,2]   1,2
(-\infty,0)\cup(1,\infty)
  = (1,\infty)\cup(-\infty,0)
  / (-\infty,0]\cup(1,\infty)   (-\infty,0)
(-\infty,-1)\cup(1,\infty)
  = x<-1 or x>1   (1,\infty)\cup(-\infty,-1)
  / x<-1 or x<1   x\le-1 or x>1   (-1,1)
# equations
5
  = x=5   x = 10/2 = 5   f(2) = 5   Area = 5
  / x=6   x = 5 + 1
x=5
  = 5   x=5.0   5=x
  / 6   x=-5
4x+2y-6=0
  = y=-2x+3   2x+y=3   y = 3 - 2x
  / y=2x+3   4x+2y+6=0   2x+y=6
2x-5y+7=0
  = 5y=2x+7   4x-10y=-14
  / 2x+9y+7=0   2x-5y-7=0
y'+ry-rx=0
  = y^{\prime} = rx - ry   y' + r(y-x) = 0
  / y'+ry+rx=0   y+ry-rx=0
# bases
1011_2
  = 1011_{2}   1011
  / 1011_3   1010_2   1101
# ratios and times
3:4
  = 6:8   3 : 4   \frac34   3 to 4
  / 4:3   3:5
3:45 PM
  = 3:45 p.m.   3:45\text{ PM}   3:45 pm
  / 3:54 PM
# complex numbers
1+\sqrt{3} i
  = 1+i\sqrt3   sqrt(3)i + 1
  / 1-i\sqrt3   2   1+\sqrt{3}
# dates and words
July 4, 1776
  = 4 July 1776   july 4, 1776
Yes
  = yes   \text{Yes}   **Yes.**   YES
"""
"""Of each kind, references, each followed by forms that are equal (=) and by near misses (/)."""


CASES = list(cases(KINDS))


@pytest.fixture(scope="module")
def verifier() -> Iterator[MathVerifier]:
    made = MathVerifier(workers=1)
    yield made
    made.close()


@pytest.mark.parametrize(("kind", "target", "answer", "right"), CASES)
def test_kind(verifier: MathVerifier, kind: str, target: str, answer: str, right: bool):
    verdict = judge(answer, target)
    if right:
        assert verdict is True
    elif verdict is None:  # math-verify decides
        assert not verifier.equivalent(answer, target)
    else:
        assert verdict is False


def test_a_reference_in_any_of_these_forms_is_itself():
    for target in {target for _, target, _, _ in CASES}:
        assert judge(target, target) is True


@pytest.mark.parametrize(
    "answer",
    [
        "7^{7^{7^{7^7}}}",
        r"\ln\ln\ln 7^{7^{7^{7^7}}}",
        "10^{10^{10}}",
        r"\frac{1}{10^{10^{10}}}",
        "9" * 1999,
        "(" * 900 + "1" + ")" * 900,
        "\\sqrt{" * 300 + "2" + "}" * 300,
        "1" + "!" * 900,
        "2" + "^2" * 600,
        "1" + "+1" * 900,
        "\\frac" * 400,
        " ~" * 900,
        r"\,\;" * 400,
        "x_1" * 500,
        r"\pm" * 500,
        r"\pmx",
        "a(b)" * 400,
        "1e99999",
        "sin" * 600,
        r"\begin{pmatrix}" * 100,
        "|" * 1000,
    ],
)
def test_hostile_answers_are_never_right(answer: str):
    """None of them is computed here for long: each has its bound, whatever it nests or repeats."""
    assert not judge(answer, "3")
    assert not judge(answer, "x^2+1")


PIECES = [*r"{}()12xe^_+-/,!|=<%$.°:& ", "\\frac", "\\sqrt", "\\sin", "\\pm", "\\text{", "and", "\\{", "\\}"]
WHOLE = st.integers(-(10**30), 10**30)


def grouped(number: int, mark: str) -> str:
    return f"{number:,}".replace(",", mark)


@given(
    WHOLE,
    st.sampled_from([",", "{,}", r"\,", r"\ ", " ", "\u202f"]),
    st.sampled_from(["{}", "{}.", "**{}**", "${}$", "{} apples", r"\text{{{}}}"]),
)
def test_a_whole_number_in_any_notation_is_itself_and_not_its_neighbor(number: int, mark: str, around: str):
    written = around.format(grouped(number, mark))
    assert judge(written, str(number)) is True
    assert judge(written, str(number + 1)) is False


@given(st.integers(-(10**6), 10**6), st.integers(1, 10**6))
def test_a_fraction_in_any_notation_is_itself_and_not_its_neighbor(above: int, below: int):
    sign, size = "-" if above < 0 else "", abs(above)
    whole, rest = divmod(size, below)
    forms = [
        f"{sign}{size}/{below}",
        f"{sign}\\frac{{{size}}}{{{below}}}",
        f"\\dfrac{{{sign}{size}}}{{{below}}}",
    ]
    if whole and rest:
        forms += [f"{sign}{whole} {rest}/{below}", f"{sign}{whole}\\frac{{{rest}}}{{{below}}}"]
    near = Fraction(above, below) + Fraction(1, 10**9)
    for form in forms:
        assert judge(form, forms[0]) is True
        assert judge(form, f"{near.numerator}/{near.denominator}") is False


@given(st.integers(1, 9), st.text("0123456789", max_size=12), st.integers(-60, 60))
def test_a_number_in_scientific_notation_is_itself_and_not_its_neighbor(first: int, rest: str, power: int):
    mantissa = f"{first}.{rest}" if rest else str(first)
    forms = [f"{mantissa}e{power}", f"{mantissa} \\times 10^{{{power}}}", f"{mantissa}*10**{power}"]
    value = Fraction(mantissa) * Fraction(10) ** power
    above = f"{first}.{rest}5" if rest else f"{first}.5"
    for form in forms:
        assert judge(form, forms[0]) is True
        assert judge(form, f"\\frac{{{value.numerator}}}{{{value.denominator}}}") is True
        assert judge(form, f"{above}e{power}") is False
        assert judge(form, f"{mantissa}e{power + 1}") is False


@given(st.integers(100, 10**9), st.integers(0, 12), st.integers(1, 10**6))
def test_a_decimal_reference_is_what_rounds_to_it(figures: int, places: int, further: int):
    """Longer answers are rounded to the digits of the reference, from three digits on."""
    value, place = Fraction(figures, 10**places), Fraction(1, 10**places)
    target = f"{figures}e-{places}"
    off = place / 2 * Fraction(further, 10**6 + 1)
    for number, right in ((value + off, True), (value - off, True), (value + place - off, off == place / 2)):
        assert judge(f"\\frac{{{number.numerator}}}{{{number.denominator}}}", target) is right


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=60))
def test_no_text_is_an_error(parts: list[str]):
    text = "".join(parts)
    assert judge(text, "1/2") in (True, False, None)
    assert judge("1/2", text) in (True, False, None)
