"""llama.cpp on a .gguf file, through the server that xllamacpp runs inside the process.

The server computes several documents in one batch without padding. Attention is computed for all
pairs of tokens of a batch, and masked between documents and outside of windows.

The wheels of xllamacpp are compiled for AVX2. According to its documentation, a build from source
(``pip install --no-binary xllamacpp xllamacpp``) uses what the CPU has, and is faster.

The .gguf file has the tensors, the names and the settings that llama.cpp's own conversion writes:
vectors in float32, and matrices and the embedding in float16, bfloat16 or blocks of 8 bits (Q8_0).
It has no vocabulary, because the server gets token ids.
"""

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...core import weights
from ...core.config import EncoderConfig
from ...errors import InputError, require_extra
from . import Encode, Job, System, one_by_one

PACKAGES = ("xllamacpp", "gguf")
TYPES = {"float16": "F16", "bfloat16": "BF16", "int8": "Q8_0"}  # in the .gguf file
SYSTEMS = tuple(System(__name__, "llama.cpp", dtype, "tokens", PACKAGES) for dtype in TYPES)
DOCUMENTS = 128  # of a batch


def prepare(system: System, job: Job) -> None:
    """Write the .gguf file."""
    from ...nn.encoder import Encoder

    config = weights.encoder_config(job.directory)
    has_biases = config.norm_bias or config.attention_bias or config.mlp_bias
    if has_biases or config.hidden_activation != "gelu":
        raise InputError("llama.cpp runs ModernBERT with GELU and without biases only")
    gguf = require_extra("gguf", "bench")
    writer = gguf.GGUFWriter(_file(system, job), "modern-bert")
    _write_settings(writer, config)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.MODERN_BERT, config.num_hidden_layers)
    for name, tensor in Encoder.load(job.directory, dtype="float32").state_dict().items():
        data = tensor.numpy()
        dtype = gguf.GGMLQuantizationType["F32" if data.ndim == 1 else TYPES[system.dtype]]
        try:
            quantized = gguf.quantize(data, dtype)
        except gguf.QuantError:  # rows that are not whole blocks
            dtype = gguf.GGMLQuantizationType.F16
            quantized = gguf.quantize(data, dtype)
        writer.add_tensor(names.get_name(name, (".weight",)), quantized, raw_dtype=dtype)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _write_settings(writer: Any, config: EncoderConfig) -> None:
    writer.add_tokenizer_model("no_vocab")
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_layer_norm_eps(config.norm_eps)
    writer.add_causal_attention(False)
    writer.add_rope_freq_base(config.global_rope_theta)
    writer.add_rope_freq_base_swa(config.local_rope_theta)
    writer.add_sliding_window(config.local_attention)
    writer.add_sliding_window_pattern([kind == "sliding_attention" for kind in config.layers])


def _file(system: System, job: Job) -> Path:
    return job.folder / f"llama-{system.dtype}.gguf"


def build(system: System, job: Job) -> Encode:
    """Start the server; a batch has to fit into one of its own, of the longest document."""
    library = require_extra("xllamacpp", "bench")
    params = library.CommonParams()
    params.model.path = str(_file(system, job))
    params.embedding = True
    params.pooling_type = library.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    params.embd_normalize = -1  # none
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = job.threads
    params.n_ctx = params.n_batch = params.n_ubatch = job.longest
    params.n_parallel = DOCUMENTS
    params.kv_unified = True  # each document may have job.longest tokens
    params.enable_chat_template = False
    params.n_threads_http = 1  # requests do not come over HTTP
    params.verbosity = 2  # warnings
    server = library.Server(params)

    def encode(documents: list[list[int]]) -> NDArray[np.float32]:
        request = {"input": documents, "encoding_format": "base64"}
        answer = json.loads(server.handle_embeddings(json.dumps(request)))
        if "data" not in answer:
            raise InputError(f"llama.cpp: {answer['error']['message']}")
        vectors = [base64.b64decode(each["embedding"]) for each in answer["data"]]
        return np.frombuffer(b"".join(vectors), np.float32).reshape(len(documents), -1)

    return one_by_one(encode)
