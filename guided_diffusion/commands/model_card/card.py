"""The text of a model card, from card.jinja. Every value is escaped for Markdown, or quoted for YAML."""

import json
import re
from pathlib import Path
from typing import Any

from ...checkpoints.model_folder import Model
from ...data.config import DataConfig
from ...data.files.passed_over import printable
from ...distribution import EncoderConfig
from ...flags.configs import Configs
from ...flags.typed import typed_flags
from ...gaussian_diffusion import DiffusionConfig
from ...methods.registry import METHODS, MODEL_CONFIGS, MethodConfig
from ...sampling.samplers import SamplerConfig
from ...script_util import calls_of
from ...unet import UNetConfig
from .figures import Figures

TEMPLATE = Path(__file__).with_name("card.jinja")
SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~&$!])")  # of Markdown and HTML


class Ready(str):
    """A text that is escaped already."""


def as_text(value: object) -> str:
    """A value as text of Markdown, in one line."""
    return value if isinstance(value, Ready) else SPECIAL.sub(r"\\\1", one_line(value))


def as_code(value: object) -> Ready:
    """A value within a code span or block."""
    return Ready(one_line(value).replace("`", "'"))


def as_yaml(value: object) -> Ready:
    """A value of YAML, whose texts are quoted as JSON's are."""
    return Ready(json.dumps(one_line(value) if isinstance(value, str) else value, ensure_ascii=False))


def one_line(value: object) -> str:
    """A value as printable text in one line."""
    return printable(" ".join(str(value).split()))


def hub_license(name: str) -> str:
    """The Hub's name of the licence with this SPDX identifier."""
    return re.sub(r"-(only|or-later)$", "", name.lower())


def card(name: str, model: Model, configs: Configs, figures: Figures | None, **more: Any) -> str:
    """The model card.

    name     of the model
    configs  of its data, model and sampler
    figures  None: none were given
    more     license, data: texts, or empty; own_picture: whether the author gave it; rounded: whether the figures are
             of the weights before they were rounded
    """
    checkpoint, unet = model.checkpoint, configs[UNetConfig]
    method, planes = configs[MethodConfig].method, configs[EncoderConfig].encoder_channels
    chain = METHODS[method].has_chain
    height, width = unet.size
    trained = "" if checkpoint.samples is None else f", {checkpoint.samples:,} masks drawn from the cases"
    return _template().render(
        name=name,
        method=method,
        weights=f"{sum(tensor.numel() for tensor in checkpoint.weights.values()):,}",
        dtype=model.dtype,
        height=height,
        width=width,
        planes="one plane" if planes == 1 else f"{planes} planes",
        classes=classes.kind if (classes := configs[DataConfig].class_set).several else "",
        calls=calls_of(configs.flags(SamplerConfig), configs[DiffusionConfig]) if chain else None,
        flags=typed_flags(configs.flags(), SamplerConfig, DataConfig, *MODEL_CONFIGS) or "none",
        cases_hash=checkpoint.data or "not stored",
        reading=checkpoint.reading,
        training=f"{checkpoint.step:,} steps{trained}" if checkpoint.step else "not stored",
        figures=figures,
        drawn_with=", ".join(f"{name} {value}" for name, value in figures.settings.items()) if figures else "",
        **more,
    )


def _template() -> Any:
    import jinja2  # slow to import

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATE.parent),
        autoescape=False,  # as_text escapes what is not Ready
        finalize=as_text,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"yaml": as_yaml, "code": as_code, "hub_license": hub_license}
    return environment.get_template(TEMPLATE.name)
