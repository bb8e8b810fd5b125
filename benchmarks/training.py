"""Training speed in images per second: a plain loop like the published one, this project, its loader, two processes.

    python benchmarks/training.py --out benchmarks/results/training_cpu.json
    python benchmarks/training.py --batch_size 20 --amp bf16 --compile --out benchmarks/results/training_gpu.json

The network is that of the paper's README at 128x128. The plain loop is float32 and eager, recomputes attention in the
backward pass, has its encoders in float64, and updates and averages each weight separately. The two loops alternate;
times are medians over the rounds, and ratios are medians of the ratios within a round. Peak memory is measured in a
process with a single loop: tensors on a GPU, the whole process on a CPU. The loader reads from the cache of decoded
cases. Two processes with half the batch each are timed against one, from their logs.
"""

import contextlib
import csv
import multiprocessing
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Annotated

import torch
from machine import machine_name
from running import write_json
from sampling import flop_of_call, matrix_products, seconds
from torch.distributions import kl_divergence
from torch.utils.checkpoint import checkpoint

from guided_diffusion import script_util
from guided_diffusion.attention import AttentionBlock
from guided_diffusion.data.stream import EndlessSampler, collate, endless_batches
from guided_diffusion.dist_util import Processes
from guided_diffusion.flags import command_line
from guided_diffusion.flags.configs import configs_from_flags
from guided_diffusion.flags.fields import Flag, config
from guided_diffusion.lidcloader import LIDCDataset
from guided_diffusion.methods.registry import MODEL_CONFIGS, PRESETS
from guided_diffusion.prepare.phantoms import phantom
from guided_diffusion.system.device import ComputeConfig, peak_memory, reset_peak_memory
from guided_diffusion.train_util import Trainer
from guided_diffusion.training.config import TrainConfig

SCRIPT = pathlib.Path(__file__).resolve().parents[1] / "scripts" / "segmentation_train.py"
LOADED = 500  # cases that the loader reads


@config()
class BenchmarkConfig:
    batch_size: Annotated[int, Flag("masks per step")] = 2
    rounds: Annotated[int, Flag("rounds of measurement")] = 5
    steps: Annotated[int, Flag("timed steps per round")] = 2
    amp: Annotated[str, Flag("precision of this project's network: none or bf16")] = "none"
    compile: Annotated[bool, Flag("compile this project's network")] = False
    image_size: Annotated[
        int, Flag("side of the images, pixels; other values than 128 are for tests of this script")
    ] = 128
    num_channels: Annotated[int, Flag("U-Net channels; other values than 128 are for tests of this script")] = 128
    scaling: Annotated[bool, Flag("time two processes against one")] = True
    out: Annotated[str, Flag("JSON file for the results")] = ""


def flags_of(config):
    flags = {**PRESETS["cimd"], "image_size": config.image_size, "num_channels": config.num_channels}
    if config.image_size != 128:
        flags["channel_mult"] = (1, 1, 2, 3, 4)
    return {**flags, "batch_size": config.batch_size}


# -- the two loops: functions that make one step -----------------------------------------------------------------------


def attend_plainly(block, x):
    """Attention as two matrix products and a softmax."""
    B, C, H, W = x.shape
    flat = x.reshape(B, C, H * W)
    q, k, v = block.qkv(block.norm(flat)).reshape(B * block.num_heads, -1, H * W).chunk(3, dim=1)
    scale = q.shape[1] ** -0.25
    weight = torch.softmax(torch.einsum("bct,bcs->bts", q * scale, k * scale), dim=-1)
    h = torch.einsum("bts,bcs->bct", weight, v).reshape(B, C, H * W)
    return x + block.proj_out(h).reshape(B, C, H, W)


