"""Peak rates of the card: large matrix products, a memory copy, and the U-Net's main convolutions."""

import torch
import torch.nn.functional as F

from guided_diffusion.system.device import allow_tf32

from .. import rates
from ..timing import free_cache, median_ms, sets_beyond_cache

PRODUCTS = {"bf16": torch.bfloat16, "tf32": torch.float32, "float32": torch.float32}
# (side of the image, channels in, channels out)
CONVOLUTIONS = ((128, 128, 128), (128, 256, 128), (64, 256, 128), (32, 512, 256), (128, 5, 128), (128, 128, 2))


def measure_product(add, name, settings):
    side = settings.sizes.product
    allow_tf32(name == "tf32")
    sets = sets_beyond_cache(
        lambda: tuple(torch.randn(side, side, device=settings.device, dtype=PRODUCTS[name]) for _ in range(2)),
        settings.device,
    )
    ms = median_ms(torch.matmul, settings.device, settings.sizes.repeats, sets)
    tflops = 2 * side**3 / ms / 1e9
    add(
        **{
            name: {
                "side": side,
                "ms": ms,
                "tflops": tflops,
                "share_of_nominal": rates.share(tflops, rates.nominal(rates.card(settings.out))[name]),
            }
        }
    )


def measure_copy(add, settings):
    source = torch.randn(settings.sizes.copied // 4, device=settings.device)
    target = torch.empty_like(source)
    ms = median_ms(lambda: target.copy_(source), settings.device, settings.sizes.repeats)
    gb = 2 * source.nbytes / 1e6 / ms  # read and written
    add(ms=ms, gb_per_second=gb, share_of_nominal=rates.share(gb, rates.nominal(rates.card(settings.out))["memory"]))


def measure_convolution(side, channels, settings, precision, reached):
    """{"ms", "tflops", "gb_per_second", shares} of a 3x3 convolution in channels-last layout."""
    c_in, c_out = (c if c < 8 else max(1, c // settings.sizes.shrink) for c in channels)
    side = max(4, side // settings.sizes.shrink)
    dtype = PRODUCTS[precision]
    count, device = settings.sizes.conv_batch, settings.device
    weight = torch.randn(c_out, c_in, 3, 3, device=device, dtype=dtype).to(memory_format=torch.channels_last)

    def make():
        x = torch.randn(count, c_in, side, side, device=device, dtype=dtype)
        return (x.to(memory_format=torch.channels_last),)

    sets = sets_beyond_cache(make, device)
    ms = median_ms(lambda x: F.conv2d(x, weight, padding=1), device, settings.sizes.repeats, sets)
    flop, moved = 2 * 9 * c_in * c_out * count * side**2, sets[0][0].nbytes * (1 + c_out / c_in)
    gb = moved / 1e6 / ms  # input and output once each
    rate = rates.compute_rate(flop, ms, precision, settings.out, reached)
    return {"ms": ms, **rate, "gb_per_second": gb, "share_of_copy": rates.share(gb, reached["memory"])}


def run(record, settings):
    torch.manual_seed(0)
    with record.part("products") as add:
        for name in PRODUCTS:
            measure_product(add, name, settings)
            free_cache(settings.device)
    with record.part("copy") as add:
        measure_copy(add, settings)
        free_cache(settings.device)
    for precision in ("bf16", "tf32"):
        allow_tf32(precision == "tf32")
        for benchmark in (False, True):
            torch.backends.cudnn.benchmark = benchmark
            with record.part(f"convolutions_{precision}_cudnn_benchmark_{'on' if benchmark else 'off'}") as add:
                for side, *channels in CONVOLUTIONS:
                    report = measure_convolution(side, channels, settings, precision, rates.measured(record.figures))
                    add(**{f"{side}x{side} {channels[0]}->{channels[1]}": report})
                free_cache(settings.device)
