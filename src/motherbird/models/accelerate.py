"""Run a loaded model of transformers or sentence-transformers on motherbird's encoder.

Only one attribute is set: ``forward`` of every ``ModernBertModel`` in the model. Class, weights,
names, configuration and files do not change, and motherbird's encoder uses the same parameters.
What motherbird does not support, or would compute differently, the model's own forward computes.
"""

import inspect
import logging
import weakref
from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from ..arrays import Float, Int
from ..core import hf_config
from ..engine import library
from ..engine.model import NativeModel
from ..errors import InputError
from ..nn.checkpoint import from_torch
from ..nn.encoder import Encoder
from ..nn.packed import Packed, unpad
from .accelerate_checks import as_mask, why_not, why_not_batch

log = logging.getLogger(__name__)

M = TypeVar("M", bound=nn.Module)

_MODULE = "transformers.models.modernbert.modeling_modernbert"
# The modules of a ModernBertModel; any other module computes something different.
_PARTS = (nn.Embedding, nn.LayerNorm, nn.Linear, nn.Dropout, nn.Identity, nn.ModuleList)
_MODULES_OF_PARTS = (_MODULE, "transformers.activations", "torch.nn.modules.activation")
# Modules of transformers whose hooks stay on layers and do not change outputs: they record hidden
# states after these were requested, and let gradients into checkpointed layers.
_MODULES_OF_HOOKS = ("transformers.utils.output_capturing", "transformers.modeling_utils")


def accelerate(model: M) -> M:
    """Compute a loaded model of the ModernBERT family with motherbird's encoder, without padding.

    Outputs are the same at every token. At padding positions, whose outputs in transformers are
    meaningless, they are zero. Weights, names, files and training of the model do not change.
    `restore` reverts it. On a CPU without gradients the engine computes it, from a packed copy of
    the weights. Call it again after weights were written through ``p.data`` in evaluation mode:
    torch does not count these writes, so the copy is outdated. Writes under `torch.no_grad`
    (``p.copy_(x)``) are noticed.

    The model's own forward computes what motherbird's encoder does not support; see
    docs/accelerate.md. Each reason is logged once, at level INFO.

    Args:
        model: a SentenceTransformer, CrossEncoder, MultiVectorEncoder or SparseEncoder, a model of
            transformers, or any module that contains one.

    Returns:
        The same model.

    Raises:
        InputError: the model contains no ModernBERT, or one whose layers were replaced (adapters,
            quantization) or are on several devices.
    """
    _check_module(model, "accelerate")
    found = [module for module in model.modules() if _is_family(module)]
    if not found:
        raise _another_architecture(model)
    # The loss of question answering is a softmax over the whole row, padding included.
    spans = [m.model for m in model.modules() if type(m).__name__.endswith("ForQuestionAnswering")]
    forwards = [
        _Forward(module, _earlier_forward(module), any(module is m for m in spans))
        for module in found
    ]
    for forward in forwards:
        forward.current_encoder()  # raises before anything is changed
    for module, forward in zip(found, forwards, strict=True):
        module.forward = forward
    return model