def plain_loop(config, device, dataset, folder):
    torch.manual_seed(0)
    segmenter = script_util.create_segmenter(configs_from_flags(flags_of(config), *MODEL_CONFIGS)).to(device)
    for block in segmenter.modules():
        if isinstance(block, AttentionBlock):
            block.forward = lambda x, block=block: checkpoint(attend_plainly, block, x, use_reentrant=False)
    segmenter.prior.double()
    segmenter.posterior.double()
    parameters, diffusion = list(segmenter.parameters()), segmenter.diffusion
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, weight_decay=0.0, foreach=False)
    averages = [p.detach().clone() for p in parameters]

    def step():
        batch = collate([dataset[k % len(dataset)] for k in range(config.batch_size)])
        image, mask = batch.image.contiguous().to(device), batch.raters[:, :1].to(device)
        t, noise = torch.randint(0, 1000, (len(mask),), device=device), torch.randn_like(mask)
        x_t = diffusion.q_sample(mask, t, noise)
        output = segmenter.model(torch.cat([image, x_t], dim=1), t)
        terms = diffusion.hybrid_loss(output, mask, x_t, t, noise)
        grey = image[:, :1].double()
        kl = kl_divergence(segmenter.posterior(grey, mask.double()), segmenter.prior(grey, output[:, :1].double()))
        (terms["loss"] + 1e-3 * kl).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            for average, p in zip(averages, parameters, strict=True):
                average.mul_(0.9999).add_(p, alpha=1e-4)

    return step


def our_loop(config, device, dataset, folder):
    torch.manual_seed(0)
    flags = {**flags_of(config), "log_dir": folder}
    segmenter = script_util.create_segmenter(configs_from_flags(flags, *MODEL_CONFIGS))
    (train,) = configs_from_flags(flags, TrainConfig)
    processes = Processes({})
    trainer = Trainer(segmenter, dataset, train, processes, flags, how=ComputeConfig(config.amp, config.compile))
    batches = endless_batches(dataset, trainer.sampler, 0, lambda: trainer.state.samples, print)

    def step():
        trainer.step(next(batches))
        trainer.reports.read()

    return step


LOOPS = {"plain loop": plain_loop, "this project": our_loop}


# -- measuring --------------------------------------------------------------------------------------------------------


BUILT = {}  # the step, in a process with a single loop


def build_loop(name, *arguments):
    """Build a loop in this process, which must have no other loop; returns the peak GB of two steps."""
    config, device, *_ = arguments
    BUILT["step"] = step = LOOPS[name](*arguments)
    reset_peak_memory(device)
    for _ in range(2):  # compiles, chooses kernels
        step()
    return peak_memory(device) / 1e9


def seconds_a_step(steps, device):
    """Time the loop that was built in this process."""
    return seconds(lambda: [BUILT["step"]() for _ in range(steps)], device) / steps


def time_loops(config, device, dataset, folder):
    """The results of both loops; each is built once in a separate process, and the two alternate."""
    product, product_flop = matrix_products(torch.bfloat16 if config.amp == "bf16" else torch.float32, device)
    flop = 3 * flop_of_call(config)  # the backward pass costs twice as much as the forward pass
    times, rates = {name: [] for name in LOOPS}, []
    with contextlib.ExitStack() as stack:
        spawn = multiprocessing.get_context("spawn")
        pools = {name: stack.enter_context(spawn.Pool(1)) for name in LOOPS}
        memory = {name: pool.apply(build_loop, (name, config, device, dataset, folder)) for name, pool in pools.items()}
        for _ in range(config.rounds):
            rates.append(product_flop / seconds(product, device))
            for name, pool in pools.items():
                times[name].append(pool.apply(seconds_a_step, (config.steps, device)))
    rate = statistics.median(rates)
    rows = []
    for name, own_times in times.items():
        images = config.batch_size / statistics.median(own_times)
        rows.append(
            {
                "name": name,
                "images_per_second": images,
                "seconds_per_image": 1 / images,
                "tflops": flop * images / 1e12,
                "share_of_matrix_products": flop * images / rate,
                "peak_memory_gb": memory[name],
                "times_plain": statistics.median(
                    plain / own for plain, own in zip(times["plain loop"], own_times, strict=True)
                ),
                "seconds": own_times,
            }
        )
    return {"gflop_per_image": flop / 1e9, "matrix_product_tflops": rate / 1e12, "rows": rows}


