"""What runs that train models of vectors have in common: a plan, a process, and its result."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ... import __version__, machine, strict
from ...core.config import EncoderConfig
from ...nn.vectors import VectorModel
from .. import run_log, state
from ..objectives.texts import TextsBatch
from ..process import Session
from ..rows import steps_per_epoch
from ..state import Best
from ..tuning import Tuning
from ..tuning_process import TuningProcess
from ..tuning_run import restore_embeddings
from .initial import Start
from .rows import TextRows


@dataclass(frozen=True, eq=False, kw_only=True)
class VectorsPlan(ABC):
    """What a run trains on and with, before the first step; see `tuning_process.TuningPlan`."""

    recipe: Tuning
    start: Start
    train: TextRows
    dev: TextRows
    sources: dict[str, str] = field(default_factory=dict)  # where the texts are from, by part

    @property
    def config(self) -> EncoderConfig:
        """The configuration of the encoder."""
        return self.start.config

    @property
    @abstractmethod
    def epochs(self) -> int:
        """The largest number of epochs."""

    @property
    @abstractmethod
    def metric(self) -> str:
        """The metric on dev by which the best epoch is chosen."""

    @property
    def steps_per_epoch(self) -> int:
        """The number of steps of an epoch."""
        return steps_per_epoch(len(self.train), self.recipe.batch_size)

    @cached_property
    def tokens(self) -> NDArray[np.int32]:
        """The ids of all tokens that occur, ascending."""
        return np.union1d(self.train.tokens(), self.dev.tokens())

    def key(self) -> dict[str, Any]:
        """Return what the result depends on, besides the machine."""
        settings = strict.plain(self.recipe)
        for name in ("timeout", "save_every"):
            settings.pop(name)
        data = [self.train.digest(), self.dev.digest()]
        return {"recipe": settings, "base": self.start.digest(), "data": data}


class VectorsProcess(TuningProcess[TextsBatch]):
    """A process of such a run."""

    model: VectorModel
    train: TextRows

    def __init__(self, session: Session, plan: VectorsPlan) -> None:
        super().__init__(session, plan)
        self.train = plan.train.renumbered(plan.tokens)
        self.dev = plan.dev.renumbered(plan.tokens)

    def finish(
        self, plan: VectorsPlan, best: Best, work: Path, key: dict[str, Any]
    ) -> dict[str, Any]:
        """Restore the model of the best epoch, on the CPU, and return finetune.json."""
        model = self.model
        model.load_state_dict(state.find(work, best.step).weights_and_optimizer_state()[0])
        metrics, lines = self.dev_metrics(), list(run_log.read(work))
        info: dict[str, Any] = {
            "dev": metrics, "epoch": best.epoch,
            "curve": [line["evaluation"][plan.metric] for line in lines if "evaluation" in line],
            "seconds": round(sum(line["seconds"] for line in lines), 1),
            "documents": {"train": len(plan.train), "dev": len(plan.dev)},
            "truncated": plan.train.truncated, "sources": plan.sources, **key,
            "motherbird": __version__,
            "machine": {
                **machine.describe(self.stepper.threads.count),
                "device": str(self.distributed.device),
            },
        }  # fmt: skip
        model.cpu().eval()
        restore_embeddings(model.encoder, plan.start.encoder(plan.recipe.seed), plan.tokens)
        return info
