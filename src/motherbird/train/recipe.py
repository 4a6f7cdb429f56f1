"""What a run is: one TOML file, read strictly into frozen dataclasses.

Lengths are tokens of full rows: a phase, its learning rate and its batches depend on nothing but
the rows that all ranks together have taken (`schedule`), so that every step of a run, and their
number, is known before the first.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from .. import strict
from ..core import presets
from ..core.config import EncoderConfig
from ..core.tokenizer import Tokenizer
from ..errors import InputError
from .phase import Phase, check_masking, check_weight_decay

PRESETS = {
    "base": presets.base, "large": presets.large, "mini": presets.mini, "nano": presets.nano
}  # fmt: skip


@dataclass(frozen=True)
class Geometry:
    """The encoder's shape; vocabulary and special ids come from the data's tokenizer.

    Attributes:
        preset: "base", "large", "mini" or "nano"; what it says the other keys may change. Without
            it, and without `Init.from_`, it is base.
        dropout: of the attention's output (paper: 0.1); published checkpoints say 0 and mean "for
            inference".
        initializer_range: standard deviation of the initial matrices (paper: 0.02). A narrow
            model needs about 1 / sqrt(width); see docs/log.md.
    """

    preset: Literal["base", "large", "mini", "nano"] | None = None
    hidden_size: int | None = None
    intermediate_size: int | None = None
    num_hidden_layers: int | None = None
    num_attention_heads: int | None = None
    local_attention: int | None = None
    global_attn_every_n_layers: int | None = None
    local_rope_theta: float | None = None
    initializer_range: float | None = None
    dropout: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.dropout < 1:
            raise InputError(f"dropout = {self.dropout} is not within 0..1")

    def changes(self) -> dict[str, Any]:
        """The keys of `EncoderConfig` that are given."""
        own = ("preset", "dropout")
        given = {k: v for k, v in asdict(self).items() if v is not None and k not in own}
        return {**given, "attention_dropout": self.dropout}

    def config(self, tokenizer: Tokenizer, start: EncoderConfig | None = None) -> EncoderConfig:
        """The configuration for a tokenizer.

        Args:
            tokenizer: of the data.
            start: what the run begins from, where no preset is named.

        Raises:
            InputError: the shape is impossible.
        """
        if self.preset is not None or start is None:
            start = PRESETS[self.preset or "base"]()
        special: dict[str, Any] = {
            f"{role}_token_id": tokenizer.id_of(role) if role in tokenizer.special else None
            for role in ("cls", "sep", "pad")
        }
        return replace(
            start,
            vocab_size=-(-tokenizer.vocab_size // 64) * 64,  # a multiple that matrix units like
            bos_token_id=special["cls_token_id"],
            eos_token_id=special["sep_token_id"],
            **special,
            **self.changes(),
        )


@dataclass(frozen=True)
class Init:
    """Where the weights come from; from chance where nothing is said.

    Attributes:
        from_: another run's folder (its newest state), or a Hugging Face directory or name. A
            smaller model is tiled into the larger one (paper 2.2.2).
    """

    from_: str | None = None


@dataclass(frozen=True)
class Train:
    """How every step is made.

    Attributes:
        lr: peak learning rate of the phases that do not say theirs.
        weight_decay: likewise; norms and biases have none.
        masking: likewise (paper: 0.3).
        optimizer: "stableadamw" (paper), or "muon" for the matrices of the layers.
        micro_tokens: tokens of a micro-batch, at least a row: what is held in memory at a time.
        dtype: of the products: "auto" is the fastest of the device; weights are float32.
        reduce: how gradients of micro-batches are added up: "sum" is fast, "tree" gives the same
            bits for 1, 2, 4 ... ranks.
        workers: processes that read ahead; 0 reads in between.
        timeout: seconds after which a rank that does not answer ends the run.
    """

    lr: float
    weight_decay: float = 1e-5
    masking: float = 0.3
    optimizer: Literal["stableadamw", "muon"] = "stableadamw"
    micro_tokens: int = 8192
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    reduce: Literal["sum", "tree"] = "sum"
    workers: int = 1
    timeout: float = 60.0

    def __post_init__(self) -> None:
        if not self.lr > 0:
            raise InputError(f"lr = {self.lr} has to be more than 0")
        check_weight_decay(self.weight_decay)
        check_masking(self.masking)
        if self.micro_tokens < 1:
            raise InputError(f"micro_tokens = {self.micro_tokens} has to be at least 1")
        if not 0 <= self.workers <= 64:
            raise InputError(f"workers = {self.workers} is not within 0..64")
        if not self.timeout > 0:
            raise InputError(f"timeout = {self.timeout} has to be more than 0 seconds")


@dataclass(frozen=True)
class Save:
    """When the run's state is saved, and what is kept.

    Attributes:
        every: steps; 0 saves only where a phase ends and where the run stops.
        keep: of the newest.
        keep_every: also those whose step is a multiple of it; 0 none.
    """

    every: int = 1000
    keep: int = 3
    keep_every: int = 0

    def __post_init__(self) -> None:
        if self.every < 0 or self.keep_every < 0:
            raise InputError("every and keep_every are steps, 0 or more")
        if self.keep < 1:
            raise InputError(f"keep = {self.keep} has to be at least 1")


@dataclass(frozen=True)
class Evaluate:
    """Evaluation on held-out rows, with 15% masked and always alike.

    Attributes:
        every: steps; 0 only where a phase ends.
        tokens: in rows of the phase's length, as many as fit; at least one row.
        masking: share of the tokens that are masked.
    """

    every: int = 1000
    tokens: int = 262_144
    masking: float = 0.15

    def __post_init__(self) -> None:
        if self.every < 0 or self.tokens < 1:
            raise InputError("every is steps, 0 or more; tokens are 1 or more")
        check_masking(self.masking)


@dataclass(frozen=True)
class Limits:
    """When a run's health is in doubt; docs/pretraining.md explains the figures.

    Attributes:
        window: accepted steps that a new one is compared with.
        least: of them before anything is judged; also steps of peace after a phase begins.
        sigmas: a spike is so many standard deviations above the mean ...
        factor: ... and so many times the mean.
        spikes: in a row, before the run rolls back.
        bad: steps that were not finite in a row, likewise.
        spikes_recently: in the last 1,000 steps, likewise.
        bad_recently: likewise.
        level: steps whose mean is compared with the window before them.
        level_sigmas: how far it may lie above.
        level_steps: for so long, before the run rolls back.
        back: steps before the onset that a rollback goes to, at least.
        skip_least, skip_most: batches that are skipped after it.
        rollbacks: in a run, before it stops.
        rollbacks_recently: in 5,000 steps, likewise.
    """

    window: int = 128
    least: int = 64
    sigmas: float = 6.0
    factor: float = 1.1
    spikes: int = 5
    bad: int = 3
    spikes_recently: int = 10
    bad_recently: int = 10
    level: int = 32
    level_sigmas: float = 3.0
    level_steps: int = 100
    back: int = 100
    skip_least: int = 200
    skip_most: int = 500
    rollbacks: int = 5
    rollbacks_recently: int = 2

    def __post_init__(self) -> None:
        for key, value in asdict(self).items():
            least = 0 if key in ("back", "skip_least", "rollbacks", "rollbacks_recently") else 1
            if value < least:
                raise InputError(f"{key} = {value} has to be at least {least}")
        if self.skip_most < self.skip_least:
            raise InputError(f"skip_most = {self.skip_most} is less than skip_least")
        if self.least > self.window:
            raise InputError(f"least = {self.least} is more than window = {self.window}")


@dataclass(frozen=True)
class Recipe:
    """A run.

    Attributes:
        phases: in order.
        train: how steps are made.
        model: the encoder.
        init: where its weights come from.
        save: its state.
        evaluate: on held-out rows.
        health: when it is in doubt.
        seed: of order, masks, dropout and initial weights.
    """

    phases: tuple[Phase, ...]
    train: Train
    model: Geometry = field(default_factory=Geometry)
    init: Init = field(default_factory=Init)
    save: Save = field(default_factory=Save)
    evaluate: Evaluate = field(default_factory=Evaluate)
    health: Limits = field(default_factory=Limits)
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.phases:
            raise InputError("a run needs at least one of [[phases]]")
        if not 0 <= self.seed < 2**63:
            raise InputError(f"seed = {self.seed} is not within 0..2^63 - 1")
        names = [phase.name for phase in self.phases]
        if len(set(names)) < len(names):
            raise InputError(f"two phases have one name: {', '.join(names)}")
        for before, after in zip(self.phases, self.phases[1:], strict=False):
            if after.seq_len < before.seq_len:
                raise InputError(
                    f"phase {after.name!r} has shorter rows ({after.seq_len}) than "
                    f"{before.name!r} before it ({before.seq_len}); context only grows"
                )
        for phase in self.phases:
            phase.rate(self.train.lr)

    def micro_rows(self, phase: Phase, rows: int) -> int:
        """Rows of a micro-batch in a step of so many."""
        tokens = phase.micro_tokens or self.train.micro_tokens
        return min(rows, max(1, tokens // phase.seq_len))

    def masking(self, phase: Phase) -> float:
        """The share that a phase masks."""
        return self.train.masking if phase.masking is None else phase.masking

    def key_of(self, name: str, number: int) -> str:
        """The key by which a phase's value changes: "train.lr", or "phases.1.lr" if its own."""
        own = getattr(self.phases[number], name) is not None
        return f"phases.{number}.{name}" if own else f"train.{name}"

    def sizes(self, phase: Phase) -> list[int]:
        """The numbers of rows that its steps can have."""
        return list(range(phase.first_rows or phase.rows, phase.rows + 1, phase.first_rows or 1))

    def check_world(self, world: int) -> None:
        """Refuse a number of ranks that a step of this run cannot be shared by.

        Raises:
            InputError: naming the phase, and what would do.
        """
        if self.train.reduce == "tree" and world & (world - 1):
            raise InputError(
                f"{world} ranks cannot share a tree", 'train.reduce = "tree"', "use 1, 2, 4, 8 ..."
            )
        for number, phase in enumerate(self.phases):
            key = self.key_of("micro_tokens", number)
            for rows in self.sizes(phase):
                micro = self.micro_rows(phase, rows)
                if rows % (micro * world):
                    fitting = (m for m in range(1, rows + 1) if rows % (m * world) == 0)
                    good = " or ".join([str(m * phase.seq_len) for m in fitting][-3:])
                    raise InputError(
                        f"a step of {rows} rows is no multiple of {world} ranks x micro-batches of "
                        f"{micro} rows",
                        f"phase {phase.name!r}",
                        f"set {key} to {good}"
                        if good
                        else f"make the rows of every step a multiple of {world}",
                    )

    def config(self, base: EncoderConfig, phase: int) -> EncoderConfig:
        """The model's configuration while a phase runs: its theta, and the length reached."""
        theta = self.phases[phase].theta
        return replace(
            base,
            max_position_embeddings=self.phases[phase].seq_len,  # which only grows
            global_rope_theta=base.global_rope_theta if theta is None else theta,
        )

    def steps(self) -> int:
        """Of the whole run."""
        return sum(phase.steps() for phase in self.phases)

    def of_steps(self, steps: int) -> "Recipe":
        """The same run with so many steps, every phase in proportion.

        Raises:
            InputError: fewer than a step for each phase.
        """
        if steps < len(self.phases):
            raise InputError(f"{steps} steps are too few for {len(self.phases)} phases")
        each = [phase.steps() for phase in self.phases]
        shares = [count * steps / sum(each) for count in each]
        given = [max(1, int(share)) for share in shares]
        while sum(given) > steps:  # phases of less than a step took one
            given[given.index(max(given))] -= 1
        by_rest = sorted(range(len(each)), key=lambda i: given[i] - shares[i])
        for i in by_rest[: steps - sum(given)]:
            given[i] += 1
        phases = tuple(p.of_steps(n) for p, n in zip(self.phases, given, strict=True))
        return replace(self, phases=phases)


def load(path: str | Path, changes: Sequence[str] = (), steps: int | None = None) -> Recipe:
    """Read a recipe.

    Args:
        path: a TOML file.
        changes: "a.b=c" each; see `strict.load`.
        steps: of the whole run, instead of what the file says.

    Raises:
        InputError: listing all mistakes.
    """
    recipe = strict.load(Recipe, path, changes)
    return recipe if steps is None else recipe.of_steps(steps)


def from_json(data: object, where: str) -> Recipe:
    """A recipe that was written as JSON."""
    return strict.build(Recipe, data, where)


def differences(old: object, new: object, at: str = "") -> Iterator[str]:
    """What two recipes (as dictionaries) differ in: "train.lr: 0.001, was 0.002"."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in old.keys() | new.keys():
            yield from differences(old.get(key), new.get(key), f"{at}.{key}" if at else key)
    elif isinstance(old, list | tuple) and isinstance(new, list | tuple) and len(old) == len(new):
        for i, (one, other) in enumerate(zip(old, new, strict=True)):
            yield from differences(one, other, f"{at}.{i}")
    elif old != new:
        yield f"{at}: {new!r}, was {old!r}"
