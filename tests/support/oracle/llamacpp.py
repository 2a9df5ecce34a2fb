"""Ask llama.cpp what a GGUF file computes, through the C interface that the xllamacpp wheel carries.

llama.cpp aborts the whole process on some bad files, so questions are answered by a child process: this file, run
as a script, is that child. It answers until it dies; then the next question starts another one.
"""

from __future__ import annotations

import atexit
import ctypes
import importlib.util
import io
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from threading import Timer
from typing import IO

import numpy as np

THREADS = 1
TIMEOUT_SECONDS = 120
GGML_TYPE_F32, GGML_TYPE_F16 = 0, 1
FLASH_ATTENTION_AUTO, FLASH_ATTENTION_OFF = -1, 0
LOG_ERROR = 4


class LlamaCppError(Exception):
    """llama.cpp refused the file, or died on it."""


# ---- the questions, asked from the test process


def logits(path: Path, tokens: Sequence[int]) -> np.ndarray:
    """[n_tokens, n_vocab] of a causal language model."""
    return _ask("logits", path, tokens)


def adapted_logits(path: Path, adapter: Path, tokens: Sequence[int]) -> np.ndarray:
    """The same with the LoRA adapter of a GGUF file."""
    return _ask("logits", path, tokens, adapter=str(adapter))


def steered_logits(path: Path, directions: Path, tokens: Sequence[int]) -> np.ndarray:
    """The same with a control vector: an .npy file, [layers - 1, n_embd], of which row 0 is for layer 1."""
    return _ask("logits", path, tokens, directions=str(directions))


def embeddings(path: Path, tokens: Sequence[int]) -> np.ndarray:
    """[n_tokens, n_embd]: the unpooled output of an encoder such as BERT."""
    return _ask("embeddings", path, tokens)


def encoder_decoder_logits(path: Path, tokens: Sequence[int], decoder_tokens: Sequence[int]) -> np.ndarray:
    """[n_decoder_tokens, n_vocab] of a T5, its encoder having read `tokens`."""
    return _ask("encoder_decoder_logits", path, tokens, decoder_tokens)


def answer(question: str, path: Path, tokens: Sequence[int]) -> np.ndarray:
    """The answer to one of the questions above, by its name."""
    if question == "encoder_decoder_logits":
        return encoder_decoder_logits(path, tokens, tokens[:12])
    return logits(path, tokens) if question == "logits" else embeddings(path, tokens)


def load_error(path: Path) -> str | None:
    """What llama.cpp says when it cannot load the file or make a context for it; None when it can."""
    try:
        _ask("load", path)
    except LlamaCppError as error:
        return str(error)
    return None


class _Child:
    """A process that answers questions; each answer is a length, 1 for an array or 0 for an error, and its bytes."""

    def __init__(self) -> None:
        self.errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        self.process = subprocess.Popen(
            [sys.executable, __file__],
            env=os.environ | {"GGML_NO_BACKTRACE": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
        )

    def ask(self, request: str) -> tuple[bool, bytes]:
        stdin, stdout = self.process.stdin, self.process.stdout
        assert stdin is not None
        assert stdout is not None
        timer = Timer(TIMEOUT_SECONDS, self.process.kill)
        timer.start()
        try:
            with suppress(BrokenPipeError):
                stdin.write(request.encode() + b"\n")
                stdin.flush()
            head = stdout.read(9)
            body = stdout.read(int.from_bytes(head[:8], "little")) if len(head) == 9 else b""
        finally:
            timer.cancel()
        return (head[8] == 1, body) if len(head) == 9 else (False, self._last_words())

    def _last_words(self) -> bytes:
        code = self.process.wait()
        _children.clear()
        self.errors.seek(0)
        return self.errors.read().strip() or f"llama.cpp died with exit code {code}".encode()

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


_children: list[_Child] = []


@atexit.register
def _end_children() -> None:
    for child in _children:
        child.end()


def _ask(question: str, path: Path, *tokens: Sequence[int], **along: str) -> np.ndarray:
    request = json.dumps([question, str(path), along, *([int(token) for token in each] for each in tokens)])
    if not _children:
        _children.append(_Child())
    fine, body = _children[0].ask(request)
    if not fine:
        raise LlamaCppError(body.decode(errors="replace").strip())
    return np.load(io.BytesIO(body))


# ---- llama.h, as far as it is needed. Structures are passed by value: `rest` leaves room for what follows


class ModelParams(ctypes.Structure):
    _fields_ = [("rest", ctypes.c_ubyte * 512)]


class ContextParams(ctypes.Structure):
    _fields_ = [
        ("n_ctx", ctypes.c_uint32),
        ("n_batch", ctypes.c_uint32),
        ("n_ubatch", ctypes.c_uint32),
        ("before_flash_attention", ctypes.c_int32 * 10),
        ("flash_attention", ctypes.c_int32),
        ("rope_and_yarn", ctypes.c_int32 * 8),
        ("callback", ctypes.c_void_p * 2),
        ("type_k", ctypes.c_int32),
        ("type_v", ctypes.c_int32),
        ("rest", ctypes.c_ubyte * 512),
    ]


class Batch(ctypes.Structure):
    _fields_ = [
        ("n_tokens", ctypes.c_int32),
        ("token", ctypes.POINTER(ctypes.c_int32)),
        ("embd", ctypes.c_void_p),
        ("pos", ctypes.c_void_p),
        ("n_seq_id", ctypes.c_void_p),
        ("seq_id", ctypes.c_void_p),
        ("logits", ctypes.POINTER(ctypes.c_int8)),
    ]


LogCallback = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)

