"""The types of the public names; `__init__.py` resolves them when they are first used."""

from abra_wilds.config.run import RunConfig as RunConfig
from abra_wilds.data.samplers.dataloader import PlateBatchSampler as PlateBatchSampler
from abra_wilds.data.screens.screen import Screen as Screen
from abra_wilds.engine.fit import fit as fit
from abra_wilds.engine.models.model import Model as Model
from abra_wilds.engine.models.model import load_model as load_model
from abra_wilds.functional.losses import arcface_logits as arcface_logits
from abra_wilds.functional.losses import js_divergence as js_divergence
from abra_wilds.functional.stats import channel_stats as channel_stats
from abra_wilds.functional.stats import restyle as restyle
from abra_wilds.methods import METHODS as METHODS
from abra_wilds.methods import get_method as get_method
from abra_wilds.methods.abra.loss import abra_loss as abra_loss
from abra_wilds.methods.abra.perturbation import BatchShift as BatchShift
from abra_wilds.nets.backbones import build_net as build_net
from abra_wilds.recipes.resolve import run_config as run_config
from abra_wilds.tta.adapted import adapted as adapted
from abra_wilds.tta.adapted import predict as predict
from abra_wilds.types import Batch as Batch
from abra_wilds.types import DataInfo as DataInfo
from abra_wilds.types import StepContext as StepContext
from abra_wilds.types import StepOutput as StepOutput
from abra_wilds.types import Target as Target

__version__: str
