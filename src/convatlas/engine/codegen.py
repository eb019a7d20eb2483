"""From the Python source of a kernel to LLVM's intermediate representation.

Kernels (``engine/kernels/``) are functions that are never called: they are read. They are written in the small part of
Python that arithmetic on memory needs, and this file knows no more than that part:

- values are int64, float32, vectors of a processor's width, and tuples of these; what does not change while a kernel
  runs (numbers, None, functions, ``static`` ranges) is worked out here and is *static*;
- calls put the function's body in their place, so a kernel ends as one function without calls;
- ``if``, ``while``, ``for ... in range(...)``, ``break``, ``continue``, ``return`` anywhere;
- an ``if`` whose condition is static keeps one branch only; a loop over ``static(...)`` is written out;
- ``for index, mask in vectors(count)`` is written twice: for whole vectors, with ``mask`` None, and for what is left;
- integer division and remainder are those of numbers that are not negative.

What a function marked ``@intrinsic`` does is written in LLVM's own instructions.
"""

from __future__ import annotations

import ast
import inspect
import operator
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from types import FunctionType
from typing import Any

from llvmlite import ir

INT = ir.IntType(64)
BIT = ir.IntType(1)
FLOAT = ir.FloatType()
POINTER = ir.PointerType()
FIELD_BYTES = 8  # of a job
CHANGING = ("strange",)  # fields of a job that are written to while its kernel runs

Value = Any  # an instruction's result, a tuple of values, or something static


class KernelError(Exception):
    """A kernel says what this compiler does not know: which function, which line."""


@dataclass(frozen=True)
class Intrinsic:
    """A function whose instructions are written by hand: ``generate(builder, *values)``."""

    generate: Callable[..., Value]


def intrinsic(generate: Callable[..., Value]) -> Intrinsic:
    """Marks a function of values that emits LLVM's instructions."""
    return Intrinsic(generate)


def static(*bounds: int) -> range:
    """Marks a loop whose body is written out, once for each number."""
    return range(*bounds)


def vectors(count: int) -> None:
    """Marks a loop over the vectors of ``count`` values: index and mask of each."""
    raise TypeError(f"a loop over {count} values, compiled only")


class Job:
    """What a kernel is told, as a value: its fields are read from memory where they are named."""

    def __init__(self, address: Value, fields: Sequence[str]) -> None:
        self._address = address
        self._places = {name: FIELD_BYTES * place for place, name in enumerate(fields)}

    def place(self, builder: ir.IRBuilder, name: str) -> Value:
        """The address of a field."""
        return builder.add(self._address, ir.Constant(INT, self._places[name]))

    def get(self, builder: ir.IRBuilder, name: str) -> Value:
        """A field's value."""
        loaded = builder.load(builder.inttoptr(self.place(builder, name), POINTER), typ=INT, align=FIELD_BYTES)
        if name not in CHANGING:
            loaded.set_metadata("invariant.load", builder.module.add_metadata([]))
        return loaded

    def set(self, builder: ir.IRBuilder, name: str, value: Value) -> None:
        """Leave a result."""
        builder.store(value, builder.inttoptr(self.place(builder, name), POINTER), align=FIELD_BYTES)


def generate(name: str, fields: Sequence[str], function: Callable[..., None], *args: Any, width: int) -> str:
    """LLVM's assembly of one function, ``void <name>(job*)``, that does ``function(job, *args)``.

    Args:
        name: of the function made.
        fields: of a job, int64 each, in their order.
        function: written in the part of Python that is known here; it may call others.
        args: static ones that it takes beside the job.
        width: float32 values in a vector.

    Raises:
        KernelError: the source has something in it that is not known here; says where.
    """
    module = ir.Module(name)
    made = ir.Function(module, ir.FunctionType(ir.VoidType(), [POINTER]), name)
    entry = ir.IRBuilder(made.append_basic_block("entry"))  # where all variables are made
    body = made.append_basic_block("body")
    writing = _Writing(ir.IRBuilder(body), entry, width)
    job = Job(entry.ptrtoint(made.args[0], INT), fields)
    writing.inline(function, (job, *args), {})
    writing.builder.ret_void()
    entry.branch(body)
    return str(module)


