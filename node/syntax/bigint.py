"""Integers of any size to and from decimal digits.

Python's str() and int() refuse more than a few thousand digits, for a limit that belongs to the whole process
(sys.set_int_max_str_digits) and is not ours to change; theirs would also take a minute for the largest integer of a
BEAM (1,262,000 digits). Both ways halve the number and use the fast multiplications of decimal and of int.
"""

from __future__ import annotations

import decimal
from decimal import Context, Decimal

__all__ = ["from_digits", "to_digits"]

# Below these sizes the built-in conversion is used; sys.set_int_max_str_digits can't forbid 640 digits.
_DIGITS = 600
_BITS = 2000

# Exact, or an exception: no number is ever rounded.
_EXACT = Context(prec=decimal.MAX_PREC, Emax=decimal.MAX_EMAX, Emin=decimal.MIN_EMIN, traps=[decimal.Inexact])


def to_digits(number: int) -> str:
    """The decimal digits of an integer, with a minus sign where it has one."""
    if number.bit_length() <= _BITS:
        return int.__repr__(number)
    powers: dict[int, Decimal] = {}

    def power(bits: int) -> Decimal:
        if bits not in powers:
            half = bits // 2
            powers[bits] = Decimal(2**bits) if bits <= _BITS else _EXACT.multiply(power(half), power(bits - half))
        return powers[bits]

    def convert(part: int, bits: int) -> Decimal:
        if bits <= _BITS:
            return Decimal(part)
        low = bits // 2
        high = convert(part >> low, bits - low)
        return _EXACT.fma(high, power(low), convert(part & ((1 << low) - 1), low))

    return "-" * (number < 0) + format(convert(abs(number), number.bit_length()), "f")


def from_digits(digits: str, base: int = 10) -> int:
    """The integer of these digits, without sign or underscores. Raises ValueError for a digit the base lacks."""
    if len(digits) <= _DIGITS or base in (2, 4, 8, 16, 32):
        return int(digits, base)
    powers: dict[int, int] = {}

    def power(count: int) -> int:
        if count not in powers:
            powers[count] = base**count if count <= _DIGITS else power(count // 2) * power(count - count // 2)
        return powers[count]

    def convert(start: int, end: int) -> int:
        if end - start <= _DIGITS:
            return int(digits[start:end], base)
        low = (end - start) // 2
        return convert(start, end - low) * power(low) + convert(end - low, end)

    return convert(0, len(digits))
