"""Stop and kill a run on purpose several times, and resume it each time, until it is finished.

    python benchmarks/interrupted_run.py recipes/nano.toml DATASET RUN --steps 300 [--out FILE]

`PLAN` says how and when. The report contains the time spent waiting for data and on checkpoints,
and the loss before and after each stop.
"""

import argparse
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

from common import finish, machine

from motherbird.train import run_log

# (how, at which fraction of the run)
PLAN = [
    ("stop-after", 0.133), ("SIGTERM", 0.277), ("SIGKILL", 0.413), ("SIGKILL in a save", 0.533),
    ("SIGINT", 0.68), ("SIGKILL", 0.817), ("SIGTERM", 0.883),
]  # fmt: skip
SAVES = 20  # steps between checkpoints, in the recipe


def taken(run: Path) -> int:
    """Return the last step in the log."""
    lines = run_log.read(run)
    return int(lines[-1]["step"]) if lines else 0


def go(command: list[str], run: Path, how: str, at: int) -> int:
    """Run one process until a step at most, and return its exit code."""
    if how == "stop-after":
        return subprocess.call([*command, "--stop-after", str(at - taken(run))])
    process = subprocess.Popen(command)
    in_save = how.endswith("save")
    while process.poll() is None:
        unfinished = list((run / "checkpoints").glob(f".step-{at // SAVES * SAVES:08}*"))
        if unfinished if in_save else taken(run) >= at:
            process.send_signal(getattr(signal, how.split()[0]))
            break
        time.sleep(0.01 if in_save else 0.5)
    return process.wait()


def summary(run: Path, codes: list[dict[str, object]]) -> dict[str, object]:
    """Summarize the run's logs."""
    lines = run_log.read(run)
    seconds = sum(line["seconds"] for line in lines)
    events = run_log.read(run, run_log.EVENTS)
    starts = sorted({event["step"] for event in events if event["event"] == "start"} - {0})
    losses = {line["step"]: line["loss"] for line in lines}

    def mean(first: int, last: int) -> float:
        return statistics.fmean(losses[step] for step in range(first, last) if step in losses)

    return {
        "steps": lines[-1]["step"],
        "tokens": sum(line["tokens"] for line in lines),
        "minutes_of_steps": seconds / 60,
        "minutes_from_first_to_last": (events[-1]["time"] - events[0]["time"]) / 60,
        "wait_share": sum(line["wait"] for line in lines) / seconds,
        "save_share": sum(line["save"] for line in lines) / seconds,
        "tokens_per_s": statistics.median(line["tokens"] / line["seconds"] for line in lines),
        "stops": codes,
        "loss_around_each_resume": [
            {"step": s, "before": mean(s - 9, s + 1), "behind": mean(s + 1, s + 11)} for s in starts
        ],
        "evaluations": [
            {"step": line["step"], **line["evaluation"]} for line in lines if "evaluation" in line
        ],
        "loss": {"first": lines[0]["loss"], "last_20": mean(lines[-1]["step"] - 19, 10**6)},
    }


def main() -> None:
    """Run, stop and resume; print and write the report."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("recipe", type=Path)
    parser.add_argument("set", type=Path, help="a dataset from motherbird prepare")
    parser.add_argument("run", type=Path)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    command = [
        sys.executable, "-m", "motherbird", "pretrain", str(arguments.recipe), "--data",
        str(arguments.set), "--out", str(arguments.run), "--steps", str(arguments.steps),
    ]  # fmt: skip
    codes: list[dict[str, object]] = []
    for how, share in PLAN:
        at = round(share * arguments.steps)
        if taken(arguments.run) < at:
            code = go(command, arguments.run, how, at)
            codes.append({"how": how, "step": taken(arguments.run), "exit_code": code})
    codes.append({"how": "to the end", "exit_code": subprocess.call(command)})
    report = {
        "command": "python benchmarks/interrupted_run.py recipes/nano.toml DATASET RUN --steps "
        f"{arguments.steps}",
        "machine": machine(),
        **summary(arguments.run, codes),
    }
    finish(report, arguments.out)


if __name__ == "__main__":
    main()
