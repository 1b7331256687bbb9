"""Jobs of Slurm: batch scripts, and how they are handed in.

A sweep is three jobs that wait for each other: cache and teachers, an array with a student a task,
and the table. A script ends in `exec`, so that Slurm's signal before the time is up reaches the
command itself, which saves and ends.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stillroom.pipeline.cluster.submission.job import Job

LOGS = "slurm"  # below the job's folder
NOTICE_SECONDS = 120  # before the time is up
RAY = """\
# One Ray over all nodes of this job: its head here, the others join it.
hosts=($(scontrol show hostnames "$SLURM_JOB_NODELIST"))
port=$((20000 + SLURM_JOB_ID % 20000))
address="${hosts[0]}:$port"
# Ray's sockets lie below TMPDIR, and a socket's path has 107 bytes at most.
folder="${TMPDIR:-/tmp}"; [ "${#folder}" -le 33 ] || export RAY_TMPDIR=/tmp
"""


@dataclass(frozen=True)
class Script:
    """A batch script.

    Attributes:
        after: how it waits for the script before it, "afterok" or "afterany"; None does not wait
    """

    text: str
    after: str | None = None


def scripts(job: Job, options: Sequence[str] = (), at_once: int | None = None) -> list[Script]:
    """The batch scripts of a job, in the order in which they are handed in.

    Args:
        options: more of sbatch's, "partition=gpu"
        at_once: tasks of an array that may run at a time; all if left out

    Raises:
        ConfigError: an option that sbatch would not take, or that is set here.
    """
    for option in options:
        _demand_option(option)
    if job.needs_ray:
        raise ConfigError(
            f"{job.file}: asha compares students while they train, and a controller draws by "
            "what others scored, which jobs of their own on Slurm cannot; leave it out, or submit "
            "--to ray or kubernetes"
        )
    if job.command == "sweep" and job.resources.nodes > 1:
        raise ConfigError(
            f"--nodes {job.resources.nodes}: the students of a sweep are jobs of their own on "
            "Slurm; --at-once N says how many of them run at a time"
        )
    if job.command == "sweep":
        return [
            Script(_script(job, options, _exec(job.words("--teachers-only")), "-teachers")),
            Script(_array(job, options, at_once), "afterok"),
            Script(_script(job, options, _exec(job.words()), "-table"), "afterany"),
        ]
    if job.resources.nodes > 1:
        return [Script(_script(job, options, _over_nodes(job)))]
    return [Script(_script(job, options, _exec(job.words(*job.workers))))]


def submit(job: Job, parts: Sequence[Script]) -> list[str]:
    """Hand the scripts to sbatch; return the ids of the jobs.

    Raises:
        ConfigError: there is no sbatch here, no folder for its logs, or it refuses a script;
            those before it were taken.
    """
    if shutil.which("sbatch") is None:
        raise ConfigError(
            "sbatch: not found; run this on a login node of the cluster, or take the scripts of "
            "--print there"
        )
    try:
        (job.folder / LOGS).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"{job.folder / LOGS}: Slurm's logs need this folder, and it cannot be made "
            f"({error.strerror}); give a --folder that this machine and the nodes share"
        ) from error
    ids: list[str] = []
    for part in parts:
        waits = [f"--dependency={part.after}:{ids[-1]}"] if part.after and ids else []
        done = subprocess.run(
            ["sbatch", "--parsable", *waits], input=part.text, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        if done.returncode:
            taken = f"; jobs {', '.join(ids)} were taken: `scancel` them" if ids else ""
            raise ConfigError(f"sbatch refused the job: {done.stderr.strip()}{taken}")
        ids.append(done.stdout.strip().partition(";")[0])
    return ids


def _demand_option(option: str) -> None:
    name = option.partition("=")[0]
    ours = ("array", "chdir", "dependency", "job-name", "nodes", "output", "signal")
    if not name or name.startswith("-") or any(mark in option for mark in "\n\r"):
        raise ConfigError(
            f"--sbatch {option!r}: expected an option without its dashes, as partition=gpu"
        )
    if name in ours:
        raise ConfigError(f"--sbatch {option!r}: {name} is set here; leave it out")


def _header(job: Job, options: Sequence[str], suffix: str, log: str, array: str | None) -> str:
    asked = job.resources
    lines = {
        "job-name": job.name + suffix,
        "chdir": job.folder,
        "output": f"{LOGS}/{log}.out",
        "nodes": asked.nodes,
        "ntasks-per-node": 1,
        "cpus-per-task": asked.cpus,
        "gpus-per-node": asked.gpus or None,
        "mem": None if asked.memory_gb is None else f"{asked.memory_gb}G",
        "array": array,
        "signal": f"B:INT@{NOTICE_SECONDS}",
    }
    chosen = {option.partition("=")[0] for option in options}
    kept = [f"{k}={shlex.quote(str(value))}" for k, value in lines.items() if value is not None]
    kept = [line for line in kept if line.partition("=")[0] not in chosen]
    every = [*kept, "requeue", *options]
    return "#!/bin/bash\n" + "".join(f"#SBATCH --{line}\n" for line in every)


def _script(job: Job, options: Sequence[str], body: str, suffix: str = "") -> str:
    return f"{_header(job, options, suffix, '%x-%j', None)}set -euo pipefail\n{body}"


def _array(job: Job, options: Sequence[str], at_once: int | None) -> str:
    """A script of which task number i trains the i-th student."""
    limit = "" if at_once is None else f"%{at_once}"
    cases = "".join(
        f"  {number}) student=({shlex.join(one)}) ;;\n" for number, one in enumerate(job.trials)
    )
    body = (
        f'case "$SLURM_ARRAY_TASK_ID" in\n{cases}'
        '  *) echo "no student has the number $SLURM_ARRAY_TASK_ID" >&2; exit 2 ;;\nesac\n'
        f'exec {shlex.join(job.words())} "${{student[@]}}"\n'
    )
    array = f"0-{len(job.trials) - 1}{limit}"
    return f"{_header(job, options, '', '%x-%A_%a', array)}set -euo pipefail\n{body}"


def _over_nodes(job: Job) -> str:
    ray = shlex.join([job.python, "-m", "ray.scripts.scripts", "start"])
    asked = f"--num-cpus={job.resources.cpus} --num-gpus={job.resources.gpus} --block"
    command = shlex.join(job.words(*job.workers))
    return (
        f'{RAY}srun --nodes=1 --nodelist="${{hosts[0]}}" {ray} --head --port="$port" '
        f"{asked} &\n"
        f'until {shlex.quote(job.python)} -c "import socket, sys; '
        'socket.create_connection((sys.argv[1], int(sys.argv[2])), 2)" '
        '"${hosts[0]}" "$port" 2>/dev/null; do sleep 2; done\n'
        f'srun --nodes=$((SLURM_JOB_NUM_NODES - 1)) --exclude="${{hosts[0]}}" {ray} '
        f'--address="$address" {asked} &\n'
        f'exec {command} --address "$address"\n'
    )


def _exec(words: Sequence[str]) -> str:
    return f"exec {shlex.join(words)}\n"
