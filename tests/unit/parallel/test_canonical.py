"""What is rewritten before it is compiled computes the same, and knows no numbers and no quotients any more."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.special import gammaln, logsumexp

from distmc.parallel.canonical import canonical, isolated

TABLE = np.array([0.3, 1.7, 2.9])


def looped(x: Any, never: Any) -> Any:
    def body(total: Any, row: Any) -> Any:
        return total / 1.3 + row, jnp.log(2.5) * total

    total, kept = jax.lax.scan(body, 0.7 * x, jnp.linspace(0.1, 0.9, 4), reverse=True)
    return jax.lax.while_loop(lambda value: value < 50.0, lambda value: value / 0.4 + 1.1, jnp.abs(total)) + kept.sum()


def branched(x: Any, never: Any) -> Any:
    return jax.lax.cond(x > 0.25, lambda x: x / 3.0, lambda x: x * 7.7, x) + jax.lax.switch(
        2, [jnp.sin, jnp.cos, lambda x: jnp.tan(x) / 0.3], x
    )


def derived(x: Any, never: Any) -> Any:
    return jax.value_and_grad(lambda x: logsumexp(jnp.asarray(TABLE) * x / 1.9) + jax.nn.softplus(x) / 5.0)(x)


def called(x: Any, never: Any) -> Any:
    return jax.jit(lambda x: {"one": x / 9.0, "two": (x + 2.25, jnp.int32(7) // 2)})(x)


def of_ones(x: Any, never: Any) -> Any:
    return x + jnp.exp(jnp.ones(3)) + gammaln(jnp.arange(1.0, 4.0)) * x


@pytest.mark.parametrize("function", [looped, branched, derived, called, of_ones])
def test_results_are_those_of_the_function_up_to_rounding(function: Any) -> None:
    with jax.enable_x64(True):
        rewritten, plain = jax.jit(canonical(function, lambda x, never: never)), jax.jit(function)
        for x in (-0.6, 0.2, 0.9):
            got, expected = rewritten(x, jnp.asarray(False)), plain(x, False)
            assert jax.tree.structure(got) == jax.tree.structure(expected)
            for mine, theirs in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
                assert mine.dtype == theirs.dtype
                np.testing.assert_allclose(mine, theirs, rtol=1e-13)


@pytest.mark.parametrize("function", [looped, branched, derived, of_ones])
def test_numbers_are_chosen_at_run_time_wherever_they_stand(function: Any) -> None:
    with jax.enable_x64(True):
        rewritten = jax.jit(canonical(function, lambda x, never: never))
        # Were the condition to hold, every number would be gone.
        assert np.all(np.isnan(jax.tree.leaves(rewritten(0.2, jnp.asarray(True)))[0]))
        text = str(jax.make_jaxpr(rewritten)(0.2, jnp.asarray(False)))
    assert " div " not in text
    assert not any(f"{number}:f" in text.split("select_n")[-1] for number in ("1.3", "7.7", "1.9"))


def programs_within(jaxpr: Any) -> Any:
    """Yield the programs that a program calls, repeats or chooses between, and theirs."""
    for equation in jaxpr.eqns:
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda leaf: hasattr(leaf, "eqns")):
            if hasattr(inner, "eqns"):
                inner = getattr(inner, "jaxpr", inner)
                yield inner
                yield from programs_within(inner)


def names_in(jaxpr: Any) -> list[str]:
    return [equation.primitive.name for equation in jaxpr.eqns]


def test_what_follows_from_numbers_alone_is_computed_once_and_outside_of_loops() -> None:
    def function(x: Any, never: Any) -> Any:
        def turn(_: Any, x: Any) -> Any:
            return jax.lax.cond(x > 0.0, lambda x: x * gammaln(2.5) + jnp.exp(0.3 * jnp.log(7.5)), jnp.sin, x)

        return jax.lax.fori_loop(0, 3, turn, x)

    with jax.enable_x64(True):
        rewritten = canonical(function, lambda x, never: never)
        jaxpr = jax.make_jaxpr(rewritten)(0.2, jnp.asarray(False)).jaxpr
        np.testing.assert_allclose(jax.jit(rewritten)(0.2, jnp.asarray(False)), function(0.2, False), rtol=1e-13)
    within = [name for program in programs_within(jaxpr) for name in names_in(program)]
    assert {"lgamma", "log", "exp"}.isdisjoint(within)
    assert {"lgamma", "log", "exp"} <= set(names_in(jaxpr))
    assert "sin" in within


def test_functions_of_this_process_and_loops_stay_in_their_branch() -> None:
    calls: list[float] = []

    def tell(number: Any) -> Any:
        calls.append(float(number))
        return np.float32(number)

    def untaken(x: Any) -> Any:
        told = jax.pure_callback(tell, jax.ShapeDtypeStruct((), np.float32), jnp.float32(2.5))
        return told + jax.lax.while_loop(lambda number: number > 1.0, lambda number: number, jnp.float32(x > 0.0) * 2.5)

    def function(x: Any, never: Any) -> Any:
        return jax.lax.cond(x > 0.0, untaken, jnp.sin, x)

    rewritten = jax.jit(canonical(function, lambda x, never: never))
    np.testing.assert_allclose(rewritten(-0.5, jnp.asarray(False)), np.sin(-0.5), rtol=1e-6)
    jax.effects_barrier()
    assert calls == []


def test_a_function_that_is_called_often_is_settled_once() -> None:
    @jax.jit
    def inner(x: Any) -> Any:
        return x * jnp.log(2.5)

    def function(x: Any, never: Any) -> Any:
        return inner(inner(jnp.sin(inner(x))))

    jaxpr = jax.make_jaxpr(canonical(function, lambda x, never: never))(0.2, jnp.asarray(False)).jaxpr
    assert names_in(jaxpr).count("log") == 1


def test_functions_with_a_rule_for_vmap_are_entered() -> None:
    @jax.custom_batching.custom_vmap
    def divided(x: Any) -> Any:
        return x / 0.7

    divided.def_vmap(lambda size, is_batched, x: (x / 0.7, True))
    jaxpr = jax.make_jaxpr(canonical(lambda x, never: divided(x), lambda x, never: never))(0.2, jnp.asarray(False))
    assert "custom_vmap" not in str(jaxpr)
    assert " div " not in str(jaxpr)


def test_arrays_of_numbers_come_out_of_one_branch_before_all_loops() -> None:
    table, places = jnp.array([0.2, 0.5, 0.9], jnp.float32), np.array([0, 1, 1])

    def function(x: Any, never: Any) -> Any:
        total, _ = jax.lax.scan(lambda total, place: (total + x * table[place] + table, None), x, places)
        return total + jax.jit(lambda total: total * np.full(3, 0.7, np.float32))(total)

    x, never = jnp.array([0.3, 0.1, 0.8]), jnp.asarray(False)
    rewritten = canonical(function, lambda x, never: never)
    np.testing.assert_allclose(jax.jit(rewritten)(x, never), function(x, never), rtol=1e-6)
    jaxpr = jax.make_jaxpr(rewritten)(x, never).jaxpr
    names = [equation.primitive.name for equation in jaxpr.eqns]
    assert names_in(jaxpr).count("cond") == names.count("cond") == 1
    assert names.index("cond") < names.index("scan")


def test_what_entries_are_taken_from_is_computed_before() -> None:
    def function(x: Any, never: Any) -> Any:
        places = jnp.array([2, 0, 1, 1, 0, 2, 2])
        return jnp.log(x)[places], jnp.log(x)[places[:3]], places[places % 3]

    x, never = jnp.array([0.2, 0.5, 0.9]), jnp.asarray(False)
    rewritten = canonical(function, lambda x, never: never)
    for got, expected in zip(jax.jit(rewritten)(x, never), function(x, False), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-6)
    # A branch for the entries that outnumber those of the table, if it holds real numbers and is not given.
    assert names_in(jax.make_jaxpr(rewritten)(x, never).jaxpr).count("cond") == 1
    given = canonical(lambda x, never: x[jnp.array([2, 0, 1, 1])], lambda x, never: never)
    assert "cond" not in names_in(jax.make_jaxpr(given)(x, never).jaxpr)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_quotient_by_a_number_has_the_bits_of_one_by_a_value(dtype: Any) -> None:
    smallest = np.finfo(dtype).tiny
    numbers = [3.0, -0.7, 1e30, 1e-30, 49.0, 1.0, 2.0, smallest, smallest / 16.0, 3.0 / smallest]
    x = np.random.default_rng(0).normal(size=1000).astype(dtype)
    with jax.enable_x64(True):

        def by_numbers(x: Any) -> Any:
            return [x / dtype(number) for number in numbers]

        def by_values(x: Any, values: Any) -> Any:
            return [x / value for value in values]

        known = jax.jit(canonical(lambda x, never: by_numbers(x), lambda x, never: never))
        unknown = jax.jit(canonical(lambda x, values, never: by_values(x, values), lambda x, values, never: never))
        never, values = jnp.asarray(False), [jnp.asarray(number, dtype) for number in numbers]
        text = str(jax.make_jaxpr(known)(x, never))
        for got, expected in zip(known(x, never), unknown(x, values, never), strict=True):
            assert np.asarray(got).tobytes() == np.asarray(expected).tobytes()
    # One is subnormal, and the reciprocal of another would be.
    assert text.count("integer_pow") == 2


def test_isolated_parts_compute_what_they_did() -> None:
    isolate = isolated(jnp.asarray(False))
    got = jax.jit(isolate(lambda a, b: (a * b, {"sum": a + b})))(2.0, 3.0)
    assert (float(got[0]), float(got[1]["sum"])) == (6.0, 5.0)
