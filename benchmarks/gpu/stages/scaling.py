"""Training on all visible cards compared with one, with NCCL and DDP."""

from .. import workers
from ..record import require
from ..timing import is_cuda

LIMIT = 1e-3  # relative error of a gradient in float32


def run(record, settings):
    cards = [f"cuda:{k}" for k in range(settings.gpus)] if is_cuda(settings.device) else ["cpu"] * 2
    backend = "nccl" if is_cuda(settings.device) else "gloo"
    record.add(
        processes=len(cards), backend=backend, batch_of_each=settings.sizes.train_batch, precision=settings.precision
    )
    with record.part("gradients") as add:
        found = workers.run_processes(workers.shared_gradients, settings, backend, cards, "gradients")
        error = max(report["gradient_error"] for report in found)
        add(gradient_error=error, limit=LIMIT)
        require(error < LIMIT, f"gradients of {len(cards)} processes differ by {error:.2e}")
    with record.part("rate") as add:
        one = workers.run_processes(workers.training_rate, settings, backend, cards[:1], "rate_one")[0]
        add(one=one)
        all_of_them = workers.run_processes(workers.training_rate, settings, backend, cards, "rate_all")[0]
        times = all_of_them["images_per_second"] / one["images_per_second"]
        add(all=all_of_them, times_one=times, efficiency=times / len(cards))
