"""Every relative link of a page leads to a file or a folder, and to a heading of it where it names one.

usage: check_links.py <page>...
"""

import re
import sys
from pathlib import Path

LINK = re.compile(r"\]\((?!\w+:)([^)#\s]*)(?:#([^)\s]+))?\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def anchor(heading):
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def broken(page):
    for target, wanted in LINK.findall(page.read_text(encoding="utf-8")):
        path = page.parent / target if target else page
        if not path.exists():
            yield f"{page.name}: {target} does not exist"
        elif wanted and wanted not in map(anchor, HEADING.findall(path.read_text(encoding="utf-8"))):
            yield f"{page.name}: {target} has no heading {wanted}"


def main():
    wrong = [problem for page in sys.argv[1:] for problem in broken(Path(page))]
    print("\n".join(wrong))
    return 1 if wrong or len(sys.argv) < 2 else 0


if __name__ == "__main__":
    sys.exit(main())
