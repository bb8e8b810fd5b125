"""The training loop: results do not depend on how a run is split; log output; resuming."""

import gc
import itertools
import math
import shutil
import weakref
from dataclasses import replace

import pytest
import torch
from helpers import LEAST, as_arguments, assert_refused, call_script, nonzero, segmenter_of
from small_runs import learnt, rows_of, same

from guided_diffusion import script_util
from guided_diffusion.checkpoints.folder import CheckpointFolder
from guided_diffusion.checkpoints.load import load_checkpoint
from guided_diffusion.data.stream import endless_batches
from guided_diffusion.dist_util import Processes
from guided_diffusion.errors import CheckpointError, ConfigError
from guided_diffusion.logger import LossMeter
from guided_diffusion.train_util import Trainer
from guided_diffusion.training.config import TrainConfig
from guided_diffusion.training.ema import EMA
from guided_diffusion.training.run_state import RunState
from guided_diffusion.training.start import Start, check_start, find_start, load_start


@pytest.mark.parametrize(
    "flags",
    [
        {},
        {"schedule_sampler": "loss-second-moment", "diffusion_steps": 2},
        {"num_workers": 1},
        {"use_fp16": True},
        {
            "raters_per_image": 2,
            "stable_target": True,
            "augment": "flip+rotate",
            "ema_rate": (0.99, 0.9),
            "architecture": "shared-encoder",
            "denoiser_mult": "1",
        },
        {"method": "prob-unet"},
        {"method": "ssn"},
        {"method": "mc-dropout"},
    ],
)
def test_stopped_and_resumed_is_straight_bit_for_bit(train, flags):
    straight = train("straight", **flags)
    train("parts", iterations=3, **flags)
    resumed = train("parts", log_interval=1, save_interval=2, **flags)
    assert straight.state.steps_done == resumed.state.steps_done == 6
    assert same(learnt(straight), learnt(resumed))
    other = train("other", **{**flags, "seed": 4})
    assert not same(learnt(straight)["weights"], learnt(other)["weights"])


def test_microbatches_are_all_used_and_averaged(train):
    whole, parts = train("whole", dropout=0.0, iterations=1), train("parts", dropout=0.0, iterations=1, microbatch=3)
    assert_same_step(whole, parts)


@pytest.mark.parametrize("architecture", ["unet", "shared-encoder"])
def test_microbatches_keep_the_raters_of_an_image_together(train, architecture):
    flags = {
        "dropout": 0.0,
        "iterations": 1,
        "raters_per_image": 2,
        "stable_target": True,
        "architecture": architecture,
        "denoiser_mult": "1",
    }
    whole, parts = train("whole", **flags), train("parts", **flags, microbatch=2)
    assert_same_step(whole, parts)
    with pytest.raises(ConfigError, match="--microbatch 3: must be a multiple of --raters_per_image 2"):
        train("odd", **flags, microbatch=3)


def assert_same_step(whole, parts):
    assert float(whole.grad_norm) == pytest.approx(float(parts.grad_norm), rel=1e-4)
    for a, b in zip(whole.state.optimizer.state.values(), parts.state.optimizer.state.values(), strict=True):
        assert a["exp_avg"].any()
        torch.testing.assert_close(a["exp_avg"], b["exp_avg"], rtol=1e-3, atol=1e-6)


def test_one_optimizer_has_every_trained_parameter_and_one_step_moves_them(train):
    for trained in (True, False):
        trainer = train(f"encoders-{trained}", train_encoders=trained, kl_weight=1.0)
        torch.manual_seed(0)
        fresh = nonzero(segmenter_of(LEAST)).state_dict()
        moved = {
            name for name, value in trainer.state.segmenter.state_dict().items() if not torch.equal(value, fresh[name])
        }
        assert all(name in moved for name in fresh if name.startswith("model."))
        assert all((name in moved) == trained for name in fresh if not name.startswith("model."))
        assert all(state["step"] == 6 for state in trainer.state.optimizer.state.values())  # one step per batch


