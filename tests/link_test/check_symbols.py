"""Reads the symbols of object files.

usage: check_symbols.py <nm> apart <object> <object>    no function of the library is in both
       check_symbols.py <nm> tagged <object>...         all that an object defines for others is tagged with its instruction set,
                                                        or is its table
"""

import re
import subprocess
import sys

TAGGED = re.compile(r"\bmla::isa\w*::")
TABLE = re.compile(r"^mla_(target|emulated)_\w+$|^mla_linked_targets$")
RUNTIME = "DW.ref.__gxx_personality_v0"  # where GCC keeps the address of a function of its runtime, the same from every file


def defined(nm, path):
    """What an object defines for the linker: its global and weak symbols, demangled."""
    command = [nm, "--defined-only", "--extern-only", "--demangle", path]
    listing = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    return {match.group(1) for match in re.finditer(r"^[0-9a-f]+ \w (.+)$", listing, re.MULTILINE)}


def shared(nm, first, second):
    common = defined(nm, first) & defined(nm, second)
    return [f"both define {name}" for name in sorted(common) if re.search(r"\bmla::", name)]


def untagged(nm, path):
    return [f"{path} defines {name}" for name in sorted(defined(nm, path)) if not TAGGED.search(name) and not TABLE.match(name) and name != RUNTIME]


def main():
    nm, what, *objects = sys.argv[1:]
    if what == "apart":
        wrong = shared(nm, *objects)
    else:
        wrong = [problem for path in objects for problem in untagged(nm, path)]
    if not any(defined(nm, path) for path in objects):
        wrong.append("no symbols were read")
    print("\n".join(wrong))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
