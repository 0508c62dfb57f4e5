"""Arithmetic on numbers of at most two digits, with the column work written out as solutions write it.

A model this small cannot compute 37+25 in one token, but it can add digits that it has just written.
"""

from __future__ import annotations

LARGEST = 99
"""Largest value in a solution; the smallest is 1."""


def add(a: int, b: int) -> str:
    """Write an addition, such as `37+25: 7+5=12, 3+2+1=6, so 62`."""
    ones = a % 10 + b % 10
    return f"{a}+{b}: {a % 10}+{b % 10}={ones}, {a // 10}+{b // 10}+{ones // 10}={(a + b) // 10}, so {a + b}"


def subtract(a: int, b: int) -> str:
    """Write a subtraction, such as `80-21: 10-1=9, 8-2-1=5, so 59`."""
    borrowed = int(a % 10 < b % 10)
    ones = a % 10 + 10 * borrowed
    return f"{a}-{b}: {ones}-{b % 10}={ones - b % 10}, {a // 10}-{b // 10}-{borrowed}={(a - b) // 10}, so {a - b}"


def multiply(a: int, factor: int) -> str:
    """Write a multiplication by one digit, such as `28*3: 8*3=24, 2*3=6, 6+2=8, so 84`."""
    ones, tens = a % 10 * factor, a // 10 * factor
    return (
        f"{a}*{factor}: {a % 10}*{factor}={ones}, {a // 10}*{factor}={tens},"
        f" {tens}+{ones // 10}={tens + ones // 10}, so {a * factor}"
    )


def divide(a: int, divisor: int) -> str:
    """Write a division by one digit without remainder, such as `84/3: 8/3=2 rest 2, 24/3=8, so 28`."""
    rest = a // 10 % divisor
    ones = 10 * rest + a % 10
    return (
        f"{a}/{divisor}: {a // 10}/{divisor}={a // 10 // divisor} rest {rest},"
        f" {ones}/{divisor}={ones // divisor}, so {a // divisor}"
    )