SIGNATURES = {
    "llama_log_set": (None, LogCallback, ctypes.c_void_p),
    "llama_backend_init": (None,),
    "llama_model_default_params": (ModelParams,),
    "llama_context_default_params": (ContextParams,),
    "llama_model_load_from_file": (ctypes.c_void_p, ctypes.c_char_p, ModelParams),
    "llama_init_from_model": (ctypes.c_void_p, ctypes.c_void_p, ContextParams),
    "llama_set_n_threads": (None, ctypes.c_void_p, ctypes.c_int32, ctypes.c_int32),
    "llama_set_embeddings": (None, ctypes.c_void_p, ctypes.c_bool),
    "llama_model_get_vocab": (ctypes.c_void_p, ctypes.c_void_p),
    "llama_vocab_n_tokens": (ctypes.c_int32, ctypes.c_void_p),
    "llama_model_n_embd": (ctypes.c_int32, ctypes.c_void_p),
    "llama_model_free": (None, ctypes.c_void_p),
    "llama_free": (None, ctypes.c_void_p),
    "llama_adapter_lora_init": (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p),
    "llama_set_adapters_lora": (
        ctypes.c_int32,
        ctypes.c_void_p,
        ctypes.POINTER(ctypes.c_void_p),
        ctypes.c_size_t,
        ctypes.POINTER(ctypes.c_float),
    ),
    "llama_set_adapter_cvec": (
        ctypes.c_int32,
        ctypes.c_void_p,
        ctypes.POINTER(ctypes.c_float),
        ctypes.c_size_t,
        ctypes.c_int32,
        ctypes.c_int32,
        ctypes.c_int32,
    ),
    "llama_encode": (ctypes.c_int32, ctypes.c_void_p, Batch),
    "llama_decode": (ctypes.c_int32, ctypes.c_void_p, Batch),
    "llama_get_logits_ith": (ctypes.POINTER(ctypes.c_float), ctypes.c_void_p, ctypes.c_int32),
    "llama_get_embeddings_ith": (ctypes.POINTER(ctypes.c_float), ctypes.c_void_p, ctypes.c_int32),
}


# ---- the answers, found in the child


@cache
def _library() -> ctypes.CDLL:
    module = importlib.util.find_spec("xllamacpp")
    if module is None or module.origin is None:
        raise LlamaCppError("xllamacpp is not installed")
    (shared_object,) = Path(module.origin).parent.glob("xllamacpp*.so")
    library = ctypes.CDLL(str(shared_object))
    for name, (result, *arguments) in SIGNATURES.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    library.llama_log_set(_log_errors, None)
    library.llama_backend_init()
    return library


_logged: list[bytes] = []


@LogCallback
def _log_errors(level: int, text: bytes | None, _user_data: object) -> None:
    if level == LOG_ERROR and text:
        _logged.append(text)