def test_a_run_may_start_from_another_and_leave_its_encoders_as_they_are(train, tmp_path):
    first = train("first")
    second = train(
        "second", train_encoders=False, resume_checkpoint=str(tmp_path / "first" / "savedmodel.pt"), iterations=8
    )
    third = train(
        "third", train_encoders=True, resume_checkpoint=str(tmp_path / "second" / "savedmodel.pt"), iterations=10
    )
    weights = [dict(trainer.state.segmenter.named_parameters()) for trainer in (first, second, third)]
    for name in weights[0]:
        alike = [torch.equal(a[name], b[name]) for a, b in itertools.pairwise(weights)]
        assert alike == [not name.startswith("model."), False], name
    steps = {int(state["step"]) for state in second.state.optimizer.state.values()}
    assert steps == {8} and len(second.state.optimizer.state) == sum(name.startswith("model.") for name in weights[0])


def test_learning_rate_is_annealed_to_zero_and_ends_there(train):
    trainer = train("anneal", iterations=60_000, lr_anneal_steps=4)
    assert trainer.state.steps_done == 4
    rows = rows_of(trainer.config.log_dir)
    assert [float(row["lr"]) for row in rows] == pytest.approx([0.75e-3, 0.25e-3])


def test_learning_rate_may_warm_up_and_fall_as_a_cosine():
    config = TrainConfig(lr=1.0, lr_anneal_steps=100, lr_shape="cosine", lr_warmup_steps=10)
    assert config.learning_rate(0) == pytest.approx(0.1)
    assert config.learning_rate(4) == pytest.approx(0.5 * (1 + math.cos(math.pi * 0.04)) / 2)
    assert config.learning_rate(50) == pytest.approx(0.5)
    assert config.learning_rate(100) == 0
    assert TrainConfig(lr=1.0, lr_warmup_steps=4).learning_rate(9) == 1


def test_ema_warms_up_and_is_saved(train):
    module = torch.nn.Linear(1, 1, bias=False)
    ema = EMA(module, {"0.9999": 0.9999})
    with torch.no_grad():
        average = module.weight.item()
        for step in range(20):
            module.weight.fill_(step)
            ema.update(step)
            rate = min(0.9999, (1 + step) / (10 + step))
            average = rate * average + (1 - rate) * step
    assert ema.weights["0.9999"]["weight"].item() == pytest.approx(average, rel=1e-5)

    trainer = train("ema", ema_rate="0.5,0.9999")
    stored = torch.load(f"{trainer.config.log_dir}/savedmodel.pt", weights_only=True)
    assert list(stored["ema"]) == ["0.5", "0.9999"] and stored["ema"]["0.5"].keys() == stored["weights"].keys()


def test_log_and_progress(train, tmp_path):
    train("log", iterations=4)
    train("log", iterations=7)
    rows = rows_of(tmp_path / "log")
    assert [int(row["step"]) for row in rows] == [2, 4, 6, 7]
    assert [int(row["samples"]) for row in rows] == [8, 16, 24, 28]
    for row in rows:
        assert float(row["loss"]) == pytest.approx(sum(float(row[k]) for k in ("mse", "vb", "kl")), rel=1e-4)
        assert float(row["samples_per_second"]) > 0 and float(row["grad_norm"]) > 0
        assert any(row[f"loss_q{q}"] for q in range(4))
    log = (tmp_path / "log" / "log.txt").read_text()
    assert "starting a new run: 6 cases" in log and "continuing" in log and "step 7" in log


def test_rows_beyond_the_checkpoint_are_dropped_when_a_broken_run_continues(train, tmp_path):
    train("broken", iterations=6, save_interval=4)
    (tmp_path / "broken" / "savedmodel000006.pt").unlink()
    train("broken", iterations=6, save_interval=4)
    rows = rows_of(tmp_path / "broken")
    assert [int(row["step"]) for row in rows] == [2, 4, 6]