def time_loader(folder):
    """Cases per second of the loader in this process: 128x128, 4 raters, from the cache, in shuffled batches of 20."""
    data = os.path.join(folder, "loaded")
    phantom.write_set(data, num_cases=LOADED, seed=2, size=128, num_raters=4)
    dataset = LIDCDataset(data, 128, 4, cache_dir=os.path.join(folder, "cache"))
    rates = []
    for start in range(5):
        sampler, begun, count = EndlessSampler(len(dataset), 20, seed=start), time.perf_counter(), 0
        for indices in sampler:
            collate([dataset[index] for index in indices])
            count += len(indices)
            if count >= 4 * LOADED:
                break
        rates.append(count / (time.perf_counter() - begun))
    return statistics.median(rates)


def time_processes(config, folder, data):
    """{processes: images per second} of one process with the whole batch and of two with half of it each."""
    rates = {1: [], 2: []}
    for turn in range(3):
        for processes in rates:
            out = os.path.join(folder, f"scaling{processes}-{turn}")
            command = [
                sys.executable,
                "-m",
                "torch.distributed.run",
                "--standalone",
                f"--nproc_per_node={processes}",
                str(SCRIPT),
                "--preset=cimd",
                f"--data_dir={data}",
                f"--log_dir={out}",
                f"--image_size={config.image_size}",
                f"--num_channels={config.num_channels}",
                "--channel_mult=1,1,2,3,4",
                f"--batch_size={max(2, config.batch_size) // processes}",
                "--iterations=6",
                "--log_interval=2",
                "--save_interval=1000",
                f"--cache_dir={folder}/cache",
            ]
            subprocess.run(command, check=True, capture_output=True)
            with open(os.path.join(out, "progress.csv"), encoding="utf-8") as file:
                rates[processes] += [float(row["samples_per_second"]) for row in csv.DictReader(file)][1:]
            os.unlink(os.path.join(out, "savedmodel.pt"))
            os.unlink(os.path.join(out, "savedmodel000006.pt"))
    return {processes: statistics.median(measured) for processes, measured in rates.items()}


def why_not_scaled(config, device):
    """The reason why two processes cannot be timed against one, or None."""
    if not config.scaling:
        return "--scaling False"
    if device.type == "cuda" and torch.cuda.device_count() < 2:
        return "this machine has one GPU, and each process needs its own"
    return None


def print_tables(result):
    """The results as tables."""
    products = f"matrix products {result['matrix_product_tflops']:.3f} TFLOP/s"
    print(f"{result['machine']}; {result['gflop_per_image']:.0f} GFLOP per image; {products}")
    print("| | images/s | s per image | TFLOP/s | share of matrix products | peak GB | times plain loop |")
    print("|---|---|---|---|---|---|---|")
    for row in result["rows"]:
        print(
            f"| {row['name']} | {row['images_per_second']:.3f} | {row['seconds_per_image']:.2f} | "
            f"{row['tflops']:.3f} | {100 * row['share_of_matrix_products']:.0f} % | "
            f"{row['peak_memory_gb']:.1f} | {row['times_plain']:.2f} |"
        )
    print(f"loader: {result['loader_cases_per_second']:.0f} cases per second")


def main():
    with command_line.one_line_errors("benchmarks/training.py"):
        config = command_line.parse_command_line((BenchmarkConfig,), __doc__)[BenchmarkConfig]
        device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
        with tempfile.TemporaryDirectory() as folder:
            data = os.path.join(folder, "data")
            phantom.write_set(data, num_cases=max(8, config.batch_size), seed=1, size=config.image_size, num_raters=4)
            dataset = LIDCDataset(data, config.image_size, 4, cache_dir=os.path.join(folder, "cache"))
            result = {"machine": machine_name(device), **{k: v for k, v in vars(config).items() if k != "out"}}
            result |= time_loops(config, device, dataset, os.path.join(folder, "log"))
            result["loader_cases_per_second"] = time_loader(folder)
            print_tables(result)
            write_json(config.out, result)  # already here, because the next part takes long
            if reason := why_not_scaled(config, device):
                result["not_scaled"] = reason
                print(f"two processes are not timed: {reason}")
            else:
                result["images_per_second_by_processes"] = time_processes(config, folder, data)
        for processes, rate in result.get("images_per_second_by_processes", {}).items():
            print(f"{processes} processes: {rate:.3f} images per second")
        write_json(config.out, result)


if __name__ == "__main__":
    main()
