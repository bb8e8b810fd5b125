"""Rules on combinations of flags; the range of a single flag is part of its field.

A rule is a function whose parameters are flag names. It returns the reason why their values conflict, or None. The
parameter `given` is the set of flags that the user passed, without those of a preset.
"""

import inspect
import os
from collections.abc import Callable

from ..errors import ConfigError
from .configs import Configs
from .presets import FAST
from .sizes import Size
from .words import turned

Complaint = str | None
RULES: list[Callable[..., Complaint]] = []


def rule(function: Callable[..., Complaint]) -> Callable[..., Complaint]:
    """Register a rule; it applies to every command that has all of its flags."""
    RULES.append(function)
    return function


def check_rules(configs: Configs) -> None:
    """ConfigError: flags of the configs conflict."""
    known = {**configs.values, "given": set(configs.given)}
    for function in RULES:
        names = inspect.signature(function).parameters
        if known.keys() >= names.keys() and (complaint := function(**{name: known[name] for name in names})):
            raise ConfigError(complaint)


def one_of(*flags: str) -> str:
    """The complaint about mutually exclusive flags."""
    return f"{' and '.join(f'--{flag}' for flag in flags)} contradict each other: use only one of them"


# -- the diffusion ----------------------------------------------------------------------------------------------------


@rule
def prediction_is_set_once(predict_xstart: bool, prediction: str | None) -> Complaint:
    if predict_xstart and prediction not in (None, "x0"):
        return one_of("predict_xstart True", f"prediction {prediction}")
    return None


@rule
def kl_has_no_stable_target(use_kl: bool, stable_target: bool) -> Complaint:
    if use_kl and stable_target:
        return "--use_kl does not support --stable_target, because L_vb has no target: add --stable_target False"
    return None


@rule
def kl_is_not_rescaled(use_kl: bool, rescale_learned_sigmas: bool) -> Complaint:
    if use_kl and rescale_learned_sigmas:
        return one_of("use_kl", "rescale_learned_sigmas")
    return None


@rule
def only_learned_variances_are_rescaled(rescale_learned_sigmas: bool, learn_sigma: bool) -> Complaint:
    if rescale_learned_sigmas and not learn_sigma:
        return "--rescale_learned_sigmas True needs --learn_sigma True: there is no learned variance to weight"
    return None


@rule
def cases_have_no_classes(class_cond: bool) -> Complaint:
    if class_cond:
        return "--class_cond True is not supported, because cases have no class labels; use --class_cond False"
    return None


@rule
def heads_are_counted_once(num_head_channels: int | None, num_heads_upsample: int | None) -> Complaint:
    if num_head_channels and num_heads_upsample:
        return one_of("num_head_channels", "num_heads_upsample")
    return None


@rule
def guesses_are_masks(
    architecture: str, encoder_guesses: int, prediction: str | None, predict_xstart: bool
) -> Complaint:
    if architecture == "shared-encoder" and encoder_guesses > 1 and not (prediction == "x0" or predict_xstart):
        return (
            f"--encoder_guesses {encoder_guesses} predicts masks, so the network must predict a mask too: "
            f"use --prediction x0, or --encoder_guesses 1 with --prediction {prediction or 'eps'}"
        )
    return None


@rule
def weighted_guesses_are_several(architecture: str, guess_weight: float, encoder_guesses: int) -> Complaint:
    if guess_weight and (architecture == "unet" or encoder_guesses < 2):
        return (
            f"--guess_weight {guess_weight:g} needs several guesses of a shared encoder: "
            "use --architecture shared-encoder with --encoder_guesses 2 or more, or --guess_weight 0"
        )
    return None


@rule
def encoders_see_channels_of_the_image(encoder_channels: int, image_channels: int | str) -> Complaint:
    if isinstance(image_channels, int) and encoder_channels > image_channels:
        return f"--encoder_channels {encoder_channels}: must be at most --image_channels {image_channels}"
    return None


# -- quarter turns ----------------------------------------------------------------------------------------------------


@rule
def training_turns_squares(augment: str | None, image_size: Size) -> Complaint:
    return turned("augment", augment, image_size)


@rule
def sampling_turns_squares(tta: str, image_size: Size) -> Complaint:
    return turned("tta", tta, image_size)


# -- precision and processes ------------------------------------------------------------------------------------------


@rule
def one_precision(use_fp16: bool, amp: str) -> Complaint:
    if use_fp16 and amp != "none":
        return one_of("use_fp16", f"amp {amp}")
    return None


@rule
def shards_have_one_loss_scale(shard: bool, use_fp16: bool) -> Complaint:
    if shard and use_fp16:
        return "--shard does not support the per-process loss scale of --use_fp16: use --amp bf16"
    return None


# -- training ---------------------------------------------------------------------------------------------------------


@rule
def training_ends_before_its_rate_is_zero(iterations: int, lr_anneal_steps: int, given: set[str]) -> Complaint:
    if "iterations" in given and iterations > lr_anneal_steps > 0:
        return (
            f"--iterations {iterations} is more than --lr_anneal_steps {lr_anneal_steps}, "
            "after which the learning rate is 0: increase --lr_anneal_steps too"
        )
    return None


