"""What --preset and --fast put in place of the defaults; flags that are given come before."""

CIMD = {  # the paper's README
    "image_size": 128, "num_channels": 128, "class_cond": False, "num_res_blocks": 2, "num_heads": 1,
    "learn_sigma": True, "use_scale_shift_norm": False, "attention_resolutions": (16,),
    "diffusion_steps": 1000, "noise_schedule": "linear", "rescale_learned_sigmas": False,
    "rescale_timesteps": False, "lr": 1e-4, "batch_size": 20,
}  # fmt: skip

PRESETS = {
    "cimd": CIMD,
    "cimd-small": {**CIMD, "num_channels": 64},
    "implicit-ensemble": {**CIMD, "method": "implicit-ensemble"},
    "tuned": {  # what the field has learned since; docs/ablations.md measures it
        "method": "implicit-ensemble", "architecture": "shared-encoder", "encoder_guesses": 8, "image_size": 128, "num_channels": 64, "num_res_blocks": 2, "attention_resolutions": (16,),
        "prediction": "x0", "mask_low": -1.0, "noise_schedule": "cosine", "mask_scale": 0.5, "raters_per_image": 4, "stable_target": True,
        "augment": "flip+rotate", "batch_size": 32, "lr": 1e-3, "lr_anneal_steps": 20_000, "lr_shape": "cosine", "lr_warmup_steps": 100,
        "ema_rate": (0.999,), "sampler": "ddim", "steps": 20,
    },
    "prob-unet": {"method": "prob-unet", "image_size": 128, "lr": 1e-4, "batch_size": 5},
    "ssn": {"method": "ssn", "image_size": 128, "lr": 1e-4, "batch_size": 10},
    "mc-dropout": {"method": "mc-dropout", "image_size": 128, "dropout": 0.3, "lr": 1e-4, "batch_size": 10},
    "unet": {"method": "unet", "image_size": 128, "lr": 1e-4, "batch_size": 10},
    "demo": {  # learns in minutes on two CPU cores
        "image_size": 32, "image_channels": 1, "num_channels": 32, "num_res_blocks": 1, "channel_mult": (1, 1, 1),
        "num_heads": 1, "attention_resolutions": (8,), "num_filters": (8, 16, 24), "predict_xstart": True,
        "mask_low": -1.0, "noise_schedule": "cosine", "lr": 2e-3, "batch_size": 8, "lr_anneal_steps": 2400,
        "ema_rate": (0.999,), "save_interval": 800, "sampler": "ddim", "steps": 10,
    },
}  # fmt: skip

# --fast: docs/sampling.md says how it was chosen
