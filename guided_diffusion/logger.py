"""What a run says: lines to the console and to log.txt, metrics to progress.csv. An object, never a global."""

import csv
import os
import re

from tqdm import tqdm


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
