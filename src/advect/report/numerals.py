"""How numbers are written for people: as many digits as carry meaning, a true minus sign, no "nan".

A value with an error is rounded to two digits of the error; a value alone to three significant digits.
"""

import math

MINUS = "\N{MINUS SIGN}"
NOTHING = "\N{EN DASH}"


def number(value: float | None, digits: int = 3) -> str:
    """Write ``value`` with ``digits`` significant digits; None is a dash, whole numbers below 1e15 keep all theirs.

    >>> number(0.123456), number(1797), number(1.5e-9), number(None)
    ('0.123', '1797', '1.5e-09', '–')
    """
    if value is None:
        return NOTHING
    if not math.isfinite(value):
        return "not a number" if math.isnan(value) else ("infinite" if value > 0 else f"{MINUS}infinite")
    if value == int(value) and abs(value) < 1e15 and (isinstance(value, int) or abs(value) < 1e6):
        return str(int(value)).replace("-", MINUS)
    magnitude = math.floor(math.log10(abs(value)))
    if magnitude < -4 or magnitude >= max(digits, 6):
        text = f"{value:.{digits}g}"
    else:
        text = f"{value:.{max(digits - 1 - magnitude, 0)}f}"
    head, _, exponent = text.partition("e")
    return head.replace("-", MINUS) + (f"e{exponent}" if exponent else "")


def plus_minus(value: float | None, error: float | None, unit: str = "") -> str:
    """Write ``value ± error unit``, both to the second digit of the error.

    >>> plus_minus(0.12349, 0.00678), plus_minus(-3.2, None, "nats")
    ('0.1235 ± 0.0068', '−3.20 nats')
    """
    tail = f" {unit}" if unit else ""
    known = value is not None and math.isfinite(value)
    if not known or error is None or not math.isfinite(error) or error <= 0:
        return number(value) + (tail if known else "")
    assert value is not None
    places = 1 - math.floor(math.log10(error))
    largest = max(abs(value), error)
    if places > 8 or places < -3 or largest >= 1e6:
        return f"{number(value, 4)} ± {number(error, 2)}{tail}"
    places = max(places, 0)
    return f"{value:.{places}f} ± {error:.{places}f}{tail}".replace("-", MINUS)


def percent(share: float) -> str:
    """Write a share of one as a percentage, never rounding something to nothing or to all.

    >>> percent(0.2231), percent(0.0004), percent(0.0)
    ('22 %', 'under 0.1 %', '0 %')
    """
    if share == 0:
        return "0 %"
    if 0 < share < 0.001:
        return "under 0.1 %"
    return f"{100 * share:.1f} %" if abs(share) < 0.1 else f"{100 * share:.0f} %".replace("-", MINUS)


def grouped(count: int) -> str:
    """Write a count with thin spaces between thousands.

    >>> grouped(20640).replace("\N{NARROW NO-BREAK SPACE}", "_")
    '20_640'
    """
    return f"{count:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def listed(words: list[str], most: int = 4) -> str:
    """Join words as a sentence does; beyond ``most`` the rest is counted.

    >>> listed(["a", "b", "c"]), listed(["a", "b", "c"], 2)
    ('a, b and c', 'a, b and 1 more')
    """
    if len(words) > most:
        words = [*words[:most], f"{len(words) - most} more"]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