@dataclass
class _Slot:
    """A variable that changes: one place in memory for each value in it, which LLVM makes registers of."""

    places: tuple[Any, ...]
    shape: Any  # None for one value, else a tuple of shapes

    def load(self, builder: ir.IRBuilder) -> Value:
        """What is in it."""
        places = iter(self.places)

        def read(shape: Any) -> Value:
            if shape is None:
                return builder.load(next(places))
            return tuple(read(each) for each in shape)

        return read(self.shape)


@dataclass
class _Loop:
    on: ir.Block
    out: ir.Block


@dataclass
class _Scope:
    """One inlined call of a function."""

    function: FunctionType
    names: dict[str, Value | _Slot]
    changing: frozenset[str]
    after: ir.Block
    returns: list[tuple[ir.Block, Value]] = field(default_factory=list)
    loops: list[_Loop] = field(default_factory=list)


@cache
def _parsed(function: FunctionType) -> ast.FunctionDef:
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    definition = tree.body[0]
    assert isinstance(definition, ast.FunctionDef)
    return definition


class _Writing:
    """Writes the instructions of a kernel, one statement of its Python after another."""

    def __init__(self, builder: ir.IRBuilder, entry: ir.IRBuilder, width: int) -> None:
        self.builder = builder
        self._entry = entry  # where variables are made
        self._width = width
        self._scopes: list[_Scope] = []

    # -- functions --

    def inline(self, function: Any, args: Sequence[Value], keywords: Mapping[str, Value]) -> Value:
        """The result of a function with its body written here."""
        definition = _parsed(function)
        bound = inspect.signature(function).bind(*args, **keywords)
        bound.apply_defaults()
        scope = _Scope(function, {}, _changing(definition), self._block("after"))
        self._scopes.append(scope)
        for name, value in bound.arguments.items():
            self._assign_name(name, value)
        self._statements(definition.body)
        if not self.builder.block.is_terminated:
            scope.returns.append((self.builder.block, None))
            self.builder.branch(scope.after)
        self.builder.position_at_end(scope.after)
        self._scopes.pop()
        return self._joined(scope.returns)

    def _joined(self, ends: Sequence[tuple[ir.Block, Value]]) -> Value:
        """The value that one of several blocks has come with."""
        values = [value for _, value in ends]
        first = values[0]
        if isinstance(first, tuple):
            columns = zip(*values, strict=True)
            blocks = [block for block, _ in ends]
            return tuple(self._joined(list(zip(blocks, column, strict=True))) for column in columns)
        if all(value is first or (_is_static(value) and _is_static(first) and value == first) for value in values):
            return first
        kind = next((value.type for value in values if not _is_static(value)), _kind_of(first))
        phi = self.builder.phi(kind)
        for block, value in ends:
            phi.add_incoming(_as_kind(value, kind), block)
        return phi

    # -- statements --

    def _statements(self, statements: Sequence[ast.stmt]) -> None:
        for statement in statements:
            if self.builder.block.is_terminated:
                return
            self._written(statement)

    def _written(self, node: ast.AST) -> Any:
        method = getattr(self, f"_{type(node).__name__.lower()}", None)
        if method is None:
            raise self._error(node, f"{type(node).__name__} is not known in kernels")
        try:
            return method(node)
        except KernelError:
            raise
        except Exception as error:
            raise self._error(node, f"{type(error).__name__}: {error}") from error

    def _error(self, node: ast.AST, reason: str) -> KernelError:
        function = self._scopes[-1].function
        line = function.__code__.co_firstlineno + getattr(node, "lineno", 1) - 1
        return KernelError(f"{function.__module__}.{function.__name__}, line {line}: {reason}")

    def _expr(self, node: ast.Expr) -> None:
        self._written(node.value)

    def _assert(self, node: ast.Assert) -> None:
        """For readers."""

    def _pass(self, node: ast.Pass) -> None:
        """Nothing."""

    def _assign(self, node: ast.Assign) -> None:
        value = self._written(node.value)
        for target in node.targets:
            self._assign_to(target, value)

    def _augassign(self, node: ast.AugAssign) -> None:
        assert isinstance(node.target, ast.Name)
        before = self._name(ast.Name(node.target.id, ast.Load()))
        self._assign_name(node.target.id, self._operate(node.op, before, self._written(node.value)))

    def _assign_to(self, target: ast.expr, value: Value) -> None:
        if isinstance(target, ast.Name):
            self._assign_name(target.id, value)
        elif isinstance(target, ast.Tuple):
            for part, each in zip(target.elts, value, strict=True):
                self._assign_to(part, each)
        elif isinstance(target, ast.Attribute):
            self._written(target.value).set(self.builder, target.attr, _as_kind(value, INT))
        else:
            raise self._error(target, "such a target is not known in kernels")

    def _bind(self, target: ast.expr, value: Value) -> None:
        """What a loop counts: a new value each time through, and static where the loop is."""
        if isinstance(target, ast.Name):
            self._scopes[-1].names[target.id] = value
        elif isinstance(target, ast.Tuple):
            for part, each in zip(target.elts, value, strict=True):
                self._bind(part, each)

    def _assign_name(self, name: str, value: Value) -> None:
        """A name that is given a value once and for all keeps it; one that changes has a place in memory."""
        scope = self._scopes[-1]
        if name not in scope.changing or not _can_change(value):
            scope.names[name] = value
            return
        slot = scope.names.get(name)
        if not isinstance(slot, _Slot):
            slot = scope.names[name] = self._slot(value)
        for place, leaf in zip(slot.places, _leaves(value), strict=True):
            self.builder.store(_as_kind(leaf, place.allocated_type), place)

    def _slot(self, value: Value) -> _Slot:
        places = [self._entry.alloca(_kind_of(leaf)) for leaf in _leaves(value)]
        return _Slot(tuple(places), _shape(value))

    def _return(self, node: ast.Return) -> None:
        scope = self._scopes[-1]
        value = None if node.value is None else self._written(node.value)
        scope.returns.append((self.builder.block, value))
        self.builder.branch(scope.after)

    def _if(self, node: ast.If) -> None:
        condition = self._written(node.test)
        if _is_static(condition):
            self._statements(node.body if condition else node.orelse)
            return
        then, otherwise, after = (self._block(name) for name in ("then", "else", "after"))
        self.builder.cbranch(_as_bit(self.builder, condition), then, otherwise)
        for block, statements in ((then, node.body), (otherwise, node.orelse)):
            self.builder.position_at_end(block)
            self._statements(statements)
            self._go(after)
        self.builder.position_at_end(after)

    def _while(self, node: ast.While) -> None:
        head, body, after = (self._block(name) for name in ("while", "body", "after"))
        self._go(head)
        self.builder.position_at_end(head)
        condition = self._written(node.test)
        if _is_static(condition):
            self.builder.branch(body if condition else after)
        else:
            self.builder.cbranch(_as_bit(self.builder, condition), body, after)
        self._loop_body(node.body, body, _Loop(head, after))
        self._go(head)
        self.builder.position_at_end(after)

    def _loop_body(self, statements: Sequence[ast.stmt], block: ir.Block, loop: _Loop) -> None:
        self.builder.position_at_end(block)
        self._scopes[-1].loops.append(loop)
        self._statements(statements)
        self._scopes[-1].loops.pop()

    def _break(self, _node: ast.Break) -> None:
        self.builder.branch(self._scopes[-1].loops[-1].out)

    def _continue(self, _node: ast.Continue) -> None:
        self.builder.branch(self._scopes[-1].loops[-1].on)

    def _for(self, node: ast.For) -> None:
        over = node.iter
        if isinstance(over, ast.Call) and self._written(over.func) is range:
            bounds = [self._written(each) for each in over.args]
            self._range(node, bounds)
        elif isinstance(over, ast.Call) and self._written(over.func) is vectors:
            self._vectors(node, self._written(over.args[0]))
        else:
            for value in self._written(over):  # static
                self._bind(node.target, value)
                self._statements(node.body)

    def _range(self, node: ast.For, bounds: Sequence[Value]) -> None:
        start, stop, step = (0, bounds[0], 1) if len(bounds) == 1 else (*bounds, 1)[:3]
        self._counted(start, stop, step, lambda index: self._bind(node.target, index), node.body)

    def _counted(
        self, start: Value, stop: Value, step: Value, bind: Callable[[Value], None], statements: Sequence[ast.stmt]
    ) -> None:
        """A loop from ``start`` to ``stop`` by a step that is positive."""
        builder = self.builder
        stop, step = _as_kind(stop, INT), _as_kind(step, INT)
        place = self._entry.alloca(INT)
        builder.store(_as_kind(start, INT), place)
        head, body, on, after = (self._block(name) for name in ("for", "body", "on", "after"))
        builder.branch(head)
        builder.position_at_end(head)
        builder.cbranch(builder.icmp_signed("<", builder.load(place), stop), body, after)
        builder.position_at_end(body)
        bind(builder.load(place))
        self._loop_body(statements, builder.block, _Loop(on, after))
        self._go(on)
        builder.position_at_end(on)
        builder.store(builder.add(builder.load(place), step, flags=["nsw"]), place)
        builder.branch(head)
        builder.position_at_end(after)

    def _vectors(self, node: ast.For, count: Value) -> None:
        """Whole vectors first, then what is left over, under a mask."""
        builder = self.builder
        count = _as_kind(count, INT)
        whole = builder.and_(count, ir.Constant(INT, -self._width))
        self._counted(0, whole, self._width, lambda index: self._bind(node.target, (index, None)), node.body)
        then, after = self._block("rest"), self._block("after")
        left = builder.sub(count, whole)
        builder.cbranch(builder.icmp_signed(">", left, ir.Constant(INT, 0)), then, after)
        builder.position_at_end(then)
        self._bind(node.target, (whole, mask_of(builder, left, self._width)))
        self._loop_body(node.body, then, _Loop(after, after))
        self._go(after)
        builder.position_at_end(after)

    # -- expressions --

    def _constant(self, node: ast.Constant) -> Value:
        return node.value

    def _name(self, node: ast.Name) -> Value:
        scope = self._scopes[-1]
        if node.id in scope.names:
            value = scope.names[node.id]
            return value.load(self.builder) if isinstance(value, _Slot) else value
        if node.id in scope.function.__globals__:
            return scope.function.__globals__[node.id]
        found = scope.function.__builtins__.get(node.id) if hasattr(scope.function, "__builtins__") else None
        if found is None:
            raise self._error(node, f"{node.id} is not known here")
        return found

    def _attribute(self, node: ast.Attribute) -> Value:
        owner = self._written(node.value)
        return owner.get(self.builder, node.attr) if isinstance(owner, Job) else getattr(owner, node.attr)

    def _tuple(self, node: ast.Tuple) -> Value:
        values: list[Value] = []
        for each in node.elts:
            if isinstance(each, ast.Starred):
                values.extend(self._written(each.value))
            else:
                values.append(self._written(each))
        return tuple(values)

    def _listcomp(self, node: ast.ListComp) -> Value:
        """A tuple, from a loop that is written out."""
        return tuple(self._comprehended(node.generators, node.elt))

    _generatorexp = _listcomp

    def _comprehended(self, generators: Sequence[ast.comprehension], element: ast.expr) -> list[Value]:
        if not generators:
            return [self._written(element)]
        values: list[Value] = []
        for each in self._written(generators[0].iter):
            self._bind(generators[0].target, each)
            values.extend(self._comprehended(generators[1:], element))
        return values

    def _subscript(self, node: ast.Subscript) -> Value:
        return self._written(node.value)[self._written(node.slice)]

    def _slice(self, node: ast.Slice) -> slice:
        return slice(*(None if each is None else self._written(each) for each in (node.lower, node.upper, node.step)))

    def _ifexp(self, node: ast.IfExp) -> Value:
        condition = self._written(node.test)
        if _is_static(condition):
            return self._written(node.body if condition else node.orelse)
        blocks = [self._block(name) for name in ("then", "else")]
        after = self._block("after")
        self.builder.cbranch(_as_bit(self.builder, condition), *blocks)
        ends = []
        for block, expression in zip(blocks, (node.body, node.orelse), strict=True):
            self.builder.position_at_end(block)
            value = self._written(expression)
            ends.append((self.builder.block, value))
            self.builder.branch(after)
        self.builder.position_at_end(after)
        return self._joined(ends)

    def _boolop(self, node: ast.BoolOp) -> Value:
        """Both sides are worked out, unless a static one decides."""
        is_and = isinstance(node.op, ast.And)
        result: Value = is_and
        for each in node.values:
            value = self._written(each)
            if _is_static(value) and bool(value) != is_and:
                return not is_and
            if _is_static(value):
                continue
            bit = _as_bit(self.builder, value)
            if _is_static(result):
                result = bit
            else:
                result = self.builder.and_(result, bit) if is_and else self.builder.or_(result, bit)
        return result

    def _compare(self, node: ast.Compare) -> Value:
        values = [self._written(each) for each in (node.left, *node.comparators)]
        result: Value = True
        for symbol, left, right in zip(node.ops, values[:-1], values[1:], strict=True):
            held = self._compared(symbol, left, right)
            if _is_static(held) and not held:
                return False
            if not _is_static(held):
                result = held if _is_static(result) else self.builder.and_(result, held)
        return result

    def _compared(self, symbol: ast.cmpop, left: Value, right: Value) -> Value:
        if isinstance(symbol, ast.Is | ast.IsNot):
            return (left is right) == isinstance(symbol, ast.Is)
        text, static_one = _COMPARISONS[type(symbol)]
        if _is_static(left) and _is_static(right):
            return static_one(left, right)
        left, right = _matched(left, right)
        if left.type == FLOAT:
            return (self.builder.fcmp_unordered if text == "!=" else self.builder.fcmp_ordered)(text, left, right)
        return self.builder.icmp_signed(text, left, right)

    def _unaryop(self, node: ast.UnaryOp) -> Value:
        value = self._written(node.operand)
        if _is_static(value):
            return -value if isinstance(node.op, ast.USub) else not value
        if isinstance(node.op, ast.USub):
            return self.builder.neg(value) if value.type == INT else self.builder.fneg(value)
        return self.builder.not_(_as_bit(self.builder, value))

    def _binop(self, node: ast.BinOp) -> Value:
        return self._operate(node.op, self._written(node.left), self._written(node.right))

    def _operate(self, symbol: ast.operator, left: Value, right: Value) -> Value:
        on_integers, on_floats, static_one = _OPERATIONS[type(symbol)]
        if _is_static(left) and _is_static(right):
            return static_one(left, right)
        left, right = _matched(left, right)
        name = on_integers if left.type == INT else on_floats
        flags = {"flags": ["nsw"]} if name in ("add", "sub", "mul") else {}
        return getattr(self.builder, name)(left, right, **flags)

    def _call(self, node: ast.Call) -> Value:
        function = self._written(node.func)
        args = self._tuple(ast.Tuple(node.args, ast.Load()))
        keywords = {each.arg: self._written(each.value) for each in node.keywords if each.arg is not None}
        if isinstance(function, Intrinsic):
            return function.generate(self.builder, *args, **keywords)
        if function in (min, max):
            return self._extreme(function, args)
        if isinstance(function, FunctionType) and function is not static:
            return self.inline(function, args, keywords)
        return function(*args, **keywords)  # static: len, range, tuple, static

    def _extreme(self, function: Callable[..., Any], args: Sequence[Value]) -> Value:
        result = args[0]
        for value in args[1:]:
            if _is_static(result) and _is_static(value):
                result = function(result, value)
                continue
            left, right = _matched(result, value)
            wins = self.builder.icmp_signed("<" if function is min else ">", left, right)
            result = self.builder.select(wins, left, right)
        return result

    # -- blocks --

    def _block(self, name: str) -> ir.Block:
        return self.builder.function.append_basic_block(name)

    def _go(self, block: ir.Block) -> None:
        if not self.builder.block.is_terminated:
            self.builder.branch(block)