@rule
def shape_needs_annealing(lr_shape: str, lr_anneal_steps: int) -> Complaint:
    if lr_shape != "linear" and not lr_anneal_steps:
        return f"--lr_shape {lr_shape} needs --lr_anneal_steps, the number of steps over which the learning rate decays"
    return None


@rule
def batches_hold_whole_images(batch_size: int, microbatch: int | None, raters_per_image: int) -> Complaint:
    for name, size in (("batch_size", batch_size), ("microbatch", microbatch or 0)):
        if size % raters_per_image:
            return f"--{name} {size}: must be a multiple of --raters_per_image {raters_per_image}"
    return None


@rule
def stable_target_needs_masks(stable_target: bool, raters_per_image: int, given: set[str]) -> Complaint:
    if "stable_target" in given and stable_target and raters_per_image == 1:
        return "--stable_target True needs --raters_per_image of at least 2: one mask is its own mean"
    return None


@rule
def validation_needs_cases(
    eval_data_dir: str,
    eval_interval: int | None,
    eval_cases: int,
    eval_ensemble: int,
    eval_steps: int | None,
    given: set[str],
) -> Complaint:
    values = {
        "eval_interval": eval_interval,
        "eval_cases": eval_cases,
        "eval_ensemble": eval_ensemble,
        "eval_steps": eval_steps,
    }
    needless = [] if eval_data_dir else sorted(values.keys() & given)
    if needless:
        return f"--{needless[0]} {values[needless[0]]} needs --eval_data_dir, a folder of cases not used for training"
    return None


# -- sampling ---------------------------------------------------------------------------------------------------------


@rule
def steps_are_timesteps(steps: int | None, diffusion_steps: int) -> Complaint:
    if (steps or 0) > diffusion_steps:
        return (
            f"--steps {steps}: must be at most --diffusion_steps {diffusion_steps} "
            "(for the length of training, use --iterations)"
        )
    return None


@rule
def ddpm_has_no_eta(sampler: str, eta: float) -> Complaint:
    if eta and sampler == "ddpm":
        return f"--eta {eta:g} has no effect with --sampler ddpm: use --sampler ddim or dpm++"
    return None


@rule
def fast_is_a_choice_of_its_own(fast: bool, given: set[str]) -> Complaint:
    others = sorted(given & {*FAST, "use_ddim", "timestep_respacing"})
    return one_of("fast", others[0]) if fast and others else None


@rule
def sampler_is_set_once(use_ddim: bool | None, sampler: str, given: set[str]) -> Complaint:
    if use_ddim and "sampler" in given and sampler != "ddim":
        return one_of("use_ddim True", f"sampler {sampler}")
    return None


@rule
def spacing_needs_steps(fast: bool, spacing: str, steps: int | None, given: set[str]) -> Complaint:
    if "spacing" in given and steps is None and not fast:
        return f"--spacing {spacing} needs --steps: without it, every timestep is used"
    return None


@rule
def steps_are_set_once(steps: int | None, timestep_respacing: str, given: set[str]) -> Complaint:
    if steps and timestep_respacing and {"steps", "timestep_respacing"} <= given:
        return one_of("steps", "timestep_respacing")
    return None


# -- cases ------------------------------------------------------------------------------------------------------------


@rule
def validation_cases_are_others(data_dir: str, eval_data_dir: str) -> Complaint:
    return nested("data_dir", data_dir, "eval_data_dir", eval_data_dir)


@rule
def scored_cases_are_others(data_dir: str, test_dir: str) -> Complaint:
    return nested("data_dir", data_dir, "test_dir", test_dir)


def nested(name: str, folder: str, other_name: str, other: str) -> Complaint:
    """The complaint about a folder of cases inside another, whose cases would be in both; equal ones are accepted."""
    if not folder or not other:
        return None
    pairs = ((name, folder, other_name, other), (other_name, other, name, folder))
    for outer_name, outer, inner_name, inner in pairs:
        real, within = os.path.realpath(outer), os.path.realpath(inner)
        if within != real and within.startswith(os.path.join(real, "")) and not os.path.isfile(inner):
            return (
                f"--{inner_name} {inner} is inside --{outer_name} {outer}, so its cases would be in both: "
                "use two folders side by side"
            )
    return None


# -- comparison -------------------------------------------------------------------------------------------------------


@rule
def one_budget(budget_minutes: float, budget_images: int) -> Complaint:
    if (budget_minutes > 0) == (budget_images > 0):
        return "use exactly one of --budget_minutes and --budget_images, with a value above 0"
    return None


@rule
def folds_or_a_test_set(folds: int, test_dir: str) -> Complaint:
    if folds < 2 and not test_dir:
        return f"--folds {folds}: must be at least 2, unless --test_dir is given"
    return None


@rule
def methods_name_their_presets(methods: tuple[str, ...], given: set[str]) -> Complaint:
    return "--method has no effect here: use --methods, which lists presets" if "method" in given else None
