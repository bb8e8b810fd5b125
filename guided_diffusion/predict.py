"""Python API to sample ensembles, see docs/python.md.

ensemble = load("results/savedmodel.pt").sample("scan.png", num_ensemble=16)
ensemble.masks, ensemble.mean, ensemble.variance, ensemble.entropy
"""

import itertools
import os
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, overload

import numpy as np
import torch

from . import script_util
from .checkpoints.files import CheckpointFile
from .data.case_reader import CaseReader
from .data.config import DataConfig
from .data.files.case_files import find_inputs
from .data.files.memory import NetworkInput, as_array, decode_pixels, decode_planes
from .data.files.passed_over import case_name
from .data.geometry import CaseArrays, bring_back
from .data.stores.case_cache import SetFacts
from .data.surveys.changes import count
from .distribution import EncoderConfig
from .errors import ConfigError, DataError
from .evaluation.given_masks import figures_of_case
from .flags.classes import Classes
from .flags.configs import Configs, configs_from_flags, parse_flags, refuse_unknown
from .flags.fields import flag_fields
from .gaussian_diffusion import DiffusionConfig
from .lidcloader import Case, LIDCDataset, make_case
from .masks.postprocess import PostprocessConfig
from .methods.registry import METHODS, MethodConfig
from .sampling.config import SampleConfig, identity
from .sampling.draw import draw_ensembles
from .sampling.ensemble import Drawing, Ensemble
from .sampling.samplers import SamplerConfig
from .script_util import LoadedModel
from .system.device import ComputeConfig, compile_model, prepare, usable_device
from .unet import UNetConfig

__all__ = ["Ensemble", "Predictor", "load", "score"]
AT_NETWORK_SIZE = "image and raters of this Case were resized for the network, and are brought back from that size"
WARNING = "warning: "  # the start of such a line of a command


@dataclass(frozen=True)
class _Input:
    """A case to draw, with its pixels at its own size and what is known from reading it."""

    case: Case
    own: CaseArrays
    facts: SetFacts