def restore(model: M) -> M:
    """Revert `accelerate`, so that the model runs its own code again; return the same model.

    Any other model is not changed.

    Raises:
        InputError: it is not a torch module.
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
    """Replaces ``forward`` of a ModernBertModel.

    It can be copied and pickled with the model, and has only a weak reference to it: a reference
    cycle would keep its memory until the next garbage collection.

    Args:
        module: the ModernBertModel.
        earlier: the ``forward`` that another library had set on the instance, or None.
        padding_is_read: whether the head reads the vectors at padding positions.
    """

    def __init__(
        self, module: nn.Module, earlier: Callable[..., Any] | None, padding_is_read: bool
    ) -> None:
        self._module = weakref.ref(module)
        self.earlier = earlier
        self._padding_is_read = padding_is_read
        # Built when it is needed, because there are no weights yet while unpickling.
        self._encoder: Encoder | None = None
        self._native: NativeModel | None = None
        self._packed_from: list[tuple[int, int]] = []
        self._parts: list[tuple[dict[str, Any], str, object]] = []
        self._hooks: list[dict[int, Any]] = []
        self._dropout_modules: list[nn.Module] = []

    def __reduce__(self) -> tuple[Any, ...]:
        return _Forward, (self._module(), self.earlier, self._padding_is_read)

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(self._own())

    def __call__(
        self, input_ids: Any = None, attention_mask: Any = None, *more: Any, **kwargs: Any
    ) -> Any:
        """Take the arguments of ``ModernBertModel.forward``, and return its result."""
        # Tracing would fix the lengths of this batch; the model's own code supports it.
        if torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None:
            return self._own()(input_ids, attention_mask, *more, **kwargs)
        module: Any = self._module()
        reason = why_not(module.config, input_ids, attention_mask, more, kwargs)
        if reason is None:
            encoder = self.current_encoder()
            mask = as_mask(input_ids, attention_mask)
            reason = self._why_not_now(module) or why_not_batch(
                input_ids, mask, encoder.config.vocab_size, module.config.pad_token_id
            )
            if reason is None and self._padding_is_read and not mask.all():
                reason = "question answering reads padding positions"
        if reason is not None:
            _log_once(reason)
            return self._own()(input_ids, attention_mask, *more, **kwargs)
        if encoder.training is not module.training:
            encoder.train(module.training)
        packed, indices = unpad(input_ids, mask)
        states = _repad(self._compute(encoder, packed), indices, input_ids)
        output = import_module("transformers.modeling_outputs").BaseModelOutput(states)
        wanted = kwargs.get("return_dict")
        wanted = getattr(module.config, "return_dict", True) if wanted is None else wanted
        return output if wanted else output.to_tuple()

    def _compute(self, encoder: Encoder, packed: Packed) -> Float[Tensor, "T D"]:
        """Compute a batch on the engine, or with torch on a GPU, in float16 or for gradients."""
        dtype = encoder.final_norm.weight.dtype
        name = str(dtype).removeprefix("torch.")
        device = encoder.device.type
        gradient = torch.is_grad_enabled() and any(p.requires_grad for p in encoder.parameters())
        if (
            device != "cpu" or encoder.training or gradient or torch.is_autocast_enabled(device)
            or not library.computes(name)
        ):  # fmt: skip
            return encoder(packed)
        tensors = dict(encoder.named_parameters())
        written = [(t.data_ptr(), 0 if t.is_inference() else t._version) for t in tensors.values()]
        if self._native is None or written != self._packed_from:
            arrays = {f"model.{n}": from_torch(t.detach()) for n, t in tensors.items()}
            self._native, self._packed_from = NativeModel(encoder.config, arrays, name), written
        ids, cu_seqlens = packed.ids.int().numpy(), packed.cu_seqlens.int().numpy()
        return torch.from_numpy(self._native.run(ids, cu_seqlens, "tokens")).to(dtype)

    def _own(self) -> Callable[..., Any]:
        module = cast(nn.Module, self._module())
        return self.earlier or type(module).forward.__get__(module)

    def current_encoder(self) -> Encoder:
        """Return motherbird's encoder with the present parameters of the module.

        Raises:
            InputError: its layers were replaced by other modules.
        """
        if self._encoder is None or self._changed(self._encoder):
            module = cast(nn.Module, self._module())
            self._encoder, self._native = _build_encoder(module), None
            children = list(module.modules())
            self._parts = [
                (table, key, x)
                for child in children
                for table in (child._parameters, child._modules)
                for key, x in table.items()
            ]
            self._hooks = [
                hooks
                for child in children[1:]  # the hooks of the module itself are called as before
                for hooks in (child._forward_hooks, child._forward_pre_hooks,
                              child._backward_hooks, child._backward_pre_hooks)
            ]  # fmt: skip
            self._dropout_modules = [c for c in children if _drop_rate(c) is not None]
        return self._encoder

    def _changed(self, encoder: Encoder) -> bool:
        # transformers resizes the vocabulary within the same parameter.
        resized = len(encoder.embeddings.tok_embeddings.weight) != encoder.config.vocab_size
        return resized or any(table.get(key) is not x for table, key, x in self._parts)

    def _why_not_now(self, module: nn.Module) -> str | None:
        # transformers also drops attention probabilities, and a seed must give the same loss.
        if any(part.training and _drop_rate(part) for part in self._dropout_modules):
            return "it is trained with dropout"
        if module.training and getattr(module, "gradient_checkpointing", False):
            return "it is trained with gradient checkpointing"
        hooks = [hook for table in self._hooks if table for hook in table.values()]
        if any(getattr(hook, "__module__", None) not in _MODULES_OF_HOOKS for hook in hooks):
            return "a hook on one of its layers has to be called"
        return None


def _repad(
    states: Float[Tensor, "T D"], indices: Int[Tensor, " T"], ids: Int[Tensor, "S longest"]
) -> Float[Tensor, "S longest D"]:
    if len(indices) < ids.numel():  # else there is no padding
        padded = states.new_zeros(ids.numel(), states.shape[1])
        padded[indices.to(states.device)] = states
        states = padded
    # Replicas of nn.DataParallel share this forward, which computes on the device of the weights.
    return states.unflatten(0, ids.shape).to(ids.device)


def _build_encoder(module: nn.Module) -> Encoder:
    """Build motherbird's encoder with the module's own parameters.

    Raises:
        InputError: the module is not built like ModernBERT.
    """
    _check_parts(module)
    raw = cast(Any, module.config).to_dict()
    raw.pop("auto_map", None)  # the module is already loaded, so this code is not run
    # The vocabulary may have been resized, and an encoder does not use the special ids.
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
        raise _modified(f"the parameter {name} {'is missing' if name in shapes else 'is new'}")
    for name, parameter in parameters.items():
        if parameter.shape != shapes[name]:
            raise _modified(f"{name} is {(*parameter.shape,)}, not {(*shapes[name],)}")
        # load_state_dict(assign=True) would make frozen parameters trainable.
        owner, _, last = name.rpartition(".")
        setattr(encoder.get_submodule(owner), last, parameter)
    encoder.embeddings.tok_embeddings.padding_idx = embedding.padding_idx
    return encoder


def _check_parts(module: nn.Module) -> None:
    for name, part in module.named_modules():
        plain = type(part) in _PARTS or type(part).__module__ in _MODULES_OF_PARTS
        if name and (not plain or "forward" in vars(part)):
            raise _modified(f"{name} has type {type(part).__name__}")
    devices = set()
    for name, parameter in module.named_parameters():
        plain = type(parameter) is nn.Parameter and type(parameter.data) is Tensor
        if not plain or not parameter.is_floating_point() or parameter.is_meta:
            raise _modified(f"{name} is not a plain tensor of a floating dtype")
        devices.add(parameter.device)
    if len(devices) > 1:
        raise _modified(f"its weights are on {' and '.join(sorted(map(str, devices)))}")


def _modified(what: str) -> InputError:
    return InputError(
        f"a ModernBertModel was modified: {what}",
        "motherbird.accelerate",
        "merge or remove the changes, or call motherbird.restore(model) to use its own forward",
    )


def _drop_rate(part: nn.Module) -> float | None:
    """Return the rate at which a part drops outputs or attention probabilities, or None."""
    return (
        cast(Any, part).p
        if isinstance(part, nn.Dropout)
        else getattr(part, "attention_dropout", None)
    )


@cache
def _log_once(reason: str) -> None:
    log.info("an accelerated model runs its own forward: %s", reason)


def _check_module(model: object, function: str) -> None:
    if not isinstance(model, nn.Module):
        raise InputError(
            f"{type(model).__name__} is not a model",
            f"motherbird.{function}",
            "pass a loaded model of sentence-transformers or transformers",
        )


def _is_family(module: nn.Module) -> bool:
    return type(module).__name__ == "ModernBertModel" and type(module).__module__ == _MODULE


def _another_architecture(model: nn.Module) -> InputError:
    inside = (m for m in model.modules() if type(m).__module__.startswith("transformers."))
    found = next(inside, model)
    kind = getattr(getattr(found, "config", None), "model_type", None)
    of_type = f" of type {kind!r}" if isinstance(kind, str) else ""
    return InputError(
        f"{type(found).__name__}{of_type} is not supported",
        "motherbird.accelerate",
        "pass a model of type 'modernbert' (ModernBERT, Ettin, mmBERT, GTE, Granite R2 ...) of "
        "transformers or sentence-transformers; motherbird's own models need no acceleration",
    )


def _earlier_forward(module: nn.Module) -> Callable[..., Any] | None:
    """Return the ``forward`` that another library had set on the instance, or None."""
    forward = vars(module).get("forward")
    return forward.earlier if isinstance(forward, _Forward) else forward