def mask_of(builder: ir.IRBuilder, count: Value, width: int) -> Value:
    """A vector of bits, the first ``count`` of them set."""
    kind = ir.VectorType(INT, width)
    lanes = ir.Constant(kind, list(range(width)))
    nothing = ir.Constant(kind, ir.Undefined)
    one = builder.insert_element(nothing, count, ir.Constant(ir.IntType(32), 0))
    everywhere = ir.Constant(ir.VectorType(ir.IntType(32), width), [0] * width)
    return builder.icmp_signed("<", lanes, builder.shuffle_vector(one, nothing, everywhere))


_COMPARISONS: dict[type[ast.cmpop], tuple[str, Callable[[Any, Any], Any]]] = {
    ast.Eq: ("==", operator.eq),
    ast.NotEq: ("!=", operator.ne),
    ast.Lt: ("<", operator.lt),
    ast.LtE: ("<=", operator.le),
    ast.Gt: (">", operator.gt),
    ast.GtE: (">=", operator.ge),
}
_OPERATIONS: dict[type[ast.operator], tuple[str, str, Callable[[Any, Any], Any]]] = {
    ast.Add: ("add", "fadd", operator.add),
    ast.Sub: ("sub", "fsub", operator.sub),
    ast.Mult: ("mul", "fmul", operator.mul),
    ast.Div: ("none", "fdiv", operator.truediv),
    ast.FloorDiv: ("udiv", "none", operator.floordiv),
    ast.Mod: ("urem", "none", operator.mod),
    ast.Pow: ("none", "none", operator.pow),
    ast.BitAnd: ("and_", "none", operator.and_),
    ast.BitOr: ("or_", "none", operator.or_),
    ast.BitXor: ("xor", "none", operator.xor),
    ast.RShift: ("ashr", "none", operator.rshift),
    ast.LShift: ("shl", "none", operator.lshift),
}


