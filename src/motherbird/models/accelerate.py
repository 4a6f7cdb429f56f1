"""Our encoder inside a model of transformers or sentence-transformers that is loaded already.

One attribute is set: ``forward`` of every ``ModernBertModel`` in the model. Class, weights, names,
configuration and files stay what they were, and our encoder computes with the very same parameters.
Whatever it does not do, or would do by other arithmetic, the model's own forward does.
"""

import inspect
import logging
import weakref
from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any, TypeVar, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ..core import hf_config
from ..errors import InputError
from ..nn.encoder import Encoder
from ..nn.packed import unpad

log = logging.getLogger(__name__)

M = TypeVar("M", bound=nn.Module)

_HOME = "transformers.models.modernbert.modeling_modernbert"
# What a ModernBertModel is built of; anything else inside it computes something of its own.
_PARTS = (nn.Embedding, nn.LayerNorm, nn.Linear, nn.Dropout, nn.Identity, nn.ModuleList)
_HOMES_OF_PARTS = (_HOME, "transformers.activations", "torch.nn.modules.activation")
# Where transformers has hooks that it leaves on layers for good, and that change no output: they
# record hidden states once these were asked for, and let gradients into checkpointed layers.
_HOMES_OF_HOOKS = ("transformers.utils.output_capturing", "transformers.modeling_utils")
# Arguments that reach a ModernBertModel and change nothing in what it computes.
# The last two come from the classifiers of 5.0, and matter only beside boundaries.
_HARMLESS = ("return_dict", "num_items_in_batch", "token_type_ids", "batch_size", "seq_len")
_FLAGS = ("output_hidden_states", "output_attentions", "is_causal")


def accelerate(model: M) -> M:
    """Run a loaded model of the ModernBERT family through motherbird's encoder, without padding.

    Outputs are those of before at every token, and zero at padded places, where transformers has
    numbers without a meaning. Weights, names, files, training and all else stay the model's own;
    `restore` takes the encoder out again. Accelerating twice is the same as once.

    The model's own forward goes on computing, rightly and at its own speed, what our encoder does
    not: see docs/accelerate.md. Each reason is logged once, at level INFO.

    Args:
        model: a SentenceTransformer, CrossEncoder, MultiVectorEncoder or SparseEncoder, a model of
            transformers, or any module that holds one.

    Returns:
        The model that was given.

    Raises:
        InputError: no ModernBERT is in it, or one whose layers were replaced (adapters,
            quantisation) or lie on several devices.
    """
    _check_module(model, "accelerate")
    found = [module for module in model.modules() if _is_family(module)]
    if not found:
        raise _another_architecture(model)
    # The loss over the spans of a text is a softmax over its row, padded places included.
    spans = [m.model for m in model.modules() if type(m).__name__.endswith("ForQuestionAnswering")]
    forwards = [
        _Forward(module, _earlier_forward(module), any(module is m for m in spans))
        for module in found
    ]
    for forward in forwards:
        forward.current_encoder()  # every refusal comes before the first change
    for module, forward in zip(found, forwards, strict=True):
        module.forward = forward
    return model


def restore(model: M) -> M:
    """Undo `accelerate`: the model runs its own code again.

    Args:
        model: an accelerated model; any other is left as it is.

    Returns:
        The model that was given.

    Raises:
        InputError: it is no model at all.
    """
    _check_module(model, "restore")
    for module in model.modules():
        if isinstance(vars(module).get("forward"), _Forward):
            earlier = _earlier_forward(module)
            del module.forward
            if earlier is not None:
                module.forward = earlier
    return model


