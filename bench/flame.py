"""Flame graphs: `flame.py --program BENCH --generator NEXMARK` replays each query under `perf` (apt
linux-perf) and draws where its time goes, as OUT/QUERY.svg, with the hottest functions in OUT/QUERY.txt.
`make profile` calls it. Without perf it says so and fails.
"""

import argparse
import html
import os
import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import queries
from run import CACHE, run

FREQUENCY = 199
WIDTH, ROW = 1400, 17
# Frames narrower than this many pixels are left out.
LEAST = 0.5
TOP = 40


def stacks(perf):
    """How often each stack was seen, outermost function first."""
    found, stack, thread = Counter(), [], ""
    for line in perf.splitlines():
        if not line.strip():
            if stack:
                found[(thread, *reversed(stack))] += 1
            stack = []
        elif line[0].isspace():
            name = re.sub(r"^\s*[0-9a-f]+ (.*) \(.*\)$", r"\1", line)
            stack.append(re.sub(r"\+0x[0-9a-f]+$", "", name))
        else:
            thread = line.split()[0]
    if stack:
        found[(thread, *reversed(stack))] += 1
    return found


def draw(found, title):
    """The stacks as an SVG whose width is time."""
    total = sum(found.values()) or 1
    tree = {}
    for stack, count in found.items():
        node = tree
        for name in stack:
            child = node.setdefault(name, [0, {}])
            child[0] += count
            node = child[1]
    boxes, deepest = [], 0

    def place(node, left, depth):
        nonlocal deepest
        for name, (count, below) in sorted(node.items()):
            width = count / total * WIDTH
            if width >= LEAST:
                deepest = max(deepest, depth)
                boxes.append((left, depth, width, name, count))
                place(below, left, depth + 1)
            left += width

    place(tree, 0, 0)
    height = (deepest + 2) * ROW
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" font-family="monospace" font-size="11">', f"<title>{html.escape(title)}</title>"]
    for left, depth, width, name, count in boxes:
        top = height - (depth + 1) * ROW
        hue = 20 + hash(name) % 40
        label = html.escape(name[: int(width / 6.7)]) if width > 20 else ""
        out.append(f'<g><title>{html.escape(name)}: {count / total:.1%}</title><rect x="{left:.1f}" y="{top}" width="{width:.1f}" height="{ROW - 1}" fill="hsl({hue},80%,65%)"/><text x="{left + 2:.1f}" y="{top + 12}">{label}</text></g>')
    return "\n".join(out) + "\n</svg>\n"


def hottest(found):
    """The functions that time is spent in, and those that it is spent below."""
    total = sum(found.values()) or 1
    itself, below = Counter(), Counter()
    for stack, count in found.items():
        itself[stack[-1]] += count
        for name in set(stack):
            below[name] += count
    text = []
    for heading, counts in (("in itself", itself), ("with what it calls", below)):
        text.append(heading)
        text += [f"{count / total:7.1%}  {name[:150]}" for name, count in counts.most_common(TOP)]
        text.append("")
    return "\n".join(text)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--program", required=True)
    parser.add_argument("--generator", required=True)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--queries", default=",".join(queries.QUERIES))
    parser.add_argument("--out", default=str(CACHE / "flame"))
    options = parser.parse_args()
    if not shutil.which("perf"):
        raise SystemExit("profile: there is no perf here: apt-get install linux-perf")
    out, data = Path(options.out), CACHE / f"data-{options.events}"
    site, recorded = CACHE / f"flame-site-{os.getpid()}", CACHE / f"perf-{os.getpid()}.data"
    out.mkdir(parents=True, exist_ok=True)
    if not (data / "complete").exists():
        run([options.generator, "--events", options.events, "--out", data])
        (data / "complete").touch()
    try:
        run([options.program, "load", "--site", site, "--data", data])
        for query in options.queries.split(","):
            command = [options.program, "replay", "--site", site, "--query", query, "--sql", queries.path(query), "--out", "/dev/null"]
            recording = ["perf", "record", "-q", "-F", FREQUENCY, "-g", "--call-graph", "dwarf,16384", "-o", recorded]
            run([*recording, "--", *command])
            perf = subprocess.run(["perf", "script", "-i", recorded, "--no-inline"], capture_output=True, text=True, check=True).stdout
            found = stacks(perf)
            (out / f"{query}.svg").write_text(draw(found, query))
            (out / f"{query}.txt").write_text(hottest(found))
            print(out / f"{query}.svg")
    finally:
        shutil.rmtree(site, ignore_errors=True)
        recorded.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
