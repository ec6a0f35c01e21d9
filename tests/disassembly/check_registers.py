"""The loops of products in tile registers load what they must, and nothing else, with a load between any two products.

Sums cannot leave their registers: they are named where the instructions are written, and only an instruction could store them.

usage: check_registers.py <objdump> <object file of registers.cpp>

Prints what each loop consists of.
"""

import re
import subprocess
import sys

from check_loops import functions, innermost_loops

PRODUCT = re.compile(r"tdpb\w+$")
PRODUCTS = ("tdpbf16ps", "tdpbssd", "tdpbsud", "tdpbusd", "tdpbuud")
LETTERS = dict.fromkeys(PRODUCTS, "p") | {"tileloadd": "l", "tilestored": "s", "tilezero": "z"}
KINDS = ("score", "accumulate", "multiply", "multiply_scaled", "multiply_bytes")
FUNCTION = re.compile(r"::(\w+)_in_registers<.*?, (\d+), (\d+), ")  # registers of rows and of columns


def check_loop(order, rows, columns):
    """What is wrong with a loop's instructions on tile registers: of each k it loads those of either side, and multiplies each by each."""
    products, loads = order.count("p"), order.count("l")
    if products + loads != len(order) or products % (rows * columns) or loads != products // (rows * columns) * (rows + columns):
        yield f"{products} products and {loads} loads: {order}"
    if "pp" in order + order[:1]:
        yield f"no load between two products: {order}"


def check_listing(listing):
    """What is wrong with a listing; prints its loops."""
    wrong, seen = [], set()
    for name, instructions in functions(listing).items():
        if not (match := FUNCTION.search(name)):
            continue
        kind, rows, columns = match.group(1), int(match.group(2)), int(match.group(3))
        seen.add(kind)
        loops = ["".join(LETTERS.get(i.mnemonic, "") for i in loop) for loop in innermost_loops(instructions, PRODUCT)]
        for order in loops:
            print(f"{kind} {rows}x{columns}: {order}")
            wrong += [f"{kind} {rows}x{columns}: {problem}" for problem in check_loop(order, rows, columns)]
        products = sum(bool(PRODUCT.match(i.mnemonic)) for i in instructions)
        if not loops and products != rows * columns:  # those of a single k need none
            wrong.append(f"{kind} {rows}x{columns}: no loop of products")
    return wrong + [f"no function is a {kind}" for kind in KINDS if kind not in seen]


def main():
    objdump, path = sys.argv[1:]
    command = [objdump, "--disassemble", "--demangle", "--no-show-raw-insn", path]
    wrong = check_listing(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
    print("\n".join(wrong), file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
