"""Every benchmark in one run: `python benchmarks/run.py [--out FILE]`. Reports ratios and never fails.

A ratio is ours over theirs, or theirs over ours where the requirement is a speed-up; the column says which.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import attacks
import flow
import monitor
import reading
import torch

SUITES = {
    "flow": (flow, "at least"),
    "reading": (reading, "at least"),
    "monitor": (monitor, "at most"),
    "attacks": (attacks, "at most"),
}


def main() -> None:
    """Run, print a table, and write the rows if asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="write the rows as JSON")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("suites", nargs="*", help=f"some of {', '.join(SUITES)}; by default all")
    arguments = parser.parse_args()
    unknown = set(arguments.suites) - set(SUITES)
    if unknown:
        parser.error(f"no suite named {', '.join(sorted(unknown))}; there are {', '.join(SUITES)}")
    torch.set_num_threads(arguments.threads)
    rows = []
    for name in arguments.suites or SUITES:
        suite, sense = SUITES[name]
        for row in suite.run():
            met = row["ratio"] >= row["required"] if sense == "at least" else row["ratio"] <= row["required"]
            rows.append(row | {"sense": sense, "met": met})
            print(
                f"{row['name']:46} ours {row['ours_ms']:10.2f} ms   theirs {row['theirs_ms']:10.2f} ms   "
                f"ratio {row['ratio']:9.3f} ({sense} {row['required']:g}: {'met' if met else 'NOT MET'}, "
                f"{row['threads']} threads)",
                flush=True,
            )
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
