"""Numbers and tables as text that reads well both rendered and in a terminal."""

import math


def significant(value, digits=3):
    """1234.5 -> 1234, 12.345 -> 12.3, 4 -> 4.00"""
    if value == 0:
        return "0"
    return f"{value:.{max(digits - 1 - math.floor(math.log10(abs(value))), 0)}f}"


def milliseconds(seconds):
    return "–" if seconds is None else f"{significant(1e3 * seconds)} ms"


def ratio(value):
    return "–" if value is None else f"{value:.2f}×" if value < 10 else f"{value:.1f}×"


def rounded(count):
    """1152, 77.7 k, 2.07 M"""
    if count is None:
        return "–"
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= 10 * size or (count >= size and unit != "k"):
            return f"{significant(count / size)} {unit}"
    return f"{count:.0f}"


def table(header, rows):
    """Lines of a table: the first column to the left, numbers to the right, padded."""
    cells = [header, *rows]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]

    def line(row):
        padded = [row[0].ljust(widths[0]), *[cell.rjust(width) for cell, width in zip(row[1:], widths[1:])]]
        return "| " + " | ".join(padded) + " |"

    rule = "|" + "|".join(["-" * (widths[0] + 2), *["-" * (width + 1) + ":" for width in widths[1:]]]) + "|"
    return [line(header), rule, *[line(row) for row in rows]]
