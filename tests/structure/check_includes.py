"""Walks the includes below include/mla and names each that runs against the library's layers.

usage: check_includes.py <include directory>

A part is a folder of include/mla, or a header that lies there directly. It may include the parts that USES gives it,
and itself; foreign headers that HOMES lists have their homes. Nothing may be included in a circle, a folder has few
floors, and what names the machine (compilers' macros, formats, instructions) stays in the rooms made for it.
"""

import re
import sys
from pathlib import Path

CORE = {"core"}
CONFIG = CORE | {"config", "weights", "presets"}
ATOMS = CORE | {"simd"}
FORMATS = ATOMS | {"formats"}
MATH = CONFIG | FORMATS | {"math"}
KERNELS = MATH | {"linear", "cache", "kernels"}
REQUESTS = KERNELS | {"requests"}
LAYER_PARTS = REQUESTS | {"layer"}
LAYER = LAYER_PARTS | {"eigen", "attention"}
EIGEN_SPEAKERS = {"eigen", "attention", "baselines", "testing", "mla"}

USES = {
    "core": CORE,
    "config": CORE,
    "weights": CONFIG,
    "presets": CONFIG,
    "simd": ATOMS,
    "formats": FORMATS,
    "math": CONFIG | ATOMS,
    "linear": MATH,
    "cache": MATH,
    "kernels": KERNELS,
    "eigen": CORE,
    "baselines": KERNELS | {"eigen"},
    "requests": KERNELS,
    "layer": LAYER_PARTS,
    "attention": LAYER_PARTS | {"eigen"},
    "reference": CONFIG,
    "io": CONFIG | {"reference"},
    "testing": LAYER | {"reference", "io"},
    "mla": LAYER | {"baselines"},
}

# Foreign headers, and the only parts or files that may reach them, directly or through what they include.
HOMES = [
    (re.compile(r"(unsupported/)?Eigen/"), EIGEN_SPEAKERS | {"mla/core/eigen_executor.hpp"}),
    (re.compile(r"nlohmann/"), {"io", "testing"}),
    (re.compile(r"omp\.h$"), {"mla/core/openmp_executor.hpp"}),
]
# The same for headers that only their own file must not name; through what it includes it may reach them.
DIRECT_HOMES = [
    (re.compile(r"(\w*intrin|arm_neon|arm_sve|arm_acle|altivec|riscv_vector)\.h$"), {"simd", "mla/core/float_environment.hpp"}),
    (re.compile(r"xsimd/"), {"simd"}),
]

# The one header that reads compilers' macros, which every other reaches: it gives the library's names the instruction set's
# tag. The others ask for what is no instruction set: an operating system, OpenMP, a register of the processor's.
COMPILER = "mla/core/compiler.hpp"
MACRO = re.compile(r"\b(__\w+__|__[A-Z0-9]\w*|_OPENMP|_MSC_VER|_M_\w+)\b")
MACRO_READERS = {COMPILER, "mla/core/memory.hpp", "mla/core/openmp_executor.hpp", "mla/core/float_environment.hpp"}

# Rooms whose code is the same for every format and instruction set, and so names none.
NAMELESS = {"kernels", "linear"}
MACHINE = re.compile(r"(?i)\b(?:(?:bf|fp)\d+|bfloat\w*|float(?:8|16)\w*|int(?:4|8)|e4m3\w*|avx\w*|sse\w*|\w*vnni\w*|amx\w*|neon\w*|sve\w*"
                     r"|_mm\w+|__m\d+\w*)\b")
COMMENT = re.compile(r"//.*?$|/\*.*?\*/", re.MULTILINE | re.DOTALL)

# Headers of one folder that may include one another in a row.
MOST_FLOORS = {"mla/kernels": 5, "mla/kernels/engine": 5}

INCLUDE = re.compile(r'^\s*#\s*include\s*(<[^>]+>|"[^"]+")', re.MULTILINE)


