"""Every benchmark in one run: `python benchmarks/run.py [--out FILE] [SUITE ...]`. Reports ratios and never fails.

A ratio is ours over theirs, or theirs over ours where the requirement is a speed-up; the column says which.

With its usual settings glibc gives large blocks back to the system and asks for them again in every forward pass; page
faults then cost more than what is to be measured, and change with every small block that lies between. So everything
here, ours and theirs, runs in a process that keeps its memory.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

import attacks
import flow
import memory
import monitor
import reading
import torch

SUITES = {
    "flow": (flow, "at least"),
    "reading": (reading, "at least"),
    "memory": (memory, "at least"),
    "monitor": (monitor, "at most"),
    "attacks": (attacks, "at most"),
}


KEEP_MEMORY = {"MALLOC_TRIM_THRESHOLD_": "4000000000", "MALLOC_MMAP_THRESHOLD_": "4000000000"}


def main() -> None:
    """Run, print a table, and write the rows if asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="write the rows as JSON; those of suites that are not run stay there")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("suites", nargs="*", help=f"some of {', '.join(SUITES)}; by default all")
    arguments = parser.parse_args()
    unknown = set(arguments.suites) - set(SUITES)
    if unknown:
        parser.error(f"no suite named {', '.join(sorted(unknown))}; there are {', '.join(SUITES)}")
    if not KEEP_MEMORY.keys() <= os.environ.keys():
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | KEEP_MEMORY)
    torch.set_num_threads(arguments.threads)
    rows = []
    for name in arguments.suites or SUITES:
        suite, usual = SUITES[name]
        for row in suite.run():
            sense = row.get("sense", usual)
            met = row["ratio"] >= row["required"] if sense == "at least" else row["ratio"] <= row["required"]
            rows.append({"suite": name} | row | {"sense": sense, "met": met})
            print(
                f"{row['name']:46} ours {row['ours_ms']:10.2f} ms   theirs {row['theirs_ms']:10.2f} ms   "
                f"ratio {row['ratio']:9.3f} ({sense} {row['required']:g}: {'met' if met else 'NOT MET'}, "
                f"{row['threads']} threads)",
                flush=True,
            )
    if arguments.out is not None:
        there = json.loads(arguments.out.read_text()) if arguments.out.is_file() else []
        kept = [row for row in there if row.get("suite") in set(SUITES) - set(arguments.suites or SUITES)]
        ordered = sorted([*kept, *rows], key=lambda row: list(SUITES).index(row["suite"]))
        arguments.out.write_text(json.dumps(ordered, indent=1) + "\n")


if __name__ == "__main__":
    main()