def test_quartiles_hold_the_losses_of_their_timesteps(train):
    meter = LossMeter(40, "cpu")
    t = torch.tensor([0, 9, 10, 35])
    meter.add({"loss": torch.tensor([1.0, 3.0, 5.0, 7.0])}, t, torch.tensor([1.0, 3.0, 1.0, 1.0]))
    means = meter.read(Processes({}))
    assert means == {"loss": pytest.approx((1 + 9 + 5 + 7) / 6), "loss_q0": 2.5, "loss_q1": 5.0, "loss_q3": 7.0}
    assert meter.weight.sum() == 0


def test_other_flags_than_the_folders_are_named(train):
    train("flags")
    with pytest.raises(CheckpointError, match=r"--lr 0.001, not 0.002.*--log_dir"):
        train("flags", lr=2e-3)
    with pytest.raises(CheckpointError, match="--num_channels 32, not 64"):
        train("flags", num_channels=64)
    with pytest.raises(CheckpointError, match="empty folder"):
        train("flags", resume="never")


def test_a_run_from_before_a_flag_has_its_default(cases, tmp_path):
    def run(*more):
        return call_script(
            "segmentation_train",
            f"--data_dir={cases}",
            f"--log_dir={tmp_path}",
            "--batch_size=2",
            *more,
            *as_arguments(LEAST),
        )

    done = run("--iterations=1")
    assert done.returncode == 0, done.stderr
    path = tmp_path / "savedmodel000001.pt"
    state = torch.load(path, weights_only=False)
    del state["flags"]["weight_decay"]
    torch.save(state, path)
    (tmp_path / "manifest.json").unlink()
    assert run("--iterations=2").returncode == 0
    assert_refused(run("--iterations=3", "--weight_decay=0.1"), "--weight_decay 0, not 0.1")


def test_resume_checkpoint_starts_a_new_run_with_other_training_flags_but_not_another_model(train, tmp_path):
    first = train("first")
    path = str(tmp_path / "first" / "savedmodel.pt")
    second = train("second", resume_checkpoint=path, lr=1e-4, iterations=7)
    assert second.state.steps_done == 7 and second.state.samples == first.state.samples + 4
    with pytest.raises(CheckpointError, match="--num_channels 32, not 64"):
        train("third", resume_checkpoint=path, num_channels=64)
    with pytest.raises(CheckpointError, match="did not start from --resume_checkpoint"):
        train("first", resume_checkpoint=path)
    fourth = train(
        "fourth", resume_checkpoint=path, weight_decay=0.3, schedule_sampler="loss-second-moment", iterations=7
    )
    assert (
        fourth.state.optimizer.param_groups[0]["weight_decay"] == 0.3
        and fourth.state.schedule_sampler.counts.sum() == 4
    )
    again = train("second", resume_checkpoint=path, lr=1e-4, iterations=8)  # the same command continues
    assert again.state.steps_done == 8


def test_a_start_is_checked_without_a_change_to_the_segmenter(train, tmp_path):
    train("run", iterations=1)
    segmenter = nonzero(segmenter_of(LEAST))
    before = {name: value.clone() for name, value in segmenter.state_dict().items()}
    stored = load_checkpoint(tmp_path / "run" / "savedmodel.pt")
    start = Start(stored, "savedmodel.pt")
    check_start(segmenter, start)
    assert same(before, dict(segmenter.state_dict()))
    load_start(segmenter, start)
    assert same(stored.weights, dict(segmenter.state_dict()))
    average = next(iter(stored.ema.values()))
    for change in (
        {"ema": {"0.9999": {**average, "model.out.2.bias": torch.zeros(3)}}},
        {"weights": {name: value for name, value in stored.weights.items() if name != "model.out.2.bias"}},
    ):
        with pytest.raises(CheckpointError, match=r"savedmodel.pt: .*model.out.2.bias.*--learn_sigma"):
            check_start(segmenter, Start(replace(stored, **change), "savedmodel.pt"))
    with pytest.raises(CheckpointError, match="lacks optimizer, scaler.*, needed to resume"):
        check_start(segmenter, Start(replace(stored, optimizer=None, scaler=None), "savedmodel.pt"))


