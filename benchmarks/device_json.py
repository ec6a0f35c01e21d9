"""Gathers what device_check.sh measured and tested into one JSON file; fails unless every program and test ended well.

usage: device_json.py <folder> <file.json> <commit>
"""

import json
import sys
from pathlib import Path


def cpu_name():
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "unknown")


def measured(folder):
    """{program: what it recorded} and the programs that were cut off."""
    runs, unfinished = {}, []
    for path in sorted(folder.glob("*.json")):
        try:
            runs[path.stem] = json.loads(path.read_text(encoding="utf-8"))
        except json.JSONDecodeError:
            unfinished.append(path.stem)
    return runs, unfinished


def tested(path):
    rows = [line.split() for line in path.read_text(encoding="utf-8").splitlines()]
    return [{"target": target, "test": test, "passed": passed == "true"} for target, test, passed in rows]


def main():
    folder, out, commit = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    runs, unfinished = measured(folder / "raw")
    tests = tested(folder / "tests")
    found = {"version": 1, "cpu": cpu_name(), "commit": commit, "tests": tests, "runs": runs, "unfinished": unfinished}
    out.write_text(json.dumps(found, indent=1), encoding="utf-8")
    passed = sum(test["passed"] for test in tests)
    cases = sum(len(run["benchmarks"]) for run in runs.values())
    print(f"{passed} of {len(tests)} tests passed; {cases} cases; cut off: {', '.join(unfinished) or 'none'}: {out}")
    return 0 if tests and runs and passed == len(tests) and not unfinished else 1


if __name__ == "__main__":
    sys.exit(main())
