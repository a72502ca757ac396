r"""The names that occur in answers: functions, letters, units, and the Unicode of mathematics."""

from __future__ import annotations


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


def same_names(text: str) -> dict[str, str]:
    """Map each name to the first of its group; bars separate groups."""
    groups = [group.split() for group in text.split("|")]
    return {name: group[0] for group in groups for name in group}


FUNCTIONS = same_names(
    "sin|cos|tan|cot|sec|csc|arcsin asin|arccos acos|arctan "
    "atan|arccot|arcsec|arccsc|sinh|cosh|tanh|coth|sech|csch|arcsinh asinh arsinh|arccosh acosh "
    "arcosh|arctanh atanh artanh|ln|log|lg|log2|log10|exp|sqrt|cbrt|abs|floor|ceil"
)
"""The names of functions, with one name for all synonyms."""
GREEK = _names(
    "alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi rho "
    "varrho sigma tau upsilon phi varphi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi "
    "Psi Omega ell hbar aleph nabla odot"
)
ACCENTS = _names("dot ddot hat bar tilde vec widehat widetilde overline boldsymbol mathbf mathcal mathsf")
FONTS = _names("mathrm text mathit operatorname textit textrm")
BEGINNINGS = (
    GREEK
    | ACCENTS
    | FONTS
    | set(FUNCTIONS)
    | _names("frac dfrac tfrac cfrac pi binom dbinom tbinom lfloor lceil lvert i imath")
)
"""The LaTeX commands with which a factor can begin."""

UNITS = same_names(
    "$ dollar dollars usd bucks|c cent cents ¢|€ euro euros eur|£ gbp|% percent|° degree degrees deg|rad "
    "radian radians|km kilometer kilometers kilometre kilometres|m meter meters metre metres|cm "
    "centimeter centimeters centimetre centimetres|mm millimeter millimeters millimetre millimetres|nm "
    "nanometer nanometers|ft foot feet|in inch inches|yd yard yards|mi mile miles|kg kilogram kilograms|g "
    "gram grams gm|mg milligram milligrams|lb lbs pound pounds|oz ounce ounces|s sec secs second "
    "seconds|min mins minute minutes|h hr hrs hour hours|day days|week weeks|month months|yr yrs year "
    "years|l liter liters litre litres|ml milliliter milliliters|gal gallon gallons|km/h kmh kph kmph "
    "km/hr|mph mi/h|m/s|unit units|J joule joules|kJ|N newton newtons|W watt watts|V volt volts|eV|K "
    "kelvin|Hz hertz|Pa pascal pascals|mol mole moles|people person|student students|apple apples|erg "
    "ergs|acre acres|rad/s|ohm ohms|T tesla|A amp amps ampere amperes"
)
"""The names of known units, with one name for all synonyms."""
KNOWN_UNITS = frozenset(UNITS.values()) | _names("° °C °F °K % € £ ¥ ₹ mod")
LETTER_UNITS = _names("m g s h l L N J W V A K C F T d t c")
NO_UNITS = _names(
    "and or to by of mod over plus minus times divided squared cubed factorial half halves third thirds "
    "quarter quarters fourth fifth sixth pi e i inf infinity oo sqrt sin cos tan log ln exp if for where "
    "is are not less more than choose root x y z n k a b r p q none with into"
)
"""Words after a number that are not its unit."""
MULTIPLIERS = {
    "hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9, "trillion": 10**12, "dozen": 12,
}  # fmt: skip

_SIGNS = {
    "−": "-", "–": "-", "—": "-", "‐": "-", "‑": "-", "﹣": "-", "－": "-", "＋": "+", "×": r"\times ",
    "·": r"\cdot ", "⋅": r"\cdot ", "∙": r"\cdot ", "∗": "*", "÷": r"\div ", "／": "/", "⁄": "/", "∕": "/",
    "π": r"\pi ", "𝜋": r"\pi ", "∞": r"\infty ", "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "≈": r"\approx ",
    "±": r"\pm ", "∓": r"\mp ", "°": r"^\circ ", "º": r"^\circ ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ",
    "∅": r"\emptyset ", "ℝ": r"\mathbb{R}", "…": r"\ldots ", "′": "'", "’": "'", "‘": "'",
    "“": '"', "”": '"',
    "\u00a0": r"\,", "\u2009": r"\,", "\u202f": r"\,", "\u2007": r"\,", "\u2008": r"\,", 
    "\u2005": r"\,",
    "\u3000": " ", "\u200b": "", "\ufeff": "", "，": ",", "．": ".", "。": ".", "（": "(", "）": ")",
    "：": ":",
    "％": "%",
    "½": r"\frac12", "⅓": r"\frac13", "⅔": r"\frac23", "¼": r"\frac14", "¾": r"\frac34", 
    "⅕": r"\frac15",
    "⅖": r"\frac25", "⅗": r"\frac35", "⅘": r"\frac45", "⅙": r"\frac16", "⅚": r"\frac56", "⅛": r"\frac18",
    "⅜": r"\frac38", "⅝": r"\frac58", "⅞": r"\frac78", "ℏ": r"\hbar ", "µ": r"\mu ", 
    "⟨": r"\langle ", "⟩": r"\rangle ",
    "ⅈ": "i", "ℯ": "e", "∛": r"\sqrt[3]",
}  # fmt: skip
_LETTERS = "αβγδεζηθικλμνξρστυφχψωΓΔΘΛΞΠΣΥΦΨΩϕϵ"
_LETTER_NAMES = (
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi rho sigma tau upsilon phi "
    "chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega phi epsilon"
)
UNICODE = str.maketrans(
    _SIGNS | {letter: f"\\{name} " for letter, name in zip(_LETTERS, _LETTER_NAMES.split(), strict=True)}
)
"""The replacement of each character that is not ASCII."""
