"""The report: rows of a figure, the peer's, their ratio and the target, as Markdown and JSON."""

import json
import math
import os
import platform
import socket
import subprocess
from pathlib import Path


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def cpu():
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def commit():
    """The commit that was measured; None outside of a checkout."""
    done = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False, cwd=Path(__file__).parent)
    return done.stdout.strip() or None


def shown(value):
    if value is None:
        return ""
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


class Report:
    def __init__(self, events, remark=""):
        self.events = events
        self.remark = remark
        self.profile = "unknown"
        self.rows = []
        self.wrong = False
        self.load = []

    def add(self, name, kaplan, unit, query=None, peak=None, peer=None, peer_name="", peer_peak=None, target=None, absolute=False, below=False, note=""):
        """A row. The target is of the ratio to the peer, or of the figure itself (`absolute`); `below`
        says that less is better."""
        self.load.append(os.getloadavg()[0])
        ratio = kaplan / peer if peer else None
        held = kaplan if absolute else ratio
        met = None if target is None or held is None else (held <= target if below else held >= target)
        sign = "<=" if below else ">="
        words = "" if target is None else f"{sign} {shown(target)}" + (f" {unit}" if absolute else "x")
        self.rows.append(dict(name=name, query=query, kaplan=kaplan, unit=unit, peer=peer, peer_name=peer_name, ratio=ratio, target=words, met=met, peak_mib=peak, peer_peak_mib=peer_peak, note=note))

    def missing(self, name, why, query=None, wrong=False):
        self.wrong |= wrong
        self.rows.append(dict(name=name, query=query, kaplan=None, unit="", peer=None, peer_name="", ratio=None, target="", met=False, peak_mib=None, peer_peak_mib=None, note=f"not measured: {why}"))

    def geomean(self):
        ratios = [r["ratio"] for r in self.rows if r["name"] == "replay" and r["peer_name"].startswith("DuckDB")]
        return math.exp(sum(map(math.log, ratios)) / len(ratios)) if ratios else None

    def write(self, where):
        rows = list(self.rows)
        mean = self.geomean()
        if mean is not None:
            rows.insert(0, dict(name="replay, geometric mean", query=None, kaplan=None, unit="", peer=None, peer_name="DuckDB, one-off", ratio=mean, target=">= 1x", met=mean >= 1, peak_mib=None, peer_peak_mib=None, note="of the ratios below"))
        asked = [r for r in rows if r["met"] is not None]
        machine = dict(cpu=cpu(), cores=os.cpu_count(), memory_gib=round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1))
        busy = sorted(self.load)[len(self.load) // 2] if self.load else 0
        result = dict(commit=commit(), profile=self.profile, events=self.events, machine=machine, load_average=round(busy, 1), remark=self.remark, targets=len(asked), targets_met=sum(r["met"] for r in asked), rows=rows)
        (where / "results.json").write_text(json.dumps(result, indent=2) + "\n")
        (where / "results.md").write_text(self.markdown(result))

    def markdown(self, result):
        machine = result["machine"]
        text = [
            "# Benchmark results",
            "",
            f"Commit {result['commit']}, profile {result['profile']}, {self.events:,} Nexmark events, {machine['cores']} cores ({machine['cpu']}), "
            f"{machine['memory_gib']} GiB of memory. {result['targets_met']} of {result['targets']} targets met.",
            "",
        ]
        if result["profile"] != "release":
            text += ["**These figures are of a dev build**, in which only the crates that touch every row are optimised; peers are release builds. `make bench` builds release.", ""]
        if result["load_average"] > machine["cores"] + 1:
            text += [f"**The machine was busy with other work** (load average {result['load_average']}): ratios count, not figures.", ""]
        if result["remark"]:
            text += [result["remark"], ""]
        text += [
            "`make bench` writes this file. Rows with a peer have been measured in turn with it; a replay's time counts only if its answer equals DuckDB's. "
            "[docs/performance.md](../docs/performance.md) says what limits each.",
            "",
            "| measure | query | Kaplan | peer | peer's | ratio | target | met | peak MiB (peer) | note |",
            "|---|---|---:|---|---:|---:|---|---|---:|---|",
        ]
        for row in result["rows"]:
            met = {True: "yes", False: "no", None: ""}[row["met"]]
            peak = shown(row["peak_mib"]) + (f" ({shown(row['peer_peak_mib'])})" if row["peer_peak_mib"] else "")
            figure = f"{shown(row['kaplan'])} {row['unit']}".strip()
            ratio = f"{row['ratio']:.2f}" if row["ratio"] else ""
            note = row["note"].replace("|", "/").replace("\n", " ")
            text.append(f"| {row['name']} | {row['query'] or ''} | {figure} | {row['peer_name']} | {shown(row['peer'])} | {ratio} | {row['target']} | {met} | {peak} | {note} |")
        return "\n".join(text) + "\n"
