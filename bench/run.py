"""The benchmark: `run.py --program BENCH --generator NEXMARK` measures Kaplan beside its peers and
writes results.md and results.json. `make bench` calls it.

Everything alternates in one run, since absolute figures drift between hours and machines: each
round runs every engine once, each in a process of its own. An engine's time counts only if Kaplan's
answer equals DuckDB's. What cannot be measured is a row that says why.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import venv
from pathlib import Path

import queries
import report

HERE = Path(__file__).resolve().parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kaplan" / "bench"
PACKAGES = ["duckdb", "datafusion", "chdb", "pyarrow", "numpy", "pysimdjson"]
# A measurement that takes longer is a row that says so.
PATIENCE_S = 900
# Times below this are the noise of a wake-up, and their ratio says nothing.
LEAST_MS = 0.05


class Failed(Exception):
    """A measurement that has no figure, and why."""


def peers_python():
    """A virtual environment with the peers, made once."""
    where = CACHE / "venv"
    python = where / "bin" / "python"
    ready = where / ("ready-" + "-".join(PACKAGES))
    if not ready.exists():
        print("bench: installing " + " ".join(PACKAGES), file=sys.stderr)
        venv.create(where, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "-q", "--disable-pip-version-check", *PACKAGES], check=True)
        ready.touch()
    return python


def run(command):
    """The JSON objects that a command prints, one a line."""
    command = [str(part) for part in command]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    except subprocess.TimeoutExpired:
        raise Failed(f"took more than {PATIENCE_S} s") from None
    if done.returncode != 0:
        raise Failed((done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1][:300])
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


class Bench:
    def __init__(self, options):
        self.options = options
        self.python = peers_python()
        self.data = CACHE / f"data-{options.events}"
        self.site = CACHE / f"site-{options.events}-{os.getpid()}"
        self.report = report.Report(options.events, options.remark)

    def kaplan(self, *command):
        """The figures of one command of `bench` by name."""
        figures = run([self.options.program, *command])
        self.report.profile = figures[0]["profile"]
        return {figure["name"]: figure for figure in figures}

    def peer(self, *command):
        return run([self.python, HERE / "peers.py", *command])[0]

    def prepare(self):
        if not (self.data / "complete").exists():
            print(f"bench: generating {self.options.events} events", file=sys.stderr)
            run([self.options.generator, "--events", self.options.events, "--out", self.data])
            (self.data / "complete").touch()
        figures = self.kaplan("load", "--site", self.site, "--data", self.data)
        figure, self.data_mib = figures["load"], figures["data"]["value"]
        self.report.add("load into the lake", kaplan=figure["value"], unit="rows/s", peak=figure["peak_mib"], note=figure["note"])

    def replay(self, query):
        """Rounds of Kaplan, DuckDB and DataFusion in turn, then one row beside each and the derived."""
        out = {name: CACHE / f"{name}-{os.getpid()}.parquet" for name in ("ours", "theirs")}
        seconds, peaks, failed = {}, {}, {}
        difference = "not compared"
        for turn in range(self.options.rounds):
            try:
                figures = self.kaplan("replay", "--site", self.site, "--query", query, "--sql", queries.path(query), "--out", out["ours"])
                seconds.setdefault("Kaplan", []).append(figures["replay"]["value"])
                peaks["Kaplan"] = max(peaks.get("Kaplan", 0), figures["replay"]["peak_mib"])
                state = figures["state"]
                if turn == 0:
                    self.peer("duckdb", "answer", query, self.data, out["theirs"])
                    difference = self.peer("duckdb", "check", out["ours"], out["theirs"])["difference"]
            except Failed as error:
                failed["Kaplan"] = str(error)
                break
            for engine in ("duckdb", "datafusion"):
                if engine in failed:
                    continue
                try:
                    figure = self.peer(engine, "replay", query, self.data)
                    seconds.setdefault(engine, []).append(figure["seconds"])
                    peaks[engine] = max(peaks.get(engine, 0), figure["peak_mib"])
                except Failed as error:
                    failed[engine] = str(error)
        for path in out.values():
            path.unlink(missing_ok=True)
        if "Kaplan" in failed:
            self.report.missing("replay", f"Kaplan: {failed['Kaplan']}", query)
            return
        if difference:
            self.report.missing("replay", f"the answer is not DuckDB's: {difference}", query, wrong=True)
            return
        rate = lambda engine: self.options.events / statistics.median(seconds[engine])
        ours = dict(query=query, kaplan=rate("Kaplan"), unit="events/s", peak=peaks["Kaplan"])
        note = f"{statistics.median(seconds['Kaplan']):.2f} s, state {state['value']:.0f} MiB, answers equal"
        if "duckdb" not in seconds:
            self.report.missing("replay", f"DuckDB: {failed['duckdb']}", query)
            return
        self.report.add("replay", **ours, peer=rate("duckdb"), peer_name="DuckDB, one-off", peer_peak=peaks["duckdb"], target=0.5, note=note)
        if "datafusion" in seconds:
            # Its repeats vary: the best of them counts.
            best = self.options.events / min(seconds["datafusion"])
            self.report.add("replay", **ours, peer=best, peer_name="DataFusion, one-off", peer_peak=peaks["datafusion"], note="the peer's best round")
        else:
            self.report.missing("replay beside DataFusion", failed["datafusion"], query)
        for name, table, target in (("dbsp", queries.DBSP_RATE, 3), ("Flink streaming", queries.FLINK_RATE, 10)):
            derived = rate("duckdb") * table[query] / queries.DUCKDB_RATE[query]
            self.report.add("replay", **ours, peer=derived, peer_name=f"{name} (derived)", target=target, note="published ratio to DuckDB times DuckDB's rate here")

    def beside(self, name, kaplan, peer=None, peer_name="", **row):
        """A row of one figure of Kaplan's beside one of a peer; both are functions."""
        try:
            ours, theirs = [], []
            for _ in range(self.options.rounds if peer else 1):
                ours.append(kaplan())
                if peer:
                    theirs.append(peer())
        except Failed as error:
            self.report.missing(name, str(error))
            return
        figure = ours[-1]
        value = statistics.median(f["value"] for f in ours)
        peers = statistics.median(theirs) if theirs else None
        self.report.add(name, kaplan=value, unit=figure["unit"], peak=figure["peak_mib"], peer=peers, peer_name=peer_name, note=figure["note"], **row)

    def live(self):
        for views, target in ((1, 1.5), (4, 3.0)):
            self.beside(
                f"live ingest, {views} mergeable view{'s' if views > 1 else ''} kept",
                lambda views=views: self.kaplan("live", "--data", self.data, "--views", views)[f"live, {views} views"],
                lambda views=views: self.peer("chdb", "live", self.data, views)["rate"],
                "chDB, no fsync a block", target=target)
        self.beside("live ingest, commits of 1,000 rows", lambda: self.kaplan("small", "--data", self.data)["live, small commits"], target=3e6, absolute=True)

    def ingest(self):
        found = self.figures("ingest without views", "ingest", "--data", self.data)
        for name, target in (("Arrow IPC", 3e6), ("NDJSON", 0.8e6)):
            if found:
                self.plain(f"ingest without views, {name}", found[f"ingest, {name}"], target)
        if not found:
            return
        try:
            parse = self.peer("simdjson", "parse", self.data)
            ours = found["ingest, NDJSON"]
            self.report.add("NDJSON ingest beside parsing alone", kaplan=ours["value"], unit="events/s", peak=ours["peak_mib"], peer=parse["rate"], peer_name="simdjson from Python, one core", target=0.6, note="durable ingest of the same lines")
        except Failed as error:
            self.report.missing("NDJSON ingest beside parsing alone", str(error))

    def figures(self, name, *command):
        try:
            return self.kaplan(*command)
        except Failed as error:
            self.report.missing(name, str(error))
            return None

    def plain(self, name, figure, target=None, below=False):
        self.report.add(name, kaplan=figure["value"], unit=figure["unit"], peak=figure["peak_mib"], target=target, absolute=True, below=below, note=figure["note"])

    def freshness(self):
        found = self.figures("freshness", "freshness", "--data", self.data)
        for name, target in ((("acknowledged to visible, p50"), 5), ("acknowledged to visible, p99", 20), ("append to acknowledged, p50", None), ("append to acknowledged, p99", None), ("fsync, p99", None)):
            if found:
                self.plain(f"freshness, {name}", found[name], target, below=True)

    def changes(self):
        small, large = 100_000, self.options.rows
        for case in ("join", "top-N", "min with deletes", "window function"):
            name = f"one-row change, {case}"
            before = self.figures(name, "change", "--rows", small, "--case", case)
            after = before and self.figures(name, "change", "--rows", large, "--case", case)
            if not after:
                continue
            key = f"{name}, p50"
            self.plain(f"{name}, {large} rows", after[key], 1, below=True)
            self.plain(f"{name}, {large} rows, p99", after[f"{name}, p99"])
            growth = after[key]["value"] / before[key]["value"]
            note = f"{before[key]['value']:.3f} ms to {after[key]['value']:.3f} ms"
            if after[key]["value"] < LEAST_MS:
                growth, note = min(growth, 1), f"{note}: both are as good as nothing"
            self.report.add(f"{name}, growth from {small} to {large} rows", kaplan=growth, unit="x", peak=after[key]["peak_mib"], target=1.5, absolute=True, below=True, note=note)

    def reads(self):
        keys = min(1_000_000, self.options.events)
        found = self.figures("point reads", "reads", "--keys", keys, "--clients", 64)
        if found:
            self.plain("point read, 64 clients, p99", found["point read, Kaplan, p99"], 2, below=True)
            rate = found["point reads, Kaplan"]
            theirs = self.postgres(keys)
            if theirs:
                self.report.add("point reads, 64 clients", kaplan=rate["value"], unit="reads/s", peak=rate["peak_mib"], peer=theirs["value"], peer_name="PostgreSQL", target=1, note=rate["note"])
        self.beside("full read of q17's groups", lambda: self.kaplan("full", "--data", self.data)["full read"],
            lambda: self.peer("chdb", "full", self.data)["seconds"] * 1000, "chDB, final merge", target=1, below=True)

    def postgres(self, keys):
        """The same reads of a table of a private PostgreSQL."""
        where, port = CACHE / f"postgres-{os.getpid()}", report.free_port()
        script = HERE.parent / "scripts" / "postgres.sh"
        # The server's own user must reach its directory.
        where = Path(os.environ.get("TMPDIR", "/tmp")) / where.name if os.geteuid() == 0 else where
        started = subprocess.run([script, "start", where, str(port)], capture_output=True, text=True, check=False)
        if started.returncode != 0:
            self.report.missing("point reads beside PostgreSQL", started.stderr.strip()[:200])
            return None
        try:
            target = f"host=127.0.0.1 port={port} user=postgres dbname=postgres"
            found = self.kaplan("reads", "--keys", keys, "--clients", 64, "--peer", target)
            return found["point reads, PostgreSQL"]
        except Failed as error:
            self.report.missing("point reads beside PostgreSQL", str(error))
            return None
        finally:
            subprocess.run([script, "stop", where], capture_output=True, check=False)
            shutil.rmtree(where, ignore_errors=True)

    def batch(self):
        self.beside("batch run of q17", lambda: self.kaplan("batch", "--site", self.site, "--sql", queries.path("q17"))["batch run"],
            lambda: self.peer("datafusion", "replay", "q17", self.data)["seconds"], "DataFusion, one-off", target=1.2, below=True)

    def limited(self):
        """A view whose history is ten times the memory limit, and its answer beside DuckDB's."""
        name, query = "a data set of ten times the memory limit", queries.LIMITED
        limit = int(self.data_mib / 10) << 20
        out = {side: CACHE / f"{side}-{os.getpid()}.parquet" for side in ("ours", "theirs")}
        try:
            found = self.kaplan("replay", "--site", self.site, "--query", query, "--sql", queries.path(query), "--out", out["ours"], "--memory-limit-bytes", limit)
            self.peer("duckdb", "answer", query, self.data, out["theirs"])
            difference = self.peer("duckdb", "check", out["ours"], out["theirs"])["difference"]
        except Failed as error:
            self.report.missing(name, str(error))
            return
        finally:
            for path in out.values():
                path.unlink(missing_ok=True)
        if difference:
            self.report.missing(name, f"the answer is not DuckDB's: {difference}", query, wrong=True)
            return
        state, files, memory = (found[part]["value"] for part in ("state", "state in files", "memory"))
        note = f"{limit >> 20} MiB of limit; {state:.0f} MiB of state, {files:.0f} of it in files; at most {memory:.0f} MiB of memory that was no file's; {found['replay']['value']:.1f} s, answers equal"
        self.report.add(name, query=query, kaplan=self.data_mib / (limit >> 20), unit="x", peak=found["replay"]["peak_mib"], target=10, absolute=True, note=note)

    def measure(self):
        parts = self.options.only.split(",") if self.options.only else ["replay", "live", "ingest", "freshness", "changes", "reads", "batch", "limited"]
        chosen = [q for q in queries.QUERIES if not self.options.queries or q in self.options.queries.split(",")]
        try:
            self.prepare()
            for part in parts:
                for query in chosen if part == "replay" else [None]:
                    print(f"bench: {query or part}", file=sys.stderr)
                    self.replay(query) if query else getattr(self, part)()
                    self.report.write(Path(self.options.out))
        finally:
            shutil.rmtree(self.site, ignore_errors=True)
        return self.report.wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--program", required=True, help="the example `bench` of kaplan-cli")
    parser.add_argument("--generator", required=True, help="the program kaplan-nexmark")
    parser.add_argument("--events", type=int, default=10_000_000, help="events of history")
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of state for one-row changes")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each measurement; the median counts")
    parser.add_argument("--only", help="parts, with commas between them: replay,live,ingest,freshness,changes,reads,batch,limited")
    parser.add_argument("--queries", help="queries of replay, with commas between them")
    parser.add_argument("--remark", default="", help="a sentence for the report's head")
    parser.add_argument("--out", default=str(HERE), help="where the report goes")
    CACHE.mkdir(parents=True, exist_ok=True)
    if Bench(parser.parse_args()).measure():
        raise SystemExit("bench: a wrong answer, see results.md")


if __name__ == "__main__":
    main()