class Session:
    """One model and one context over it: exact arithmetic where llama.cpp offers a choice."""

    def __init__(self, path: str) -> None:
        self.library = _library()
        self.context = None
        self.model = self.library.llama_model_load_from_file(path.encode(), self.library.llama_model_default_params())
        if not self.model:
            raise LlamaCppError(f"cannot load {path}")
        self.context = self.library.llama_init_from_model(self.model, self._context_params())
        if not self.context:
            self.close()
            raise LlamaCppError(f"cannot make a context for {path}")
        self.library.llama_set_n_threads(self.context, THREADS, THREADS)

    def close(self) -> None:
        if self.context:
            self.library.llama_free(self.context)
        self.library.llama_model_free(self.model)

    def _context_params(self) -> ContextParams:
        params = self.library.llama_context_default_params()
        found = (params.n_ctx, params.flash_attention, params.type_k, params.type_v)
        if found != (512, FLASH_ATTENTION_AUTO, GGML_TYPE_F16, GGML_TYPE_F16):
            raise LlamaCppError(f"this llama.cpp lays llama_context_params out in another way: {found}")
        params.flash_attention = FLASH_ATTENTION_OFF
        params.type_k = params.type_v = GGML_TYPE_F32
        return params

    def take(self, adapter: str = "", directions: str = "") -> None:
        """Put an adapter or a control vector on the context."""
        if adapter:
            found = self.library.llama_adapter_lora_init(self.model, adapter.encode())
            if not found:
                raise LlamaCppError(f"cannot load {adapter}")
            one, scale = (ctypes.c_void_p * 1)(found), (ctypes.c_float * 1)(1.0)
            if self.library.llama_set_adapters_lora(self.context, one, 1, scale):
                raise LlamaCppError(f"cannot set {adapter}")
        if directions:
            data = np.ascontiguousarray(np.load(directions), dtype=np.float32)
            pointer = data.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
            if self.library.llama_set_adapter_cvec(self.context, pointer, data.size, data.shape[1], 1, len(data)):
                raise LlamaCppError(f"cannot set {directions}")

    def run(self, function: str, tokens: Sequence[int]) -> None:
        count = len(tokens)
        batch = Batch(
            n_tokens=count,
            token=(ctypes.c_int32 * count)(*tokens),
            logits=(ctypes.c_int8 * count)(*[1] * count),
        )
        status = getattr(self.library, function)(self.context, batch)
        if status:
            raise LlamaCppError(f"{function} returned {status}")

    def logits(self, count: int) -> np.ndarray:
        width = self.library.llama_vocab_n_tokens(self.library.llama_model_get_vocab(self.model))
        return self._rows(self.library.llama_get_logits_ith, count, width)

    def embeddings(self, count: int) -> np.ndarray:
        width = self.library.llama_model_n_embd(self.model)
        return self._rows(self.library.llama_get_embeddings_ith, count, width)

    def _rows(self, row: ctypes._CFuncPtr, count: int, width: int) -> np.ndarray:
        return np.stack([np.ctypeslib.as_array(row(self.context, i), (width,)) for i in range(count)])


def _answer(session: Session, question: str, *tokens: list[int]) -> np.ndarray:
    match question, tokens:
        case "logits", [causal]:
            session.run("llama_decode", causal)
            return session.logits(len(causal))
        case "embeddings", [text]:
            session.library.llama_set_embeddings(session.context, True)
            session.run("llama_encode", text)
            return session.embeddings(len(text))
        case "encoder_decoder_logits", [encoder, decoder]:
            session.run("llama_encode", encoder)
            session.run("llama_decode", decoder)
            return session.logits(len(decoder))
    return np.empty(0)


def _answered(question: str, path: str, along: dict[str, str], *tokens: list[int]) -> tuple[bool, bytes]:
    _logged.clear()
    try:
        session = Session(path)
        try:
            session.take(**along)
            file = io.BytesIO()
            np.save(file, _answer(session, question, *tokens))
            return True, file.getvalue()
        finally:
            session.close()
    except LlamaCppError as error:
        return False, b"".join(_logged) + str(error).encode()


if __name__ == "__main__":
    for line in sys.stdin:
        fine, body = _answered(*json.loads(line))
        sys.stdout.buffer.write(len(body).to_bytes(8, "little") + bytes([fine]) + body)
        sys.stdout.buffer.flush()
