#!/usr/bin/env python3
"""Holds a port against the conformance vectors: writes them, lets the port answer, has the answers checked.

usage: hold.py MLA_VECTORS PORT

Exits with 0 when all answers pass, and with 77 when the port cannot run here.
"""

import pathlib
import subprocess
import sys
import tempfile


def main():
    tool, port = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        vectors, results = pathlib.Path(folder, "vectors"), pathlib.Path(folder, "results")
        subprocess.run([tool, "write", vectors], check=True)
        answered = subprocess.run([sys.executable, "-B", port, vectors, results], check=False).returncode
        if answered != 0:
            return answered
        return subprocess.run([tool, "check", results], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
