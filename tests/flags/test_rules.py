"""What relates flags to each other: each rule with flags that can stand together, and flags that cannot."""

import inspect

import pytest

from guided_diffusion.commands import compare, sample, train
from guided_diffusion.errors import ConfigError
from guided_diffusion.flags import rules
from guided_diffusion.flags.configs import configs_from_flags
from guided_diffusion.flags.rules import RULES, check_rules

TRAIN, SAMPLE, COMPARE = train.CONFIGS, sample.CONFIGS, (compare.CompareConfig, *compare.FLAGS)
TWO = {"raters_per_image": 2, "batch_size": 4}

# rule: (classes, flags that stand, flags that do not, words of the refusal)
CASES = {
    "prediction_is_set_once": (
        TRAIN,
        {"predict_xstart": True, "prediction": "x0"},
        {"predict_xstart": True, "prediction": "v"},
        "--predict_xstart True and --prediction v contradict",
    ),
    "kl_has_no_stable_target": (
        TRAIN,
        {"use_kl": True},
        {"use_kl": True, "stable_target": True, **TWO},
        "--stable_target False",
    ),
    "kl_is_not_rescaled": (
        TRAIN,
        {"rescale_learned_sigmas": True, "learn_sigma": True},
        {"rescale_learned_sigmas": True, "learn_sigma": True, "use_kl": True},
        "--use_kl and --rescale_learned_sigmas contradict",
    ),
    "only_learned_variances_are_rescaled": (
        TRAIN,
        {"learn_sigma": True, "rescale_learned_sigmas": True},
        {"rescale_learned_sigmas": True},
        "--rescale_learned_sigmas True needs --learn_sigma True",
    ),
    "cases_have_no_classes": (TRAIN, {"class_cond": False}, {"class_cond": True}, "--class_cond True"),
    "heads_are_counted_once": (
        TRAIN,
        {"num_heads": 2, "num_heads_upsample": 2},
        {"num_head_channels": 32, "num_heads_upsample": 2},
        "--num_head_channels and --num_heads_upsample contradict",
    ),
    "guesses_are_masks": (
        TRAIN,
        {"architecture": "shared-encoder", "encoder_guesses": 2, "predict_xstart": True},
        {"architecture": "shared-encoder", "encoder_guesses": 2, "prediction": "v"},
        "--encoder_guesses 1 with --prediction v",
    ),
    "weighted_guesses_are_several": (
        TRAIN,
        {"architecture": "shared-encoder", "encoder_guesses": 2, "prediction": "x0", "guess_weight": 1},
        {"architecture": "shared-encoder", "guess_weight": 1},
        "--guess_weight 1 needs several guesses",
    ),
    "encoders_see_channels_of_the_image": (
        TRAIN,
        {"encoder_channels": 4, "image_channels": 4},
        {"encoder_channels": 3, "image_channels": 2},
        "--encoder_channels 3: must be at most --image_channels 2",
    ),
    "training_turns_squares": (
        TRAIN,
        {"augment": "flip+deform", "image_size": (64, 96)},
        {"augment": "flip+rotate+deform", "image_size": "64,96"},
        "--augment flip+rotate+deform: rotate needs a square --image_size, not 64,96: use --augment flip+deform",
    ),
    "sampling_turns_squares": (
        SAMPLE,
        {"tta": "flip+rotate", "image_size": "64,64"},
        {"tta": "rotate", "image_size": "96,64"},
        "--tta rotate: rotate needs a square --image_size, not 96,64: use --tta none",
    ),
    "one_precision": (TRAIN, {"use_fp16": True}, {"use_fp16": True, "amp": "bf16"}, "--use_fp16 and --amp bf16"),
    "shards_have_one_loss_scale": (TRAIN, {"shard": True}, {"shard": True, "use_fp16": True}, "use --amp bf16"),
    "training_ends_before_its_rate_is_zero": (
        TRAIN,
        {"iterations": 9, "lr_anneal_steps": 9},
        {"iterations": 10, "lr_anneal_steps": 9},
        "--iterations 10 is more than --lr_anneal_steps 9",
    ),
    "shape_needs_annealing": (
        TRAIN,
        {"lr_shape": "cosine", "lr_anneal_steps": 5},
        {"lr_shape": "cosine"},
        "--lr_shape cosine needs --lr_anneal_steps",
    ),
    "batches_hold_whole_images": (
        TRAIN,
        {**TWO, "microbatch": 2},
        {**TWO, "microbatch": 3},
        "--microbatch 3: must be a multiple of --raters_per_image 2",
    ),
    "stable_target_needs_masks": (
        TRAIN,
        {"stable_target": True, **TWO},
        {"stable_target": True},
        "--stable_target True needs --raters_per_image",
    ),
    "validation_needs_cases": (
        TRAIN,
        {"eval_data_dir": "cases", "eval_cases": 5},
        {"eval_cases": 5},
        "--eval_cases 5 needs --eval_data_dir",
    ),
    "steps_are_timesteps": (
        TRAIN,
        {"steps": 20, "diffusion_steps": 20},
        {"steps": 21, "diffusion_steps": 20},
        "--steps 21: must be at most --diffusion_steps 20",
    ),
    "ddpm_has_no_eta": (
        SAMPLE,
        {"sampler": "ddim", "eta": 0.5},
        {"eta": 0.5},
        "--eta 0.5 has no effect with --sampler ddpm",
    ),
    "fast_is_a_choice_of_its_own": (
        SAMPLE,
        {"fast": True, "clip_denoised": False},
        {"fast": True, "steps": 5},
        "--fast and --steps contradict",
    ),
    "sampler_is_set_once": (
        SAMPLE,
        {"use_ddim": False, "sampler": "dpm++"},
        {"use_ddim": True, "sampler": "dpm++"},
        "--use_ddim True and --sampler dpm++ contradict",
    ),
    "spacing_needs_steps": (
        SAMPLE,
        {"spacing": "logsnr", "steps": 5},
        {"spacing": "logsnr"},
        "--spacing logsnr needs --steps",
    ),
    "steps_are_set_once": (
        SAMPLE,
        {"timestep_respacing": "20"},
        {"timestep_respacing": "20", "steps": 5},
        "--steps and --timestep_respacing contradict",
    ),
    "validation_cases_are_others": (
        TRAIN,
        {"data_dir": "cases/a", "eval_data_dir": "cases/ab"},
        {"data_dir": "cases", "eval_data_dir": "./cases/a"},
        "--eval_data_dir ./cases/a is inside --data_dir cases",
    ),
    "scored_cases_are_others": (
        COMPARE,
        {"budget_images": 8, "data_dir": "cases/a", "test_dir": "cases/b"},
        {"budget_images": 8, "data_dir": "cases/a", "test_dir": "cases"},
        "--data_dir cases/a is inside --test_dir cases",
    ),
    "one_budget": (
        COMPARE,
        {"budget_images": 8},
        {"budget_images": 8, "budget_minutes": 1},
        "one of --budget_minutes and --budget_images",
    ),
    "folds_or_a_test_set": (
        COMPARE,
        {"budget_images": 8, "folds": 1, "test_dir": "cases"},
        {"budget_images": 8, "folds": 1},
        "--folds 1: must be at least 2",
    ),
    "methods_name_their_presets": (
        COMPARE,
        {"budget_images": 8, "methods": ("ssn",)},
        {"budget_images": 8, "method": "ssn"},
        "--method has no effect here",
    ),
}