def _changing(definition: ast.FunctionDef) -> frozenset[str]:
    """Names that are given a value more than once, or in a loop: the arguments once, where the function is called."""
    given = [each.arg for each in definition.args.args]
    for node in ast.walk(definition):
        targets: list[ast.expr] = []
        if isinstance(node, ast.Assign):
            targets = node.targets
        elif isinstance(node, ast.AugAssign):
            targets = [node.target]
        names = [each.id for target in targets for each in ast.walk(target) if isinstance(each, ast.Name)]
        given += names
        if isinstance(node, ast.For | ast.While | ast.If) and not _is_written_out(node):  # many times, or perhaps not
            inside = [each for part in (*node.body, *node.orelse) for each in ast.walk(part)]
            given += [each.id for each in inside if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store)]
    return frozenset(name for name in given if given.count(name) > 1)


def _is_written_out(node: ast.AST) -> bool:
    """Whether it is a loop ``for ... in static(...)``, as far as its text shows."""
    if not isinstance(node, ast.For) or not isinstance(node.iter, ast.Call):
        return False
    return isinstance(node.iter.func, ast.Name) and node.iter.func.id == static.__name__


def _is_static(value: Value) -> bool:
    return not isinstance(value, ir.Value | tuple)


def _can_change(value: Value) -> bool:
    """Whether a value can lie in memory; what is static and no number cannot, and stays what it is."""
    return all(not _is_static(leaf) or isinstance(leaf, int | float) for leaf in _leaves(value))


def _leaves(value: Value) -> list[Value]:
    return [leaf for each in value for leaf in _leaves(each)] if isinstance(value, tuple) else [value]


def _shape(value: Value) -> Any:
    return tuple(map(_shape, value)) if isinstance(value, tuple) else None


def _kind_of(value: Value) -> Any:
    if isinstance(value, float):
        return FLOAT
    return INT if _is_static(value) else value.type


def _as_kind(value: Value, kind: Any) -> Value:
    if not _is_static(value):
        if value.type != kind:
            raise TypeError(f"a value of {value.type} where {kind} is wanted")
        return value
    if isinstance(value, float) and kind == INT:
        raise TypeError(f"{value} where an integer is wanted")
    return ir.Constant(kind, float(value) if kind == FLOAT else int(value))


def _as_bit(builder: ir.IRBuilder, value: Value) -> Value:
    return value if value.type == BIT else builder.icmp_signed("!=", value, ir.Constant(value.type, 0))


def _matched(left: Value, right: Value) -> tuple[Value, Value]:
    kind = right.type if _is_static(left) else left.type
    return _as_kind(left, kind), _as_kind(right, kind)