def test_published_files_that_do_not_fit_are_refused(train, tmp_path):
    model, other = (script_util.create_model_and_diffusion(**{**LEAST, "num_channels": n})[0] for n in (32, 64))
    path = tmp_path / "savedmodel000100.pt"
    torch.save(model.state_dict(), path)
    torch.save(other.state_dict(), tmp_path / "emasavedmodel_0.9999_000100.pt")
    with pytest.raises(CheckpointError, match="does not fit"):
        train("ema", resume_checkpoint=str(path))
    torch.save([1], tmp_path / "emasavedmodel_0.9999_000100.pt")
    with pytest.raises(CheckpointError, match="emasavedmodel_0.9999_000100.pt: not a moving average"):
        train("ema", resume_checkpoint=str(path))
    (tmp_path / "emasavedmodel_0.9999_000100.pt").unlink()
    for bad in (
        {"lr": 1},
        torch.optim.AdamW(other.parameters()).state_dict() | {"state": {0: {"exp_avg": torch.zeros(1)}}},
    ):
        torch.save(bad, tmp_path / "optsavedmodel000100.pt")
        with pytest.raises(CheckpointError, match="optimizer state does not fit"):
            train("optimizer", resume_checkpoint=str(path))


def test_resumes_from_the_published_files(train, tmp_path):
    """A bare U-Net with its average and optimizer files, as written by the published code."""
    torch.manual_seed(7)
    model, average = (script_util.create_model_and_diffusion(**LEAST)[0] for _ in range(2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    for p in model.parameters():
        p.grad = torch.randn(p.shape)
    optimizer.step()
    torch.save({f"module.{k}": v for k, v in model.state_dict().items()}, tmp_path / "savedmodel000100.pt")
    torch.save(average.state_dict(), tmp_path / "emasavedmodel_0.9999_000100.pt")
    torch.save(optimizer.state_dict(), tmp_path / "optsavedmodel000100.pt")

    trainer = train("published", resume_checkpoint=str(tmp_path / "savedmodel000100.pt"), iterations=100)
    assert trainer.state.steps_done == 100  # nothing to do, so that what was loaded can be looked at
    for name, value in model.state_dict().items():
        assert torch.equal(trainer.state.segmenter.state_dict()[f"model.{name}"], value)
        assert torch.equal(trainer.state.ema.weights["0.9999"][f"model.{name}"], average.state_dict()[name])
    for ours, theirs in zip(trainer.state.segmenter.model.parameters(), model.parameters(), strict=True):
        assert torch.equal(trainer.state.optimizer.state[ours]["exp_avg"], optimizer.state[theirs]["exp_avg"])
    assert (
        train("published", resume_checkpoint=str(tmp_path / "savedmodel000100.pt"), iterations=102).state.steps_done
        == 102
    )


def test_a_process_that_writes_nothing_copies_nothing(train, tmp_path, monkeypatch):
    trainer = train("run", iterations=2)
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "run").glob("*.pt")}
    trainer.processes.rank = 1
    monkeypatch.setattr(RunState, "checkpoint", lambda self, *a, **more: pytest.fail("a state that nobody writes"))
    trainer.save()
    trainer.write(trainer.folder.save_best)
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "run").glob("*.pt")} == before


def test_with_shards_every_process_joins_in_a_checkpoint_and_only_the_first_keeps_it(train, tmp_path):
    trainer = train("run", iterations=2)
    trainer.config, written = replace(trainer.config, shard=True), []
    trainer.processes.rank = 1
    assert trainer.write(written.append) is None and not written
    checkpoint = trainer.state.checkpoint(trainer.info, keep=False)
    assert checkpoint.step == 2 and set(checkpoint.weights.values()) == {None}
    trainer.processes.rank = 0
    trainer.write(written.append)
    assert all(
        torch.equal(a, b)
        for a, b in zip(written[0].weights.values(), trainer.state.segmenter.state_dict().values(), strict=True)
    )


