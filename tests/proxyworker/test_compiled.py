"""What is compiled is what is written: the types beside a module leave nothing out, and change nothing."""

from __future__ import annotations

import ast
import importlib.machinery
import importlib.util
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import proxyworker
from proxyworker.gate.record import RecordedOperation
from proxyworker.postgres import pipeline
from proxyworker.postgres.errors import TargetBrokeProtocol
from proxyworker.wire.postgres import backend
from proxyworker.wire.postgres.errors import WireError
from tests.vectors import messages

PACKAGE = Path(proxyworker.__file__).parent
TYPED = sorted(PACKAGE.rglob("*.pxd"))


@dataclass
class Declared:
    """What a .pxd says of a class."""

    attributes: set[str] = field(default_factory=set)
    methods: set[str] = field(default_factory=set)


def declared_in(types: Path) -> dict[str, Declared]:
    classes: dict[str, Declared] = {}
    current = Declared()
    for line in types.read_text().splitlines():
        if found := re.match(r"cdef class (\w+)", line):
            current = classes.setdefault(found[1], Declared())
        elif found := re.match(r" +c(?:p?)def .*?(\w+)\(", line):
            current.methods.add(found[1])
        elif found := re.match(r" +cdef .*?(\w+)$", line):
            current.attributes.add(found[1])
    return classes


def classes_of(types: Path) -> Iterator[tuple[ast.ClassDef, Declared]]:
    declared = declared_in(types)
    tree = ast.parse(types.with_suffix(".py").read_text())
    found = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    for name, one in declared.items():
        yield found[name], one


@pytest.mark.parametrize("types", TYPED, ids=lambda path: path.stem)
def test_every_attribute_of_a_compiled_class_is_declared(types: Path) -> None:
    """One that isn't raises an AttributeError, and only where it is compiled."""
    for node, declared in classes_of(types):
        assigned = {
            part.attr
            for part in ast.walk(node)
            if isinstance(part, ast.Attribute)
            and isinstance(part.ctx, ast.Store)
            and isinstance(part.value, ast.Name)
            and part.value.id == "self"
        }
        assert assigned <= declared.attributes, f"declare these in {types.name}"


@pytest.mark.parametrize("types", TYPED, ids=lambda path: path.stem)
def test_no_compiled_method_is_used_as_a_callback(types: Path) -> None:
    """What is declared with cdef or cpdef is a C function: taken as a value, it forgets whose method it is.

    Of other objects' methods the C compiler says so itself, see setup.py.
    """
    for node, declared in classes_of(types):
        called = {id(part.func) for part in ast.walk(node) if isinstance(part, ast.Call)}
        for part in ast.walk(node):
            if isinstance(part, ast.Attribute) and isinstance(part.value, ast.Name) and part.value.id == "self":
                assert id(part) in called or part.attr not in declared.methods, f"line {part.lineno}"


def interpreted(module: ModuleType) -> ModuleType:
    """The module by its source, whether or not a compiled form stands beside it."""
    source = Path(str(module.__file__)).with_name(module.__name__.rpartition(".")[2] + ".py")
    loader = importlib.machinery.SourceFileLoader(f"interpreted_{source.stem}", str(source))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    found = importlib.util.module_from_spec(spec)
    loader.exec_module(found)
    return found


INTERPRETED = interpreted(pipeline)
ANSWERS = (
    messages.BOUND, messages.CLOSED, messages.COPY_DATA, messages.COPY_DONE, messages.COPY_IN, messages.COPY_OUT,
    messages.EMPTY, messages.FUNCTION_RESULT, messages.NO_DATA, messages.NOTICE, messages.PARAMETERS, messages.PARSED,
    messages.READY, messages.READY_FAILED, messages.READY_IN_TRANSACTION, messages.ROW, messages.SUSPENDED,
    messages.columns("a", "b"), messages.error("42501"), messages.error("57P01", severity="FATAL"),
    messages.tag("SELECT 3"), messages.tag("UPDATE 7"), b"Z\x00\x00\x00\x04",
)  # fmt: skip
#: A step and whether it begins an operation, goes on with the last one, or is of none; or an answer.
ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(list(pipeline.Step)), st.sampled_from(("new", "last", ""))),
        st.sampled_from(ANSWERS),
    ),
    max_size=24,
)


def trace(module: Any, actions: list[Any]) -> list[Any]:
    """All that a pipeline says in the course of it."""
    line = module.Pipeline(backend.IDLE)
    operations: list[RecordedOperation] = []
    said: list[Any] = []
    for action in actions:
        try:
            if isinstance(action, bytes):
                line.answer(action[0], action, 0, len(action), 2)
                said.append([(one and one.number, text) for one, text in line.take_refusals()])
            else:
                step, whose = action
                if whose == "new" or (whose == "last" and not operations):
                    operations.append(RecordedOperation("session", len(operations) + 1, 0))
                operation = operations[-1] if whose else None
                told = said.append
                line.push(
                    module.Expected(
                        module.Step(step),
                        operation,
                        on_done=lambda succeeded, step=step, told=told: told((step, succeeded)),
                        refusal=b"<no>" if step is pipeline.Step.REFUSAL else b"",
                        with_ready=step is pipeline.Step.REFUSAL and bool(whose),
                    )
                )
        except (TargetBrokeProtocol, WireError) as error:
            said.append(error.problem)
        finished, line.finished = line.finished, []
        said.append(
            (
                line.is_idle, line.is_within, line.is_full, line.is_at_rest, line.is_at_sync, line.is_skipping,
                line.refusals, line.transaction_status, line.current and line.current.number,
                line.last and line.last.number, [one.number for one in finished],
            )
        )  # fmt: skip
        said.extend(
            (one.status, one.error_code, one.rows, one.tags, one.columns, one.outstanding) for one in operations
        )
    return said


@pytest.mark.skipif(str(pipeline.__file__).endswith(".py"), reason="nothing is compiled here to compare with")
@given(actions=ACTIONS)
def test_the_compiled_pipeline_does_what_the_interpreted_one_does(actions: list[Any]) -> None:
    assert trace(pipeline, actions) == trace(INTERPRETED, actions)
