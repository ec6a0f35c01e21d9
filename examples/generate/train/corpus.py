"""The text that the models learn: the King James Bible of Debian's package bible-kjv-text, in the public domain.

The packages are downloaded by apt and unpacked in a folder of their own; nothing is installed. The text is cut into
pieces of 16 KiB, and every twentieth piece is held out: no model sees it in training.
"""

import pathlib
import re
import subprocess

PIECE = 16384
EVERY = 20


def bible(folder: pathlib.Path) -> str:
    """One verse a line, without numbers; an empty line between chapters."""
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / "usr/bin/bible"
    if not program.exists():
        subprocess.run(["apt-get", "download", "bible-kjv", "bible-kjv-text"], cwd=folder, check=True)
        for package in folder.glob("*.deb"):
            subprocess.run(["dpkg", "-x", package.name, "."], cwd=folder, check=True)
    command = [program, "-p", folder / "usr/lib", "-l9999", "gen1:1-rev22:21"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    lines = []
    for line in printed.splitlines():
        verse = re.fullmatch(r" +\d+ (.*\S) *", line)
        if verse:
            lines.append(verse.group(1))
        elif line and lines:  # a chapter's title
            lines.append("")
    return "\n".join(lines) + "\n"


def split(text: str) -> tuple[bytes, list[bytes]]:
    """What is learnt, and the pieces that are held out."""
    data = text.encode("ascii")
    pieces = [data[begin:begin + PIECE] for begin in range(0, len(data), PIECE)]
    held_out = pieces[EVERY // 2::EVERY]
    learnt = [piece for number, piece in enumerate(pieces) if number % EVERY != EVERY // 2]
    return b"".join(learnt), held_out
