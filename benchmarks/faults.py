"""Fault tolerance of training: injects faults into short runs, then restarts them with the same command.

    python benchmarks/faults.py --kills 30

After each fault the run must continue, unaided or when restarted, lose no steps before the last checkpoint, and end
with weights, averages and optimizer state bit-identical to those of an undisturbed run. Prints a table, and exits with
status 1 if any run failed.
"""

import os
import random
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
from typing import Annotated

import torch
from fault_campaign import FLAGS, SAVE_INTERVAL, SCRIPT, STEPS, Campaign, Survival, children_of, equal
from machine import machine_name
from running import write_json

from guided_diffusion.checkpoints.folder import CheckpointFolder
from guided_diffusion.flags import command_line
from guided_diffusion.flags.command_line import GAVE_UP
from guided_diffusion.flags.fields import Flag, config

# Trains like the script, but with a non-finite loss after each number of steps listed in the argument
NAN_PROGRAM = """
import runpy, sys
from guided_diffusion.train_util import Trainer
step, bad = Trainer.step, set(map(int, sys.argv[1].split(",")))
def stepping(self, batch):
    forward = self.state.segmenter.forward
    def poisoned(*arguments):
        return {name: values * float("nan") for name, values in forward(*arguments).items()}
    self.state.segmenter.forward = poisoned if self.state.steps_done in bad else forward
    step(self, batch)
    self.state.segmenter.forward = forward
Trainer.step = stepping
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@config()
class FaultsConfig:
    kills: Annotated[int, Flag("number of kills at random moments")] = 30
    seed: Annotated[int, Flag("random seed of the moments")] = 0
    out: Annotated[str, Flag("JSON file for the table")] = ""


# -- the faults: functions of the campaign and a random generator, which return or raise Survival ----------------------


def killed(campaign, chance):
    """SIGKILL at random moments, several times in one run."""
    folder = campaign.folder()
    for _ in range(chance.randint(1, 3)):
        run = campaign.start(folder)
        begun = campaign.logged(folder)
        wait = chance.random()
        if wait < 0.8:  # while it trains and saves; else while it starts
            if begun < STEPS:
                campaign.wait(lambda: campaign.logged(folder) > begun or run.poll() is not None, run)
            time.sleep(chance.random() * campaign.seconds * 0.3)
        else:
            time.sleep(chance.random() * campaign.seconds)
        run.kill()
        run.communicate()
    campaign.survives(folder)


def full_disk(campaign, chance):
    """A limit on the file size that a checkpoint exceeds."""
    folder = campaign.folder()
    campaign.finish(folder, "--iterations=4")
    run = campaign.start(folder, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (10**6, 10**6)))
    text, _ = run.communicate()
    if run.returncode != 2 or "File too large" not in text or "Traceback" in text:
        raise Survival(f"it ended with {run.returncode}: {text[-500:]}")
    campaign.survives(folder)


def damaged(change):
    def fault(campaign, chance):
        folder = campaign.folder()
        campaign.finish(folder, "--iterations=10")
        newest = folder / "savedmodel000010.pt"
        content = newest.read_bytes()
        newest.unlink()  # and not only the second name's content
        newest.write_bytes(change(bytearray(content), chance))
        campaign.same(campaign.finish(folder))

    return fault


def truncate(content, chance):
    return content[: chance.randrange(len(content))]


def flip_bits(content, chance):
    for _ in range(chance.randint(1, 5)):
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    return content


def reader_killed(campaign, chance):
    """SIGKILL to one of two data loader processes."""
    folder = campaign.folder()
    run = campaign.start(folder, "--num_workers=2")
    campaign.wait(lambda: campaign.logged(folder) >= 5, run)
    readers = children_of(run.pid)
    os.kill(chance.choice(readers), signal.SIGKILL)
    text, _ = run.communicate()
    if run.returncode or "data loading process died" not in text:
        raise Survival(f"it ended with {run.returncode}: {text[-500:]}")
    campaign.same(torch.load(folder / "savedmodel.pt", weights_only=True))


def process_killed(campaign, chance):
    """SIGKILL to one of two training processes under torchrun --max-restarts."""
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "--max-restarts=3")
    ends = []
    for disturbed in (False, True):
        folder, logged = campaign.folder(), 0
        run = campaign.start(folder, "--batch_size=2", launcher=launcher)
        if disturbed:
            step = chance.randint(2, STEPS // 2)
            campaign.wait(lambda: campaign.logged(folder) >= step, run)
            os.kill(chance.choice(children_of(run.pid)), signal.SIGKILL)
            logged = campaign.logged(folder)
        text, _ = run.communicate()
        if run.returncode:
            raise Survival(f"torchrun ended with {run.returncode}: {text[-500:]}")
        if disturbed:
            check_restart((folder / "log.txt").read_text(), logged)
        ends.append(torch.load(folder / "savedmodel.pt", weights_only=True))
    if not equal(ends[0]["weights"], ends[1]["weights"]):
        raise Survival("the final weights differ from those of two undisturbed processes")


def check_restart(log, logged):
    """Raises Survival if, according to its log, a killed run did not restart, or lost saved steps.

    logged  steps in its table when it was killed
    """
    starts = re.findall(r"^(starting a new run|continuing .* at step (\d+)):", log, re.MULTILINE)
    if len(starts) < 2:
        raise Survival("the run ended without a restart")
    if (lost := logged - int(starts[1][1] or 0)) > SAVE_INTERVAL:
        raise Survival(f"lost {lost} steps, with a checkpoint every {SAVE_INTERVAL} steps")


def image_damaged(campaign, chance):
    """An image becomes unreadable during the run, and is restored afterwards."""
    folder = campaign.folder()
    image = chance.choice(sorted(campaign.data.glob("*/image_*.png")))
    content = image.read_bytes()
    run = campaign.start(folder)
    campaign.wait(lambda: campaign.logged(folder) >= 2, run)
    image.write_bytes(b"no picture")
    try:
        text, _ = run.communicate()
        if run.returncode:
            raise Survival(f"it ended with {run.returncode}: {text[-500:]}")
        campaign.same(torch.load(folder / "savedmodel.pt", weights_only=True))
        again = campaign.start(folder, "--iterations=0")
        text, _ = again.communicate()
        if again.returncode != 2 or str(image) not in text:
            raise Survival(f"the restarted run did not name the image: {text[-500:]}")
    finally:
        image.write_bytes(content)


def not_finite(campaign, chance):
    """Three consecutive steps with a non-finite loss."""
    folder, first = campaign.folder(), chance.randint(1, STEPS - 4)
    command = [sys.executable, "-c", NAN_PROGRAM, ",".join(str(first + k) for k in range(3)), str(SCRIPT)]
    command += [f"--data_dir={campaign.data}", f"--log_dir={folder}", *FLAGS, "--max_bad_steps=3"]
    done = subprocess.run(command, env=campaign.environment, capture_output=True, text=True)
    if done.returncode != GAVE_UP or f"step {first + 3}: loss term" not in done.stderr:
        raise Survival(f"it ended with {done.returncode}: {done.stderr[-500:]}")
    campaign.survives(folder, "--max_bad_steps=3")


def asked_to_end(number):
    def fault(campaign, chance):
        folder = campaign.folder()
        run = campaign.start(folder)
        step = chance.randint(1, STEPS - 10)
        campaign.wait(lambda: campaign.logged(folder) >= step, run)
        run.send_signal(number)
        text, _ = run.communicate()
        if run.returncode or CheckpointFolder(str(folder)).newest().checkpoint.step != campaign.logged(folder):
            raise Survival(f"it ended with {run.returncode}: {text[-500:]}")
        campaign.survives(folder)

    return fault


FAULTS = {
    "killed at random moments": killed,
    "the disk is full": full_disk,
    "newest checkpoint cut off": damaged(truncate),
    "bits of the newest checkpoint flipped": damaged(flip_bits),
    "a process that reads cases killed": reader_killed,
    "one of two processes killed": process_killed,
    "an image becomes unreadable": image_damaged,
    "loss not finite": not_finite,
    "SIGTERM": asked_to_end(signal.SIGTERM),
    "SIGINT": asked_to_end(signal.SIGINT),
}


def run_campaign(config, report=print):
    """[{"fault", "tried", "survived", "failures"}]; the first fault is tried config.kills times, others a tenth."""
    rows, chance = [], random.Random(config.seed)
    with tempfile.TemporaryDirectory() as work:
        campaign = Campaign(work)
        for name, fault in FAULTS.items():
            tries, failures = config.kills if fault is killed else max(1, config.kills // 10), []
            for _ in range(tries):
                try:
                    fault(campaign, chance)
                except Survival as failure:
                    failures.append(str(failure))
            rows.append({"fault": name, "tried": tries, "survived": tries - len(failures), "failures": failures})
            report(f"| {name} | {tries} | {tries - len(failures)} |")
    return rows


def main():
    with command_line.one_line_errors("benchmarks/faults.py"):
        config = command_line.parse_command_line((FaultsConfig,), __doc__)[FaultsConfig]
        print("| fault | tried | survived |\n|---|---|---|")
        rows = run_campaign(config, lambda line: print(line, flush=True))
        write_json(config.out, {"machine": machine_name(), "rows": rows})
        failures = [f"{row['fault']}: {failure}" for row in rows for failure in row["failures"]]
        print("\n".join(failures))
        sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
