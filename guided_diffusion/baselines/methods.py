"""--method: which segmenter it names."""

from .deterministic import DeterministicUNet, MonteCarloDropout
from .prob_unet import ProbabilisticUNet
from .ssn import StochasticSegmentationNetwork

DIFFUSIONS = ("cimd", "implicit-ensemble")
BASELINES = {
    "prob-unet": ProbabilisticUNet,
    "ssn": StochasticSegmentationNetwork,
    "mc-dropout": MonteCarloDropout,
    "unet": DeterministicUNet,
}  # each made from (UNetConfig, EncoderConfig, MethodConfig)
