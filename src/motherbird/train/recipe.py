"""The definition of a run: one TOML file, read strictly into frozen dataclasses.

Lengths are tokens of full rows. A phase, its learning rate and its batch size depend only on the
rows that all ranks together have trained on (`schedule`), so every step of a run, and the number of
steps, is known before the first one.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch

from .. import strict
from ..core.config import EncoderConfig
from ..core.presets import PRESETS
from ..core.tokenizer import Tokenizer
from ..errors import InputError, counted
from ..nn.devices import DTYPES, fastest_dtype
from .phase import Phase, check_rates
from .schedule import check


@dataclass(frozen=True)
class Geometry:
    """The encoder's shape; vocabulary size and special ids come from the data's tokenizer."""

    # "base", "large", "mini" or "nano"; the other keys override its values. Without a preset and
    # without `Init.from_` it is base.
    preset: Literal["base", "large", "mini", "nano"] | None = None
    hidden_size: int | None = None
    intermediate_size: int | None = None
    num_hidden_layers: int | None = None
    num_attention_heads: int | None = None
    local_attention: int | None = None
    global_attn_every_n_layers: int | None = None
    local_rope_theta: float | None = None
    # standard deviation of the initial matrices (paper: 0.02). A narrow model needs about 1 /
    # sqrt(width); see docs/log.md.
    initializer_range: float | None = None
    # dropout of the attention's output (paper: 0.1). Published checkpoints say 0, which is meant
    # for inference.
    dropout: float = 0.1

    def __post_init__(self) -> None:
        good = 0 <= self.dropout < 1
        check(good, f"dropout = {self.dropout} has to be at least 0 and less than 1")

    def overrides(self) -> dict[str, Any]:
        """Return the keys of `EncoderConfig` that are set here."""
        own = ("preset", "dropout")
        given = {k: v for k, v in asdict(self).items() if v is not None and k not in own}
        return {**given, "attention_dropout": self.dropout}

    def config(self, tokenizer: Tokenizer, initial: EncoderConfig | None = None) -> EncoderConfig:
        """Return the configuration for a tokenizer, based on the preset or on ``initial``."""
        if self.preset is not None or initial is None:
            initial = PRESETS[self.preset or "base"]()
        special: dict[str, Any] = {
            f"{role}_token_id": tokenizer.id_of(role) if role in tokenizer.special else None
            for role in ("cls", "sep", "pad")
        }
        return replace(
            initial,
            vocab_size=-(-tokenizer.vocab_size // 64) * 64,  # faster in matrix units
            bos_token_id=special["cls_token_id"],
            eos_token_id=special["sep_token_id"],
            **special,
            **self.overrides(),
        )


@dataclass(frozen=True)
class Init:
    """Where the initial weights come from; they are random by default."""

    # directory of another run (its newest checkpoint), or a Hugging Face directory or name. A
    # smaller model is tiled into the larger one (paper 2.2.2).
    from_: str | None = None


@dataclass(frozen=True)
class Train:
    """How steps are computed."""

    lr: float  # peak learning rate of the phases that do not set their own
    weight_decay: float = 1e-5  # the same for weight decay; norms and biases do not decay
    masking: float = 0.3  # the same for the masking rate (paper: 0.3)
    # "stableadamw" (paper), "adamw", or "muon" for the matrices of the layers
    optimizer: Literal["adamw", "stableadamw", "muon"] = "stableadamw"
    micro_tokens: int = 8192  # tokens of a micro-batch, at least one row; this limits memory
    # dtype of matrix products: "auto" is the fastest of the device; weights are float32
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    # how gradients of micro-batches are summed: "sum" is fast, "tree" gives the same bits for 1, 2,
    # 4 ... ranks.
    reduce: Literal["sum", "tree"] = "sum"
    workers: int = 1  # processes that load data ahead; 0 loads it in the training process
    timeout: float = 60.0  # seconds after which a rank that does not answer ends the run

    def __post_init__(self) -> None:
        check(self.lr > 0, f"lr = {self.lr} has to be more than 0")
        check_rates(self.masking, self.weight_decay)
        good = self.micro_tokens >= 1
        check(good, f"micro_tokens = {self.micro_tokens} has to be at least 1")
        check(0 <= self.workers <= 64, f"workers = {self.workers} is not within 0..64")
        check(self.timeout > 0, f"timeout = {self.timeout} has to be more than 0 seconds")


@dataclass(frozen=True)
class Save:
    """When checkpoints are written, and which are kept."""

    # steps between checkpoints; 0 writes them only at the end of a phase and when the run stops
    every: int = 1000
    keep: int = 3  # number of the newest checkpoints that are kept
    # checkpoints whose step is a multiple of it are kept too; 0 keeps none of them
    keep_every: int = 0

    def __post_init__(self) -> None:
        check(self.every >= 0 <= self.keep_every, "every and keep_every have to be 0 or more")
        check(self.keep >= 1, f"keep = {self.keep} has to be at least 1")


@dataclass(frozen=True)
class Evaluate:
    """Evaluation on held-out rows, always with the same masks."""

    every: int = 1000  # steps between evaluations; 0 evaluates only at the end of a phase
    tokens: int = 262_144  # at most this many tokens, in rows of the phase's length, or one row
    masking: float = 0.15  # fraction of the tokens that is masked

    def __post_init__(self) -> None:
        good = self.every >= 0 and self.tokens >= 1
        check(good, "every has to be 0 or more, and tokens 1 or more")
        check_rates(self.masking)


@dataclass(frozen=True)
class Limits:
    """When steps are skipped and when a run is rolled back; see docs/pretraining.md."""

    RENAMED: ClassVar = {
        "least": "min_steps", "bad": "nonfinite", "spikes_recently": "recent_spikes",
        "bad_recently": "recent_nonfinite", "level": "shift_window",
        "level_sigmas": "shift_sigmas", "level_steps": "shift_steps", "back": "rollback_steps",
        "skip_least": "min_skip", "skip_most": "max_skip",
        "rollbacks_recently": "recent_rollbacks",
    }  # fmt: skip

    window: int = 128  # number of accepted steps that a new one is compared with
    # accepted steps needed before anything is compared, also at the start of a phase
    min_steps: int = 64
    # a spike is more than this many standard deviations above the mean of the window
    sigmas: float = 6.0
    factor: float = 1.1  # and also more than this factor times the mean
    spikes: int = 5  # this many consecutive spikes cause a rollback
    nonfinite: int = 3  # this many consecutive steps with a non-finite loss or gradient cause one
    recent_spikes: int = 10  # more than this many spikes in the last 1,000 steps cause a rollback
    recent_nonfinite: int = 10  # at least this many non-finite steps in the last 1,000 cause one
    shift_window: int = 32  # number of steps whose mean is compared with the window before them
    shift_sigmas: float = 3.0  # the loss has shifted if it is this many standard deviations above
    shift_steps: int = 100  # consecutive shifted steps that cause a rollback
    # a rollback goes back at least this many steps before the problem began
    rollback_steps: int = 100
    # batches that are skipped after a rollback
    min_skip: int = 200
    max_skip: int = 500
    rollbacks: int = 5  # largest number of rollbacks of a run; one more ends it
    recent_rollbacks: int = 2  # largest number of rollbacks within 5,000 steps

    def __post_init__(self) -> None:
        may_be_0 = ("rollback_steps", "min_skip", "rollbacks", "recent_rollbacks")
        for key, value in asdict(self).items():
            minimum = 0 if key in may_be_0 else 1
            check(value >= minimum, f"{key} = {value} has to be at least {minimum}")
        good = self.min_skip <= self.max_skip
        check(good, f"max_skip = {self.max_skip} is less than min_skip")
        good = self.min_steps <= self.window
        check(good, f"min_steps = {self.min_steps} is more than window = {self.window}")


@dataclass(frozen=True)
class Recipe:
    """A run."""

    phases: tuple[Phase, ...]  # in order
    train: Train  # how steps are computed
    model: Geometry = field(default_factory=Geometry)  # shape of the encoder
    init: Init = field(default_factory=Init)  # where its initial weights come from
    save: Save = field(default_factory=Save)  # when checkpoints are written
    # when the model is evaluated on held-out rows
    evaluate: Evaluate = field(default_factory=Evaluate)
    # when steps are skipped and when the run is rolled back
    health: Limits = field(default_factory=Limits)
    seed: int = 0  # random seed of data order, masks, dropout and initial weights

    def __post_init__(self) -> None:
        check(bool(self.phases), "a run needs at least one of [[phases]]")
        check(0 <= self.seed < 2**63, f"seed = {self.seed} is not within 0..2^63 - 1")
        names = [phase.name for phase in self.phases]
        unique = len(set(names)) == len(names)
        check(unique, f"two phases have the same name: {', '.join(names)}")
        for before, after in zip(self.phases, self.phases[1:], strict=False):
            check(
                after.seq_len >= before.seq_len,
                f"phase {after.name!r} has shorter rows ({after.seq_len}) than {before.name!r} "
                f"before it ({before.seq_len}); rows must not become shorter from phase to phase",
            )
        for phase in self.phases:
            phase.lr_schedule(self.train.lr)

    def micro_rows(self, phase: Phase, rows: int) -> int:
        """Return the rows of a micro-batch in a step of ``rows`` rows."""
        tokens = phase.micro_tokens or self.train.micro_tokens
        return min(rows, max(1, tokens // phase.seq_len))

    def masking(self, phase: Phase) -> float:
        """Return the masking rate of a phase."""
        return self.train.masking if phase.masking is None else phase.masking

    def key_of(self, name: str, number: int) -> str:
        """Return the key of a phase's value: "phases.1.lr" if it has its own, or "train.lr"."""
        own = getattr(self.phases[number], name) is not None
        return f"phases.{number}.{name}" if own else f"train.{name}"

    def dtype_on(self, device: torch.device) -> torch.dtype:
        """Return the dtype of matrix products on a device."""
        name = self.train.dtype
        return fastest_dtype(device) if name == "auto" else DTYPES[name]

    def check_world_size(self, world_size: int) -> None:
        """Raise InputError if the steps of this run cannot be divided by a number of ranks."""
        if self.train.reduce == "tree" and world_size & (world_size - 1):
            what = f'{world_size} ranks cannot use train.reduce = "tree"'
            raise InputError(what, how="use 1, 2, 4, 8 ...")
        for number, phase in enumerate(self.phases):
            key = self.key_of("micro_tokens", number)
            first = phase.first_rows or phase.rows
            for rows in range(first, phase.rows + 1, first):
                micro = self.micro_rows(phase, rows)
                if rows % (micro * world_size) == 0:
                    continue
                fitting = (m for m in range(1, rows + 1) if rows % (m * world_size) == 0)
                good = " or ".join([str(m * phase.seq_len) for m in fitting][-3:])
                how = f"make the rows of every step a multiple of {world_size}"
                ranks = f"{counted(world_size, 'rank')} x micro-batches of {counted(micro, 'row')}"
                raise InputError(
                    f"a step of {counted(rows, 'row')} is not a multiple of {ranks}",
                    f"phase {phase.name!r}", f"set {key} to {good}" if good else how,
                )  # fmt: skip

    def config(self, base: EncoderConfig, phase: int) -> EncoderConfig:
        """Return the model's configuration in a phase: its RoPE base and its context length."""
        seq_len, theta = self.phases[phase].seq_len, self.phases[phase].theta
        theta = base.global_rope_theta if theta is None else theta
        return replace(base, max_position_embeddings=seq_len, global_rope_theta=theta)

    def steps(self) -> int:
        """Return the number of steps of the whole run."""
        return sum(phase.steps() for phase in self.phases)

    def with_steps(self, steps: int) -> "Recipe":
        """Scale every phase so that the run has ``steps`` steps."""
        if steps < len(self.phases):
            what = f"steps = {steps} is less than one per phase ({len(self.phases)})"
            raise InputError(what, how=f"use --steps {len(self.phases)} or more")
        each = [phase.steps() for phase in self.phases]
        scaled = [count * steps / sum(each) for count in each]
        given = [max(1, int(exact)) for exact in scaled]
        while sum(given) > steps:  # phases of less than a step took one
            given[given.index(max(given))] -= 1
        by_rest = sorted(range(len(each)), key=lambda i: given[i] - scaled[i])
        for i in by_rest[: steps - sum(given)]:
            given[i] += 1
        phases = tuple(p.with_steps(n) for p, n in zip(self.phases, given, strict=True))
        return replace(self, phases=phases)


def load(path: str | Path, changes: Sequence[str] = (), steps: int | None = None) -> Recipe:
    """Read a recipe from TOML, changed as in `strict.load`, and scaled to a length in steps."""
    recipe = strict.load(Recipe, path, changes)
    return recipe if steps is None else recipe.with_steps(steps)


def differences(old: object, new: object, at: str = "") -> Iterator[str]:
    """Yield the differences of two recipes (as dictionaries): "train.lr is 0.001, was 0.002"."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in old.keys() | new.keys():
            yield from differences(old.get(key), new.get(key), f"{at}.{key}" if at else key)
    elif isinstance(old, list | tuple) and isinstance(new, list | tuple) and len(old) == len(new):
        for i, (one, other) in enumerate(zip(old, new, strict=True)):
            yield from differences(one, other, f"{at}.{i}")
    elif old != new:
        yield f"{at} is {new!r}, was {old!r}"
