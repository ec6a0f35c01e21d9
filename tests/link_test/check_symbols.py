"""Reads the symbols of object files.

usage: check_symbols.py <nm> apart <object> <object>    no function of the library is in both
       check_symbols.py <nm> tagged <object>...         the objects of targets bring nothing along: what one defines for others is
                                                        tagged with its instruction set, or is its table; no two targets share a
                                                        function; none holds or needs Eigen, a container, allocation, exceptions,
                                                        a static that is initialised at run time or code that runs before main
"""

import itertools
import re
import subprocess
import sys
from pathlib import Path

LINE = re.compile(r"^[0-9a-f ]* (\w) (.+)$", re.MULTILINE)
# nm leaves some names mangled, such as those of functions that take arrays as long as a template says.
OURS = re.compile(r"\bmla::|^_ZNK?3mla")
TAGGED = re.compile(r"\bmla::isa\w*::|^_ZNK?3mla\d+isa")
TABLE = re.compile(r"^mla_(target|emulated)_\w+$|^mla_linked_targets$")
RUNTIME = "DW.ref.__gxx_personality_v0"  # where GCC keeps the address of a function of its runtime, the same from every file
# What code of C++ needs of its runtime although it neither throws nor allocates.
NEEDED = {"__gxx_personality_v0", "_Unwind_Resume", "std::terminate()", RUNTIME}
CXX = re.compile(r"::|\boperator\b|^__cxa_")
FOREIGN = [
    ("Eigen", re.compile(r"\bEigen::")),
    ("a container", re.compile(r"\bstd::(__cxx11::)?(vector|basic_string|deque|list|(unordered_)?(multi)?(map|set)|function|\w+_ptr)\b")),
    ("a static that is initialised at run time", re.compile(r"^guard variable for |^__cxa_guard_")),
    ("code that runs before main", re.compile(r"^_GLOBAL__sub_I|^global constructors keyed|^__static_initialization_and_destruction")),
]


def read(nm, path):
    """[(kind, name)] of an object's symbols, demangled; kinds as nm prints them."""
    listing = subprocess.run([nm, "--demangle", path], stdout=subprocess.PIPE, text=True, check=True).stdout
    return LINE.findall(listing)


def defined(symbols):
    """What an object defines for the linker: its global and weak symbols."""
    return {name for kind, name in symbols if kind == "u" or (kind.isupper() and kind != "U")}


def shared(first, second):
    common = defined(first) & defined(second)
    return [f"both define {name}" for name in sorted(common) if OURS.search(name)]


def brought_along(symbols):
    """What an object of a target must not define, hold or need."""
    wrong = [f"defines {name}" for name in sorted(defined(symbols)) if not (TAGGED.search(name) or TABLE.match(name) or name == RUNTIME)]
    wrong += [f"has {what}: {name}" for _, name in symbols for what, pattern in FOREIGN if pattern.search(name)]
    wrong += [f"needs {name}" for kind, name in symbols if kind in "Uw" and CXX.search(name) and not TAGGED.search(name) and name not in NEEDED]
    return wrong


def shared_by_targets(objects):
    """Functions that two targets define. Emulated ones are compiled for any machine, as generic is, and may share with it."""
    native = [path for path in objects if Path(path).name.startswith("mla_target_")]
    return [f"{first} and {second}: {problem}" for first, second in itertools.combinations(native, 2) for problem in shared(objects[first], objects[second])]


def main():
    nm, what, *paths = sys.argv[1:]
    objects = {path: read(nm, path) for path in paths}
    if what == "apart":
        wrong = shared(*objects.values())
    else:
        wrong = [f"{path} {problem}" for path, symbols in objects.items() for problem in brought_along(symbols)] + shared_by_targets(objects)
    if not any(defined(symbols) for symbols in objects.values()):
        wrong.append("no symbols were read")
    print("\n".join(wrong))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
