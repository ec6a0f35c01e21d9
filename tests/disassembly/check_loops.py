"""The innermost loops of the product tiles have the products that they should have, and keep everything in registers.

usage: check_loops.py <objdump> <object file of tiles.cpp>...

Prints what each loop consists of.
"""

import re
import subprocess
import sys
from dataclasses import dataclass

FUNCTION = re.compile(r"^[0-9a-f]+ <(.*)>:$")
INSTRUCTION = re.compile(r"^\s*([0-9a-f]+):\s+(\S+)\s*(.*?)\s*(?:#.*)?$")
TARGET = re.compile(r"^([0-9a-f]+) <")
ENDS = ("jmp", "ret")  # after which the next instruction does not follow
KINDS = ("score_tile", "value_tile", "multiply_tile", "multiply_scaled_tile")  # what must be functions of their own
TILE = re.compile(r"_tile<.*?, (\d+), (\d+), ")  # of rows and vectors

# What multiplies and adds operands of a type, by its name in the function's: first the pairs.
PRODUCTS = (
    ("Bf16Pair", re.compile(r"vdpbf16ps$")),
    ("Int16Pair", re.compile(r"vp(maddwd|dpwssd)$")),
    ("", re.compile(r"vfmadd\d+ps$")),
)
PRODUCTS_A_SPILL = 48  # a register kept on the stack over a step of prefetching, of 96 products, costs nothing that can be measured
VECTOR = re.compile(r"%[xyz]mm\d+")
MEMORY = re.compile(r"\(%\w+[,)]")


@dataclass(frozen=True)
class Instruction:
    address: int
    mnemonic: str
    operands: str

    def jumps_to(self):
        target = TARGET.match(self.operands)
        return int(target.group(1), 16) if target and self.mnemonic.startswith("j") else None

    def reads_vector(self):
        """From memory, by itself or for another operation."""
        return bool(VECTOR.search(self.operands) and MEMORY.search(self.operands)) and not self.writes_vector()

    def writes_vector(self):
        return bool(VECTOR.search(self.operands)) and self.operands.endswith(")")


def functions(listing):
    """{name: instructions} of a listing in AT&T syntax."""
    found, current = {}, None
    for line in listing.splitlines():
        if header := FUNCTION.match(line):
            current = found.setdefault(header.group(1), [])
        elif (match := INSTRUCTION.match(line)) and current is not None:
            current.append(Instruction(int(match.group(1), 16), match.group(2), match.group(3)))
    return found


def successors(instructions):
    """{address: addresses that may run next} within the function."""
    inside = {i.address for i in instructions}
    following = [i.address for i in instructions[1:]] + [None]
    return {
        i.address: {next for next in (i.jumps_to(), None if i.mnemonic in ENDS else after) if next in inside}
        for i, after in zip(instructions, following)
    }


def reached(starts, edges, without):
    """What can be reached from some addresses on paths that leave one out."""
    found, left = set(), [start for start in starts if start != without]
    while left:
        if (address := left.pop()) not in found:
            found.add(address)
            left += [next for next in edges[address] if next != without]
    return found


def natural_loops(instructions):
    """The addresses of each loop: an instruction to which a later one jumps back, that no path reaches but by the first, and all from
    which that jump is reached without passing the first again. A jump back from code that was put out of the way is none."""
    edges = successors(instructions)
    back = {address: set() for address in edges}
    for address, nexts in edges.items():
        for next in nexts:
            back[next].add(address)
    for i in instructions:
        first = i.jumps_to()
        if first in edges and first <= i.address and i.address not in reached({instructions[0].address}, edges, first):
            yield frozenset({first}) | reached({i.address}, back, first)


def innermost_loops(instructions, product):
    """The instructions of each loop that has products and holds no other such loop whole. A loop that only prefetches may lie within."""
    products = {i.address for i in instructions if product.match(i.mnemonic)}
    loops = {loop for loop in natural_loops(instructions) if loop & products}
    for loop in sorted(loops, key=min):
        if not any(other < loop for other in loops):
            yield [i for i in instructions if i.address in loop]


def stack_of(instructions):
    """What addresses the stack: rbp does where it is made a frame pointer, else it is a register like any other."""
    framed = any(i.mnemonic.startswith("mov") and i.operands == "%rsp,%rbp" for i in instructions)
    return re.compile(r"\(%(rsp|rbp)[,)]" if framed else r"\(%rsp[,)]")


def check(name, instructions):
    """What is wrong with a function, and a line for each of its loops of products. Those add up in registers: a loop that writes
    vectors anywhere but to the stack is another."""
    stack = stack_of(instructions)
    product = next(pattern for operand, pattern in PRODUCTS if operand in name)
    rows, vectors = TILE.search(name).groups()
    expected = int(rows) * int(vectors)
    wrong, seen = [], []
    loops = [(loop, [i for i in loop if product.match(i.mnemonic)]) for loop in innermost_loops(instructions, product)
             if not any(i.writes_vector() and not stack.search(i.operands) for i in loop)]
    counts = [len(products) for _, products in loops]
    for loop, products in loops:
        loads, folded = (sum(i.reads_vector() for i in of) for of in (loop, products))
        seen.append(f"  {len(products)} products, {loads} vector loads ({folded} folded into products), {len(loop)} instructions")
        spilled = [i for i in loop if VECTOR.search(i.operands) and stack.search(i.operands)]
        if len(products) > 2 * expected:  # no pointer in a vector either, for want of other registers
            spilled += [i for i in loop if i.mnemonic in ("vmovq", "vmovd")]
        # A loop of far fewer products than the longest is for what its passes leave, if anything.
        if 2 * len(products) >= max(counts) and len(spilled) * PRODUCTS_A_SPILL > len(products):
            wrong += [f"{name}: {i.mnemonic} {i.operands} spills in the loop of {len(products)} products" for i in spilled]
    if not counts or any(count % expected for count in counts):  # a loop of whole passes, one of what is left
        wrong.append(f"{name}: loops of {sorted(counts)} products, must be multiples of {expected}")
    return wrong, seen


def missing_tiles(listing):
    """The kinds of which a listing has no function, as where one was inlined."""
    names = functions(listing)
    return [f"no function is a {kind}" for kind in KINDS if not any(f"::{kind}<" in name for name in names)]


def check_listing(listing):
    """What is wrong with a listing; prints its loops."""
    checked = {name: body for name, body in functions(listing).items() if TILE.search(name)}
    wrong = []
    for name, body in checked.items():
        found, seen = check(name, body)
        wrong += found
        print(name, *seen, sep="\n")
    return wrong


def main():
    objdump, *objects = sys.argv[1:]
    wrong = []
    for path in objects:
        command = [objdump, "--disassemble", "--demangle", "--no-show-raw-insn", path]
        listing = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
        print(path)
        wrong += [f"{path}: {problem}" for problem in missing_tiles(listing) + check_listing(listing)]
    print("\n".join(wrong), file=sys.stderr)
    return 1 if wrong or not objects else 0


if __name__ == "__main__":
    sys.exit(main())