def check(classes, flags):
    configs = configs_from_flags(flags, *classes)
    configs.given = flags
    check_rules(configs)


@pytest.mark.parametrize("name", CASES)
def test_a_rule_refuses_what_cannot_stand_together(name):
    classes, stands, falls, words = CASES[name]
    check(classes, stands)
    with pytest.raises(ConfigError) as refusal:
        check(classes, falls)
    assert words in str(refusal.value)


def test_every_rule_has_its_test_and_names_flags_that_exist():
    assert [function.__name__ for function in RULES] == list(CASES)
    for function in RULES:
        known = configs_from_flags({}, *CASES[function.__name__][0]).values.keys() | {"given"}
        assert inspect.signature(function).parameters.keys() <= known, function.__name__


def test_a_comparison_without_augmentation_of_its_own_has_any_size():
    check(COMPARE, {"budget_images": 8, "image_size": (64, 96)})
    with pytest.raises(ConfigError, match="--augment rotate: rotate needs a square"):
        check(COMPARE, {"budget_images": 8, "image_size": (64, 96), "augment": "rotate"})


def test_encoders_may_see_channels_whose_number_is_not_known_yet():
    check(TRAIN, {"encoder_channels": 3, "image_channels": "auto"})


def test_a_rule_about_what_was_given_does_not_hold_for_defaults_and_presets():
    configs = configs_from_flags({"stable_target": True, "lr_anneal_steps": 5}, *TRAIN)
    check_rules(configs)  # by a preset; --iterations at its default is beyond the end of the annealing
    assert rules.stable_target_needs_masks(True, 1, {"stable_target"})
