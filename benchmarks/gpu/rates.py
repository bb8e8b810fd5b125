"""Peak rates of a card: nominal rates, and those measured in this run."""

import json
import os
import re

# (pattern of the card's name, dense TFLOP/s in bfloat16, in TF32 and in float32, memory in GB/s), from the vendor's
# data sheets
NOMINAL = (
    (r"H200", 989.4, 494.7, 66.9, 4800),
    (r"H100.*PCIe", 756.0, 378.0, 51.0, 2000),
    (r"H100.*HBM3", 989.4, 494.7, 66.9, 3350),
    (r"A100.*(80GB PCIe|PCIE-80GB)", 312.0, 156.0, 19.5, 1935),
    (r"A100.*80GB", 312.0, 156.0, 19.5, 2039),
    (r"A100", 312.0, 156.0, 19.5, 1555),
    (r"L40S", 362.0, 183.0, 91.6, 864),
    (r"RTX 4090", 165.2, 82.6, 82.6, 1008),
)
PRECISIONS = ("bf16", "tf32", "float32")


def nominal(card):
    """{"bf16", "tf32", "float32": TFLOP/s, "memory": GB/s} of a card by its name; values are None if unknown."""
    for pattern, *rates in NOMINAL:
        if re.search(pattern, card or ""):
            return dict(zip((*PRECISIONS, "memory"), rates, strict=True))
    return dict.fromkeys((*PRECISIONS, "memory"))


def lines(out):
    """{stage: its line} of stages.jsonl in the folder `out`."""
    path = os.path.join(out, "stages.jsonl")
    if not os.path.exists(path):
        return {}
    with open(path, encoding="utf-8") as file:
        return {line["stage"]: line for line in map(json.loads, file)}


def measured(figures):
    """{"bf16", "tf32", "float32": TFLOP/s, "memory": GB/s} from the results of the stage `ceilings`.

    Missing values are None.
    """
    products = {name: figures.get("products", {}).get(name, {}).get("tflops") for name in PRECISIONS}
    return {**products, "memory": figures.get("copy", {}).get("gb_per_second")}


def ceilings(out):
    """The result of `measured` for the run in the folder `out`."""
    return measured(lines(out).get("ceilings", {}).get("figures", {}))


def card(out):
    """The card's name, as the stage `versions` reported it."""
    return lines(out).get("versions", {}).get("figures", {}).get("card")


def share(rate, ceiling):
    """Rate / ceiling; None if the ceiling is unknown."""
    return rate / ceiling if ceiling else None


def compute_rate(flop, ms, precision, out, reached=None):
    """{"tflops", "share_of_product", "share_of_nominal"} of `flop` operations in `ms` milliseconds.

    reached  result of `measured`; None: that of the run in the folder `out`
    """
    tflops, reached = flop / ms / 1e9, reached or ceilings(out)
    return {
        "tflops": tflops,
        "share_of_product": share(tflops, reached[precision]),
        "share_of_nominal": share(tflops, nominal(card(out))[precision]),
    }