def part_of(header):
    """mla/core/types.hpp -> core, mla/config.hpp -> config."""
    return Path(header).parts[1].removesuffix(".hpp")


def read_includes(root):
    """Header -> what it includes, each in its brackets or quotes."""
    files = sorted(path for path in (root / "mla").rglob("*") if path.is_file())
    return {str(path.relative_to(root)): INCLUDE.findall(path.read_text(encoding="utf-8")) for path in files}


def check_direction(includes):
    for header, included in includes.items():
        part = part_of(header)
        if part not in USES:
            yield f"{header}: {part} is no known part of the library"
            continue
        for spelled in included:
            target = spelled[1:-1]
            if not target.startswith("mla/"):
                if spelled[0] == '"':
                    yield f'{header}: includes {spelled}; our own headers are included as "mla/...", others in <>'
            elif spelled[0] == "<" or target not in includes:
                yield f'{header}: includes {spelled}, which is not one of our headers as "mla/..."'
            elif part_of(target) not in USES[part] and part_of(target) != part:
                yield f"{header}: includes {target}, but {part} may not use {part_of(target)}"


def ours(includes, header):
    """What a header includes of our own headers."""
    return [spelled[1:-1] for spelled in includes[header] if spelled[1:-1] in includes]


def reached(includes, header):
    """The header and all of ours that it includes, however indirectly."""
    seen, waiting = set(), [header]
    while waiting:
        current = waiting.pop()
        if current not in seen:
            seen.add(current)
            waiting += ours(includes, current)
    return seen


def check_foreign(includes):
    for header in includes:
        here = {part_of(header), header}
        for pattern, homes in DIRECT_HOMES:
            for target in (spelled[1:-1] for spelled in includes[header]):
                if pattern.match(target) and not here & homes:
                    yield f"{header}: includes {target}, which belongs in {', '.join(sorted(homes))} only"
        for pattern, homes in HOMES:
            if here & homes:
                continue
            for through in sorted(reached(includes, header)):
                for target in (spelled[1:-1] for spelled in includes[through]):
                    if pattern.match(target):
                        yield f"{header}: reaches {target} in {through}; that is for {', '.join(sorted(homes))} only"


def check_circles(includes):
    for header in includes:
        for target in ours(includes, header):
            if header in reached(includes, target):
                yield f"{header}: includes {target}, which leads back to it"


def check_floors(includes):
    """After check_circles only: in a circle there is no highest floor."""
    floors = {}

    def floor(header):
        if header not in floors:
            folder = str(Path(header).parent)
            below = [floor(target) for target in ours(includes, header) if str(Path(target).parent) == folder]
            floors[header] = 1 + max(below, default=0)
        return floors[header]

    for header in includes:
        most = MOST_FLOORS.get(str(Path(header).parent))
        if most is not None and floor(header) > most:
            yield f"{header}: stands on floor {floor(header)} of its folder, which may have {most}"


def check_machine(root, includes):
    for header in includes:
        if COMPILER not in reached(includes, header):
            yield f"{header}: does not reach {COMPILER}, which tags the library's names"
        code = COMMENT.sub("", (root / header).read_text(encoding="utf-8"))
        directives = "\n".join(line for line in code.splitlines() if line.lstrip().startswith("#"))
        if header not in MACRO_READERS:
            for macro in sorted({match[0] for match in MACRO.finditer(directives)}):
                yield f"{header}: asks for {macro}; {COMPILER} does that"
        if part_of(header) in NAMELESS:
            for name in sorted({match[0] for match in MACHINE.finditer(code)}):
                yield f"{header}: names {name}; formats belong in formats/, instructions in simd/"


def violations(root):
    includes = read_includes(root)
    if not includes:
        return [f"{root}: no headers below mla/"]
    circles = list(check_circles(includes))
    floors = [] if circles else check_floors(includes)
    return [*check_direction(includes), *check_foreign(includes), *circles, *floors, *check_machine(root, includes)]


def main():
    found = violations(Path(sys.argv[1]))
    for violation in found:
        print(violation)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