class _Forward:
    """Stands for ``forward`` of one ModernBertModel.

    It survives copying and pickling of the model, and keeps no model alive: a cycle would hold its
    memory until the garbage collector comes by.

    Args:
        module: the ModernBertModel.
        earlier: what another library had put in this place; None where the class's was in force.
        padding_is_read: the head above reads the vectors of padded places.
    """

    def __init__(
        self, module: nn.Module, earlier: Callable[..., Any] | None, padding_is_read: bool
    ) -> None:
        self._module = weakref.ref(module)
        self.earlier = earlier
        self._padding_is_read = padding_is_read
        self._encoder: Encoder | None = None  # made when needed: unpickling has no weights yet
        self._parts: list[tuple[dict[str, Any], str, object]] = []
        self._hooks: list[dict[int, Any]] = []
        self._droppers: list[nn.Module] = []

    def __reduce__(self) -> tuple[Any, ...]:
        return _Forward, (self._module(), self.earlier, self._padding_is_read)

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(self._own())

    def __call__(
        self, input_ids: Any = None, attention_mask: Any = None, *more: Any, **kwargs: Any
    ) -> Any:
        """The arguments and the result of ``ModernBertModel.forward``."""
        # A trace would freeze the lengths of this batch; their code is made for it, ours is not.
        if torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None:
            return self._own()(input_ids, attention_mask, *more, **kwargs)
        module: Any = self._module()
        reason = _why_not(module.config, input_ids, attention_mask, more, kwargs)
        if reason is None:
            encoder = self.current_encoder()
            mask = _as_mask(input_ids, attention_mask)
            reason = self._why_not_now(module) or _why_not_batch(
                input_ids, mask, encoder.config.vocab_size, module.config.pad_token_id
            )
            if reason is None and self._padding_is_read and not mask.all():
                reason = "question answering reads padded places"
        if reason is not None:
            _announce(reason)
            return self._own()(input_ids, attention_mask, *more, **kwargs)
        if encoder.training is not module.training:
            encoder.train(module.training)
        hidden = _encode(encoder, input_ids, mask)
        output = import_module("transformers.modeling_outputs").BaseModelOutput(hidden)
        wanted = kwargs.get("return_dict")
        wanted = getattr(module.config, "return_dict", True) if wanted is None else wanted
        return output if wanted else output.to_tuple()

    def _own(self) -> Callable[..., Any]:
        module = cast(nn.Module, self._module())
        return self.earlier or type(module).forward.__get__(module)

    def current_encoder(self) -> Encoder:
        """Our encoder over the parameters that the module has now.

        Raises:
            InputError: its layers were replaced by something that is not ModernBERT's.
        """
        if self._encoder is None or self._changed(self._encoder):
            module = cast(nn.Module, self._module())
            self._encoder = _twin(module)
            children = list(module.modules())
            self._parts = [
                (table, key, x)
                for child in children
                for table in (child._parameters, child._modules)
                for key, x in table.items()
            ]
            self._hooks = [
                hooks
                for child in children[1:]  # those of the module itself are called as ever
                for hooks in (child._forward_hooks, child._forward_pre_hooks,
                              child._backward_hooks, child._backward_pre_hooks)
            ]  # fmt: skip
            self._droppers = [c for c in children if _drop_rate(c) is not None]
        return self._encoder

    def _changed(self, encoder: Encoder) -> bool:
        # transformers resizes a vocabulary within the same parameter.
        resized = len(encoder.embeddings.tok_embeddings.weight) != encoder.config.vocab_size
        return resized or any(table.get(key) is not x for table, key, x in self._parts)

    def _why_not_now(self, module: nn.Module) -> str | None:
        # Theirs drops probabilities too, and the same seed must go on giving the same loss.
        if any(dropper.training and _drop_rate(dropper) for dropper in self._droppers):
            return "it is trained with dropout"
        if module.training and getattr(module, "gradient_checkpointing", False):
            return "it is trained with gradient checkpointing"
        hooks = [hook for table in self._hooks if table for hook in table.values()]
        if any(getattr(hook, "__module__", None) not in _HOMES_OF_HOOKS for hook in hooks):
            return "a hook on one of its layers has to be called"
        return None


def _why_not(
    config: Any, ids: Any, attention_mask: Any, more: tuple[Any, ...], named: dict[str, Any]
) -> str | None:
    """A reason in the arguments for the model's own forward, or None."""
    if not isinstance(ids, Tensor) or ids.ndim != 2 or not ids.numel():
        return "the input is no batch of token ids"
    if attention_mask is not None and (
        not isinstance(attention_mask, Tensor) or attention_mask.shape != ids.shape
    ):
        return "the attention mask is not one of rows and places"
    asked = [name for name, x in named.items() if x is not None and x is not False]
    if any(x is not None for x in more) or any(name not in _HARMLESS for name in asked):
        return f"more than ids and a mask was given: {', '.join(asked) or 'by position'}"
    if any(getattr(config, flag, False) for flag in _FLAGS):
        return f"the configuration asks for one of {', '.join(_FLAGS)}"
    if ids.shape[1] > config.max_position_embeddings:
        return "a row is longer than max_position_embeddings"
    return None


def _as_mask(
    ids: Int[Tensor, "S longest"], attention_mask: Tensor | None
) -> Bool[Tensor, "S longest"]:
    if attention_mask is None:
        return torch.ones_like(ids, dtype=torch.bool)
    return attention_mask.to(ids.device, torch.bool)


def _why_not_batch(
    ids: Int[Tensor, "S longest"],
    mask: Bool[Tensor, "S longest"],
    vocab_size: int,
    pad_token_id: int | None,
) -> str | None:
    """A reason in what the batch holds for the model's own forward, or None.

    Raises:
        InputError: an id is outside the vocabulary (a GPU would poison the whole process).
    """
    outside = mask & ((ids < 0) | (ids >= vocab_size))
    resumed = mask[:, 1:] & ~mask[:, :-1]
    # Late interaction reads the vectors of [MASK] where nothing attends to it (ColBERT).
    foreign = ~mask & (ids != (-1 if pad_token_id is None else pad_token_id))
    # One transfer from a GPU instead of four.
    wrong, some, holes, read = torch.stack(
        [outside.any(), mask.any(), resumed.any(), foreign.any()]
    ).tolist()
    if wrong:
        row, place = outside.nonzero()[0].tolist()
        raise InputError(
            f"token id {int(ids[row, place])} is outside the vocabulary",
            f"row {row}, place {place} of the batch",
            f"ids go from 0 to {vocab_size - 1}; is this the model's own tokenizer?",
        )
    if not some:
        return "a batch has no token"
    if holes:
        return "rows are padded on the left or have holes"
    if read:
        return "masked places hold other tokens than pad_token_id, as if somebody read them"
    return None