# -- what makes it fast, and what it writes ---------------------------------------------------------------------------


def test_augmentation_is_drawn_from_the_seed_and_changes_what_is_learnt(train, tmp_path):
    plain, turned, again = train("plain"), train("turned", augment="flip+rotate"), train("again", augment="flip+rotate")
    assert same(learnt(turned), learnt(again)) and not same(learnt(plain)["weights"], learnt(turned)["weights"])
    train("parts", augment="flip+rotate", iterations=3)
    assert same(learnt(turned), learnt(train("parts", augment="flip+rotate")))


def test_bfloat16_trains_close_to_float32(cases, tmp_path, processor):
    processor()
    rows = []
    for amp in ("none", "bf16"):
        done = call_script(
            "segmentation_train",
            f"--data_dir={cases}",
            f"--log_dir={tmp_path / amp}",
            "--iterations=8",
            "--log_interval=8",
            "--batch_size=4",
            f"--amp={amp}",
            *as_arguments(LEAST),
        )
        assert done.returncode == 0, done.stderr
        rows.append(rows_of(tmp_path / amp)[0])
    exact, rough = rows
    for name in ("loss", "mse", "vb"):
        assert float(rough[name]) == pytest.approx(float(exact[name]), rel=0.02)
    assert rough["grad_norm"] != exact["grad_norm"]  # the loss itself is mostly the encoders', which stay in float32


