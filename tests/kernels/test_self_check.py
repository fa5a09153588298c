"""A backend that computes something else is found before it is used, and said in one sentence."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from attngraft.kernels import dispatch, numba_backend, torch_backend
from attngraft.kernels.self_check import disagreement

CPU = torch.device("cpu")
BOTH = (torch.float32, torch.bfloat16)
PASSES = ("pool", "scale", "gate_sums", "pool_gate_gradient", "input_gradient")


def spoilt(name: str, spoil: Any) -> Any:
    """Plain PyTorch, but for one function whose result is spoilt."""
    functions = {one: getattr(torch_backend, one) for one in PASSES}
    right = functions[name]
    functions[name] = lambda *given, **options: spoil(right(*given, **options))
    return SimpleNamespace(**functions)


@pytest.mark.skipif(numba_backend.unavailable() is not None, reason="Numba cannot work here")
def test_the_kernels_of_the_processor_agree():
    assert disagreement(numba_backend, CPU, BOTH) is None  # type: ignore[arg-type]


def test_plain_pytorch_agrees_with_itself_in_every_format():
    assert disagreement(torch_backend, CPU, (*BOTH, torch.float16)) is None  # type: ignore[arg-type]


@pytest.mark.parametrize("name", PASSES)
def test_one_wrong_number_is_found_in_every_pass(name: str):
    def wrong(found: Any) -> Any:
        tensor = found if isinstance(found, torch.Tensor) else found[0] if isinstance(found, tuple) else found.total
        tensor.view(-1)[-1] += 1.0
        return found

    assert "is off by" in (disagreement(spoilt(name, wrong), CPU, BOTH) or "")


@pytest.mark.parametrize("name", PASSES)
def test_a_pass_that_fails_is_named(name: str):
    def fail(found: Any) -> Any:
        raise RuntimeError("PTX assembly aborted")

    assert "fails (RuntimeError: PTX assembly aborted)" in (disagreement(spoilt(name, fail), CPU, BOTH) or "")


def test_a_result_that_is_not_finite_is_found():
    assert disagreement(spoilt("scale", lambda found: found * float("nan")), CPU, BOTH) is not None


@pytest.mark.parametrize("is_wrong", [False, True])
def test_kernels_that_are_wrong_are_not_used_and_said_once(monkeypatch, caplog, is_wrong: bool):
    backend = spoilt("scale", lambda found: found + 1.0 if is_wrong else found)
    backend.unavailable = lambda: None
    monkeypatch.setitem(dispatch.BACKENDS, "cuda", (backend, frozenset({torch.float32})))
    for cached in (dispatch._is_available, dispatch.wrong_on):
        cached.cache_clear()
    try:
        with caplog.at_level(logging.WARNING):
            assert [dispatch._is_available("cuda") for _ in range(3)] == [not is_wrong] * 3
    finally:
        for cached in (dispatch._is_available, dispatch.wrong_on):
            cached.cache_clear()
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == is_wrong
    assert all("the product with gates" in one and "Please report this sentence" in one for one in said)


def test_the_processor_does_not_wait_for_a_check(monkeypatch):
    monkeypatch.setattr(dispatch, "disagreement", lambda *given: pytest.fail("checked"))
    dispatch.wrong_on.cache_clear()
    assert dispatch.wrong_on("cpu") is None