def _encode(
    encoder: Encoder, ids: Int[Tensor, "S longest"], mask: Bool[Tensor, "S longest"]
) -> Float[Tensor, "S longest D"]:
    packed, places = unpad(ids, mask)
    hidden = encoder(packed)
    if len(places) < ids.numel():  # else the rows lie end to end already
        padded = hidden.new_zeros(ids.numel(), hidden.shape[1])
        padded[places.to(hidden.device)] = hidden
        hidden = padded
    # nn.DataParallel gives its replicas this forward, which computes where the weights are.
    return hidden.unflatten(0, ids.shape).to(ids.device)


def _twin(module: nn.Module) -> Encoder:
    """Our encoder, made of the module's own parameters.

    Raises:
        InputError: the module is not made as ModernBERT is.
    """
    _check_parts(module)
    raw = cast(Any, module.config).to_dict()
    raw.pop("auto_map", None)  # the code that it names is not the code that runs
    # The vocabulary may have been resized; special ids do not concern an encoder; see `_why_not`.
    embedding = cast(Any, module).embeddings.tok_embeddings
    raw["vocab_size"] = embedding.num_embeddings
    raw |= dict.fromkeys(f"{name}_token_id" for name in ("pad", "bos", "eos", "cls", "sep"))
    raw |= {"embedding_dropout": 0.0, "attention_dropout": 0.0, "mlp_dropout": 0.0}
    config = hf_config.read(raw, "the model's configuration")
    with torch.device("meta"):
        encoder = Encoder(config)
    parameters = dict(module.named_parameters(remove_duplicate=False))
    shapes = {name: parameter.shape for name, parameter in encoder.named_parameters()}
    for name in sorted(parameters.keys() ^ shapes.keys()):
        raise _altered(f"the parameter {name} {'is missing' if name in shapes else 'is new'}")
    for name, parameter in parameters.items():
        if parameter.shape != shapes[name]:
            raise _altered(f"{name} is {(*parameter.shape,)}, not {(*shapes[name],)}")
        # load_state_dict(assign=True) would thaw those that are frozen.
        owner, _, last = name.rpartition(".")
        setattr(encoder.get_submodule(owner), last, parameter)
    encoder.embeddings.tok_embeddings.padding_idx = embedding.padding_idx
    return encoder


def _check_parts(module: nn.Module) -> None:
    for name, part in module.named_modules():
        plain = type(part) in _PARTS or type(part).__module__ in _HOMES_OF_PARTS
        if name and (not plain or "forward" in vars(part)):
            raise _altered(f"{name} is {type(part).__name__} of another library or its own")
    devices = set()
    for name, parameter in module.named_parameters():
        plain = type(parameter) is nn.Parameter and type(parameter.data) is Tensor
        if not plain or not parameter.is_floating_point() or parameter.is_meta:
            raise _altered(f"{name} is no plain tensor of floating dtype")
        devices.add(parameter.device)
    if len(devices) > 1:
        raise _altered(f"its weights lie on {' and '.join(sorted(map(str, devices)))}")


def _altered(what: str) -> InputError:
    return InputError(
        f"a ModernBertModel was altered: {what}",
        "motherbird.accelerate",
        "merge or remove what was put into it, or call motherbird.restore(model) and use it as is",
    )


def _drop_rate(part: nn.Module) -> float | None:
    """Of outputs or of attention probabilities; None where a part drops neither."""
    return (
        cast(Any, part).p
        if isinstance(part, nn.Dropout)
        else getattr(part, "attention_dropout", None)
    )


@cache
def _announce(reason: str) -> None:
    log.info("an accelerated model runs its own forward: %s", reason)


def _check_module(model: object, function: str) -> None:
    if not isinstance(model, nn.Module):
        raise InputError(
            f"{type(model).__name__} is not a model",
            f"motherbird.{function}",
            "give a loaded model of sentence-transformers or transformers",
        )


def _is_family(module: nn.Module) -> bool:
    return type(module).__name__ == "ModernBertModel" and type(module).__module__ == _HOME


def _another_architecture(model: nn.Module) -> InputError:
    inside = (m for m in model.modules() if type(m).__module__.startswith("transformers."))
    found = next(inside, model)
    kind = getattr(getattr(found, "config", None), "model_type", None)
    of_kind = f" of type {kind!r}" if isinstance(kind, str) else ""
    return InputError(
        f"{type(found).__name__}{of_kind} is no ModernBertModel of transformers",
        "motherbird.accelerate",
        "it takes models of type 'modernbert' (ModernBERT, Ettin, mmBERT, GTE, Granite R2 and the "
        "like) and what sentence-transformers builds on them; motherbird's own are fast already",
    )


def _earlier_forward(module: nn.Module) -> Callable[..., Any] | None:
    """What stood in the instance before us, put there by another library; None where nothing."""
    forward = vars(module).get("forward")
    return forward.earlier if isinstance(forward, _Forward) else forward