@pytest.mark.parametrize(
    "backend", ["aot_eager", pytest.param("inductor", marks=[pytest.mark.slow, pytest.mark.nightly])]
)
@pytest.mark.usefixtures("unchecked")
def test_a_compiled_network_trains_the_same(cases, tmp_path, monkeypatch, backend):
    """As traced, with its backward pass; and nightly, as the C++ compiler makes it."""
    compiled, compile_module = [], torch.nn.Module.compile

    def compile_with(self, **how):
        compiled.append(self)
        compile_module(self, **{**how, "backend": backend})

    monkeypatch.setattr(torch.nn.Module, "compile", compile_with)
    torch.compiler.reset()
    losses = []
    for name, flags in (("eager", []), ("compiled", ["--compile"])):
        done = call_script(
            "segmentation_train",
            f"--data_dir={cases}",
            f"--log_dir={tmp_path / name}",
            "--iterations=4",
            "--log_interval=1",
            "--batch_size=4",
            *flags,
            *as_arguments(LEAST),
        )
        assert done.returncode == 0, done.stderr
        losses.append([float(row["loss"]) for row in rows_of(tmp_path / name)])
        assert len(compiled) == len(flags)
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_tensorboard_has_the_numbers_of_progress_csv(train, tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    train("run", tensorboard=True, iterations=4)
    train("run", tensorboard=True)
    events = accumulator.EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    rows = rows_of(tmp_path / "run")
    for column in ("loss", "grad_norm", "samples_per_second"):
        logged = [(event.step, event.value) for event in events.Scalars(column)]
        assert logged == [(int(row["step"]), pytest.approx(float(row[column]), rel=1e-5)) for row in rows]


def test_changed_cases_are_reported(cases, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(cases, data)
    for iterations in (2, 4):
        done = call_script(
            "segmentation_train",
            f"--data_dir={data}",
            f"--log_dir={tmp_path / 'log'}",
            f"--iterations={iterations}",
            "--batch_size=2",
            *as_arguments(LEAST),
        )
        assert done.returncode == 0, done.stderr
        assert ("have changed since the run started" in done.stdout) == (iterations == 4)
        shutil.rmtree(data / "phantom0003", ignore_errors=True)


def test_a_resumed_run_does_not_hold_the_checkpoint_in_memory(cases, tmp_path, monkeypatch):
    held, find = [], find_start

    def finding(*arguments):
        start = find(*arguments)
        parts = []
        if stored := start.checkpoint:
            parts = [stored.weights, *stored.ema.values(), *stored.optimizer["state"].values()]
        held.extend(weakref.ref(x) for part in parts for x in part.values() if x.numel() > 1)
        return start

    def look(self):
        gc.collect()
        assert not [reference for reference in held if reference() is not None]
        run(self)

    monkeypatch.setattr("guided_diffusion.commands.train.find_start", finding)
    run = Trainer.run
    for iterations in (1, 2):
        monkeypatch.setattr(Trainer, "run", look if iterations == 2 else run)
        done = call_script(
            "segmentation_train",
            f"--data_dir={cases}",
            f"--log_dir={tmp_path}",
            f"--iterations={iterations}",
            *as_arguments(LEAST),
        )
        assert done.returncode == 0, done.stderr
    assert len(held) > 100


def test_data_that_moved_may_be_gone_on_with_and_other_data_are_refused(cases, tmp_path):
    def run(data, iterations):
        return call_script(
            "segmentation_train",
            f"--data_dir={tmp_path / data}",
            f"--log_dir={tmp_path / 'log'}/",
            f"--iterations={iterations}",
            "--batch_size=2",
            *as_arguments(LEAST),
        )

    shutil.copytree(cases, tmp_path / "old")
    assert run("old", 1).returncode == 0
    (tmp_path / "old").rename(tmp_path / "new")
    moved = run("new", 2)
    assert moved.returncode == 0 and "continuing" in moved.stdout and "bit-identical" not in moved.stdout, moved.stderr
    shutil.copytree(cases, tmp_path / "other")
    shutil.rmtree(tmp_path / "other" / "phantom0003")
    assert_refused(run("other", 3), "--data_dir ../new, not ../other", "the cases differ")


@pytest.mark.parametrize("dropout, words", [(0.0, "only rounding differs"), (0.1, "the same except for dropout")])
def test_a_step_of_as_many_masks_may_be_shared_by_other_processes(train, tmp_path, dropout, words):
    """One process with 4 masks resumes the run of two processes with 2 masks each; here the result is bit-identical."""
    straight = train("straight", iterations=2, dropout=dropout)
    train("parts", iterations=1, dropout=dropout)
    stored = load_checkpoint(str(tmp_path / "parts" / "savedmodel.pt"))
    of_two = replace(stored, processes=2, flags={**stored.flags, "batch_size": 2})
    CheckpointFolder(str(tmp_path / "parts")).save(of_two)
    with pytest.raises(CheckpointError, match="--batch_size 2, not 3"):
        train("parts", iterations=2, dropout=dropout, batch_size=3)
    assert same(learnt(straight), learnt(train("parts", iterations=2, dropout=dropout)))
    lines = [line for line in (tmp_path / "parts" / "log.txt").read_text().splitlines() if "bit-identical" in line]
    assert len(lines) == 1 and lines[0].startswith("the run had 2 processes and now has 1: ") and words in lines[0]


def test_every_trained_part_must_get_a_gradient(train):
    trainer = train("run", iterations=1)
    trainer.state.segmenter.posterior.forward = lambda image, mask: trainer.state.segmenter.prior(image, mask)
    trainer.config = replace(trainer.config, iterations=2)
    with pytest.raises(AssertionError, match="did not contribute to the loss"):
        trainer.step(
            next(iter(endless_batches(trainer.dataset, trainer.sampler, 0, lambda: trainer.state.samples, print)))
        )


def test_flags_that_save_memory_may_change_when_a_run_resumes(train, tmp_path):
    train("run", iterations=2)
    train("run", iterations=4, microbatch=2)
    assert (
        "made with --microbatch None, not 2: the result will not be bit-identical"
        in (tmp_path / "run" / "log.txt").read_text()
    )
    assert train("run", iterations=5, use_fp16=True).state.steps_done == 5  # with a new loss scale
    path = str(tmp_path / "run" / "savedmodel.pt")
    tuned = train("tuned", iterations=6, resume_checkpoint=path, dropout=0.0, kl_weight=0.1)
    assert tuned.state.steps_done == 6 and "bit-identical" not in (tmp_path / "tuned" / "log.txt").read_text()