class Predictor:
    """A trained segmenter, ready to sample; `load` returns one.

    weights, amp, checkpoint  how the model was loaded; stored with its samples
    """

    def __init__(
        self,
        model: LoadedModel,
        compiled: bool = False,
        *,
        weights: str = "ema",
        amp: str = "none",
        checkpoint: CheckpointFile | None = None,
    ) -> None:
        self.segmenter, self.configs, self.stored = model.segmenter, model.configs, model.sampler
        self.reading, self.compiled, self.weights, self.amp = model.reading, compiled, weights, amp
        self.checkpoint = checkpoint
        self._compiled_size: int | None = None  # batch size that the network was compiled for, set by the first call

    def __repr__(self) -> str:
        """The method, size and channels, classes, steps and sampler, device and path."""
        unet, method = self.configs[UNetConfig], self.configs[MethodConfig].method
        height, width = unet.size
        sampler = {"sampler": SamplerConfig.sampler, **self.stored}
        calls = script_util.calls_of(sampler, self.configs[DiffusionConfig])
        chain = f"{calls} steps of {sampler['sampler']}" if METHODS[method].has_chain else "one network call"
        device = next(self.segmenter.parameters()).device
        path = repr(self.checkpoint.path) if self.checkpoint else "no file"
        classes = self.configs[DataConfig].class_set
        seen = f"{width}x{height}, {count(unet.channels, 'channel')}{f', {classes.kind}' if classes.several else ''}"
        return f"Predictor({method}, {seen}, {chain}, {device}, {path})"

    @property
    def flags(self) -> dict[str, Any]:
        """{name: value}, the flags of data and model, JSON-like."""
        return self.configs.flags()

    @overload
    def sample(self, image: list[Any] | tuple[Any, ...], num_ensemble: int = ..., **more: Any) -> list[Ensemble]: ...

    @overload
    def sample(self, image: Any, num_ensemble: int = ..., **more: Any) -> Ensemble: ...

    def sample(
        self,
        image: Any,
        num_ensemble: int = 16,
        *,
        seed: int = 0,
        name: str | Sequence[str] | None = None,
        batch_size: int = 8,
        **flags: Any,
    ) -> Any:
        """Sample an `Ensemble` for an image, or a list of them for a list or tuple of images.

        image         a path of a picture or the folder of a case; a picture (PIL); an array or tensor, of integers or
                      in [0, 1], [H, W], [H, W, 3], [3, H, W] or [C, H, W]; or a `Case`. Masks have its own size
        num_ensemble  number of masks of each image
        seed, name    a mask depends only on these and its index; the default is the name that segmentation_sample.py
                      gives to the case, or "image", "image1", ... A list has a sequence of names
        batch_size    masks drawn at a time, across images; with compile=True, that of the first call is always used
        flags         of SamplerConfig (sampler, steps, spacing, eta, clip_denoised, tta) and of PostprocessConfig
                      (output_size, threshold, median_blur, ...), and fast=True
        ConfigError: a flag is unknown or invalid. DataError: an image does not fit.
        """
        configs = self._configs({"num_ensemble": num_ensemble, "seed": seed, "batch_size": batch_size}, flags)
        several = isinstance(image, (list, tuple))
        images = list(image) if several else [image]
        inputs = [self._read(*pair) for pair in zip(images, _names(images, name, several), strict=True)]
        for note in dict.fromkeys(note for one in inputs for note in one.facts.notes):
            if note.startswith(WARNING):
                warnings.warn(note.removeprefix(WARNING), stacklevel=2)
        ensembles = self._draw(inputs, configs)
        return ensembles if several else ensembles[0]

    def _configs(self, own: dict[str, Any], flags: dict[str, Any]) -> Configs:
        """The configs of a call of `sample`, where `flags` count as given."""
        known = flag_fields(SamplerConfig, PostprocessConfig).keys() | {"fast"}
        if unknown := sorted(flags.keys() - known):
            refuse_unknown(unknown[0], known)
        if own["batch_size"] == "auto":
            raise ConfigError("batch_size auto is available on the command line only: pass a number")
        classes = (SampleConfig, SamplerConfig, PostprocessConfig)
        configs = configs_from_flags({**own, "weights": self.weights, **flags}, *classes)
        configs.given = parse_flags(flags, *classes)
        script_util.refuse_foreign_flags(configs.given, self.configs)
        return configs

    def _draw(self, inputs: Sequence[_Input], configs: Configs) -> list[Ensemble]:
        config = configs[SampleConfig]
        drawn_in = config
        if self.compiled:
            self._compiled_size = size = self._compiled_size or int(config.batch_size)
            drawn_in = replace(config, batch_size=size)
        sampler = script_util.choose_sampler(configs, self.configs, self.stored)
        segmenter = self.segmenter.spaced(sampler)
        chain = sampler if METHODS[self.configs[MethodConfig].method].has_chain else None
        settings = (config, chain, segmenter.num_timesteps, self.amp, self.flags, "")
        classes = (SamplerConfig, *self.configs.classes)
        cases = [one.case for one in inputs]
        drawn = draw_ensembles(segmenter, cases, range(len(cases)), drawn_in, sampler, even=self.compiled)
        ensembles = []
        for one, (case, samples) in zip(inputs, drawn, strict=True):
            drawn_by = identity(*settings, reading=one.facts.reading)
            drawing = Drawing(config, configs[PostprocessConfig], drawn_by, classes, self.checkpoint)
            ensembles.append(Ensemble.of(case, one.own, samples, drawing, tuple(one.facts.notes)))
        return ensembles

    # -- reading ------------------------------------------------------------------------------------------------------

    def _read(self, image: Any, name: str) -> _Input:
        """Read an image; a path or a Case has its own name if `name` is empty."""
        is_path = isinstance(image, (str, os.PathLike))
        found = self._read_path(str(image)) if is_path else self._read_memory(image, name)
        facts = found.facts
        facts = replace(facts, notes=[*facts.notes, *script_util.warnings_on_reading(self.reading, facts)])
        return replace(found, case=replace(found.case, id=name or found.case.id), facts=facts)

    def _read_path(self, path: str) -> _Input:
        unet = self.configs[UNetConfig]
        if os.path.isdir(path):
            _refuse_several(path, len(find_inputs(path, unet.channels)))  # before all of them are read
        dataset = LIDCDataset(path, unet.image_size, unet.channels, self.configs[DataConfig], require_raters=False)
        _refuse_several(path, len(dataset))
        script_util.check_planes(self.configs, dataset)
        script_util.check_classes(str(self.checkpoint or "the model"), self.configs[DataConfig].class_set, dataset)
        of_masks = set(dataset.reader.changes.masks.notes())  # which judge a whole set
        notes = [note for note in dataset.notes if note not in of_masks]
        return _Input(dataset[0], dataset.own_arrays(0), replace(dataset.facts, notes=notes))

    def _read_memory(self, image: Any, name: str) -> _Input:
        """Read an image in memory, or fit a Case to the network."""
        unet, config = self.configs[UNetConfig], self.configs[DataConfig]
        network = NetworkInput(unet.channels, self.configs[EncoderConfig].encoder_channels, config.intensity_range)
        reader = CaseReader(unet.image_size, None, config, require_raters=False)
        if isinstance(image, Case):
            name = name or image.id
            decoded = decode_planes(name, _planes_of(image, network, config.class_set), image.colour, network)
        else:
            decoded = decode_pixels(name, image, network)
        reader.keep(name, decoded)
        network.refuse_planes(name, decoded, reader.num_planes, config.grey)
        own = reader.read_own(name)
        if isinstance(image, Case):
            reader.changes.ranges.clear()  # its values were reported when it was read
            raters = as_array(name, image.raters) > 0.5
            ignored = None if image.ignored is None else as_array(name, image.ignored) > 0
            own = CaseArrays(own.image, raters, image.geometry or own.geometry, ignored)
        fitted, facts = reader.fit(name, own), SetFacts.of(reader, 1)
        case = make_case(name, fitted, unet.channels, reader.colour, config.class_set)
        if own.geometry and own.geometry.changes_pixels:
            facts = replace(facts, notes=[*facts.notes, AT_NETWORK_SIZE])
        return _Input(case, bring_back(own), facts)


