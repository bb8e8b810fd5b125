"""What a run says: lines to the console and to log.txt, metrics to progress.csv. An object, never a global."""

import csv
import os
import re

import torch
from tqdm import tqdm

QUARTILES = 4  # of the timesteps, in which losses are told apart


class NullLogger:
    """Says nothing: for every process but the first."""

    def info(self, text):
        pass

    def metrics(self, values):
        pass

    def progress(self, start, total, unit):
        """A progress bar; here one that is not shown."""
        return tqdm(initial=start, total=total, disable=True)

    def close(self):
        pass


class Logger(NullLogger):
    """
    Writes into `folder`, which is made if need be; a run that continues appends.

    columns     the columns of progress.csv, "step" first
    start_step  rows of progress.csv beyond this step, which a run left when it broke off, are dropped
    """

    def __init__(self, folder, columns, start_step=0):
        os.makedirs(folder, exist_ok=True)
        self.columns = columns
        self.text = open(os.path.join(folder, "log.txt"), "a", buffering=1, encoding="utf-8")
        path = os.path.join(folder, "progress.csv")
        rows = [row for row in read_rows(path) if int(row["step"]) <= start_step]
        self.table = open(path, "w", buffering=1, newline="", encoding="utf-8")
        self.writer = csv.DictWriter(self.table, columns, restval="", extrasaction="ignore")
        self.writer.writeheader()
        self.writer.writerows(rows)

    def info(self, text):
        tqdm.write(text)
        self.text.write(text + "\n")

    def metrics(self, values):
        """One row: {column: number}; a column without a number stays empty. The line leaves the quartiles to the table."""
        texts = {key: f"{value:.6g}" if isinstance(value, float) else str(value) for key, value in values.items()}
        self.writer.writerow(texts)
        self.info(", ".join(f"{key} {text}" for key, text in texts.items() if not re.search(r"_q\d$", key)))

    def progress(self, start, total, unit):
        return tqdm(initial=start, total=total, unit=unit, dynamic_ncols=True, mininterval=0.5)

    def close(self):
        self.text.close()
        self.table.close()


def read_rows(path):
    """The rows of a CSV file as dicts; none if there is no file."""
    if not os.path.exists(path):
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if row.get("step", "").isdigit()]


class LossMeter:
    """Means of loss terms between two lines of the log, overall and by quartile of t, without waiting for the device."""

    def __init__(self, num_timesteps, device):
        self.num_timesteps = num_timesteps
        self.weight = torch.zeros(QUARTILES, device=device)
        self.sums = {}

    def add(self, terms, t, weights):
        """Take in terms {name: [B]} at timesteps t [B] with their importance weights [B]."""
        quartile = t * QUARTILES // self.num_timesteps
        self.weight.index_add_(0, quartile, weights)
        for name, values in terms.items():
            total = self.sums.setdefault(name, torch.zeros_like(self.weight))
            total.index_add_(0, quartile, values.detach() * weights)

    def read(self, processes):
        """{name: mean, name_q0 .. name_q3: mean of the quartile, where any t fell into it}, and start afresh."""
        weight = processes.sum(self.weight).cpu()
        means = {}
        for name, total in self.sums.items():
            total = processes.sum(total).cpu()
            means[name] = float(total.sum() / weight.sum())
            for q in range(QUARTILES):
                if weight[q] > 0:
                    means[f"{name}_q{q}"] = float(total[q] / weight[q])
        self.weight.zero_()
        self.sums = {}
        return means
