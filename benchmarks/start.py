"""CPU seconds that the command line takes before it does something.

python benchmarks/start.py [N]
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys

VERBS = ("", "attentions", "sites", "fit", "compare", "explain", "fold", "iterate", "store", "adapt", "watch", "predict",
         "report", "bench")  # fmt: skip


def cpu_s(command: list[str]) -> float:
    """User and system time of one process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    calls = [["-m", "attngraft", *([verb] if verb else []), "--help"] for verb in VERBS]
    calls += [["-m", "attngraft", "attentions"], ["-c", "import attngraft"], ["-c", "import attngraft; attngraft.fit"]]
    for call in calls:
        times = [cpu_s([sys.executable, *call]) for _ in range(n)]
        low, high = min(times), max(times)
        print(f"{' '.join(call[1:]):<32} {statistics.median(times):.2f} s ({low:.2f} to {high:.2f}, n = {n})")


if __name__ == "__main__":
    main()