def _refuse_several(path: str, cases: int) -> None:
    if cases > 1:
        raise DataError(f"{path}: contains {cases} cases, and one is needed; pass a list of their paths")


def _planes_of(case: Case, network: NetworkInput, classes: Classes) -> np.ndarray:
    """The planes of a case's image [C, H, W], without repetitions. DataError: the case is not a valid one.

    classes  of the model
    """
    planes, raters = as_array(case.id, case.image), as_array(case.id, case.raters)
    if case.classes and len(raters) and not classes.same_masks(case.classes):
        raise DataError(f"{case.id}: has {case.classes.kind}, but the model has {classes.kind}")
    axis = (classes.count,) if classes.several else ()
    if planes.ndim != 3 or raters.shape[-2:] != planes.shape[1:] or (len(raters) and raters.shape[1:-2] != axis):
        shapes = f"an image of shape {list(planes.shape)} and raters of shape {list(raters.shape)}"
        needed = "[R, K, H, W]" if classes.several else "[R, H, W]"
        raise DataError(f"{case.id}: a Case with {shapes}; [C, H, W] and {needed} are needed")
    repeated = planes.strides[0] == 0 or (len(planes) != network.channels and (planes == planes[:1]).all())
    return planes[:1] if repeated else planes


def _names(images: Sequence[Any], name: str | Sequence[str] | None, several: bool) -> list[str]:
    """The name of each image; empty for a path or a Case, which has one. ConfigError, DataError: they do not fit."""
    if not images:
        raise DataError("an empty list: pass at least one image")
    if name is None:
        numbers = itertools.count()
        named = (str, os.PathLike, Case)
        return ["" if isinstance(image, named) else f"image{next(numbers) or ''}" for image in images]
    names: list[Any] = [name]
    if several:
        names = [] if isinstance(name, str) or not isinstance(name, Iterable) else list(name)
    if not all(isinstance(one, str) and one for one in names or [None]):
        expected = "a list of names" if several else "a name, as text"
        raise ConfigError(f"name {name!r}: must be {expected}")
    if odd := [one for one in names if case_name(one) != one]:
        raise ConfigError(f"name {odd[0]!r}: has characters that cannot be printed; use another one")
    if len(set(names)) < len(names):
        raise ConfigError(f"name {names}: has a name twice; a mask depends on its name, so give each image its own")
    if len(names) != len(images):
        raise ConfigError(f"name has {len(names)} names for {len(images)} images; give each image one")
    return names


def load(
    path: str | os.PathLike[str],
    device: torch.device | str | None = None,
    weights: str = "ema",
    amp: str = "none",
    compile: bool = False,
    **flags: Any,
) -> Predictor:
    """Load a `Predictor` from the checkpoint at `path`.

    device        device to sample on; default: a GPU if available
    weights       "ema" or "raw"
    amp, compile  see ComputeConfig
    flags         grey=True, which converts images in colour; model flags, which only checkpoints of the published code
                  need
    ConfigError, CheckpointError: see script_util.load_segmenter; ConfigError also for unknown `weights` or `amp`, and
    for a device that cannot be used.
    """
    how = parse_flags({"weights": weights, "amp": amp, "compile": compile}, SampleConfig, ComputeConfig)
    default = "cuda" if torch.cuda.is_available() else "cpu"
    place = usable_device(default if device is None else device)
    path = str(path)
    file, compute = CheckpointFile(path), ComputeConfig(how["amp"], how["compile"])
    model = script_util.load_segmenter(path, flags, how["weights"])
    prepare(model.segmenter, compute, place)
    if compute.compile:
        compile_model(model.segmenter)
    return Predictor(model, compute.compile, weights=how["weights"], amp=how["amp"], checkpoint=file)


def score(samples: Any, raters: Any) -> dict[str, float]:
    """{metric: value} of one case, as in metrics.csv but for the number of samples in their names; see docs/metrics.md.

    With several classes, "ged" is over all of them and "ged[cup]" of one. Ignored pixels of an `Ensemble` do not count.

    samples  an `Ensemble`, or masks [M, H, W], bool or 0 and 1; of several classes [M, K, H, W]
    raters   masks [R, H, W] of the same size
    DataError: they are not such masks, or differ in size.
    """
    own = (samples.class_set, samples.ignored) if isinstance(samples, Ensemble) else ()
    return figures_of_case(samples.masks if isinstance(samples, Ensemble) else samples, raters, *own)
