"""FLOPs and collectives are counted in the text of a program, loops as often as they run."""

import jax
import jax.numpy as jnp
import pytest

from oddsmill.train.planning.compiled import Program

SIZE, PRODUCT = 32, 2.0 * 32**3
MATRIX = jax.ShapeDtypeStruct((SIZE, SIZE), jnp.float32)


def program(function, *arguments):
    return Program(jax.jit(function).lower(*arguments).compile().as_text())


def test_a_loop_counts_as_often_as_it_runs():
    def loop(x, w):
        return jax.lax.scan(lambda x, _: (jnp.tanh(x @ w), None), x, None, length=7)[0]

    found = program(loop, MATRIX, MATRIX)
    assert found.flops() == 7 * PRODUCT
    assert not found.hides_products and found.dynamic_loop_flops() == 0


def test_a_loop_in_a_loop_counts_the_product_of_both():
    def inner(x, w):
        return jax.lax.fori_loop(0, 3, lambda _, x: jnp.sin(x @ w), x)

    def outer(x, w):
        return jax.lax.fori_loop(0, 5, lambda _, x: jnp.cos(inner(x, w) @ w), x)

    assert program(outer, MATRIX, MATRIX).flops() == 5 * 4 * PRODUCT


def test_a_loop_that_depends_on_the_data_is_told_apart():
    def loop(x, w, count):
        return jax.lax.fori_loop(0, count, lambda _, x: jnp.sin(x @ w), x) @ w

    found = program(loop, MATRIX, MATRIX, jax.ShapeDtypeStruct((), jnp.int32))
    assert found.flops() == PRODUCT and found.dynamic_loop_flops() == PRODUCT
    assert found.hides_products


def test_of_two_branches_the_one_with_more_products_counts():
    def either(which, x, w):
        return jax.lax.cond(which, lambda: jnp.sin(x @ w) @ w, lambda: x @ w)

    assert program(either, jax.ShapeDtypeStruct((), jnp.bool_), MATRIX, MATRIX).flops() == 2 * PRODUCT


HLO = """HloModule test

%body (state: (s32[], f32[16,8])) -> (s32[], f32[16,8]) {
  %state = (s32[], f32[16,8]{1,0}) parameter(0)
  %x = f32[16,8]{1,0} get-tuple-element(%state), index=1
  %sum = f32[16,8]{1,0} all-reduce(%x), channel_id=1, to_apply=%add
  ROOT %next = (s32[], f32[16,8]{1,0}) tuple(%i, %sum)
}

ENTRY %main (a: bf16[4,8], k: bf16[8,8,1]) -> f32[16,8] {
  %a = bf16[4,8]{1,0} parameter(0)
  %k = bf16[8,8,1]{2,1,0} parameter(1)
  %gather-start = (bf16[4,8]{1,0}, bf16[16,8]{1,0}) all-gather-start(%a), channel_id=2, dimensions={0}
  %gather-done = bf16[16,8]{1,0} all-gather-done(%gather-start)
  %scatter = bf16[1,8]{1,0} reduce-scatter(%a), channel_id=3, dimensions={0}
  %input = bf16[6,8,5]{2,1,0} parameter(2)
  %product = bf16[6,8,5]{2,1,0} convolution(%input, %k), window={size=1}, dim_labels=bf0_io0->bf0
  %kernel = bf16[16,8]{1,0} custom-call(%gather-done), custom_call_target="tpu_custom_call"
  ROOT %loop = (s32[], f32[16,8]{1,0}) while(%start), body=%body, backend_config={"known_trip_count":{"n":"3"}}
}
"""


def test_collectives_count_what_they_bring_to_a_device():
    """The result of a gather or a reduction, the operand of a reduce-scatter; a started gather once."""
    moved = Program(HLO).moved()
    assert moved["all-gather"] == 2 * 16 * 8
    assert moved["all-reduce"] == 3 * 4 * 16 * 8
    assert moved["reduce-scatter"] == 2 * 4 * 8
    assert moved["all-to-all"] == moved["collective-permute"] == 0


def test_a_tpus_products_are_convolutions_and_its_kernels_hide_theirs():
    found = Program(HLO)
    assert found.flops() == 2 * 6 * 8 * 8 * 5
    assert found.hides_products


@pytest.mark.parametrize(("pad", "meets"), [("0_0", 3 * 2), ("1_1", 1 + 2 * 3 + 1)])
def test_a_convolution_counts_the_places_where_kernel_and_input_meet(pad, meets):
    size = 3 if pad == "0_0" else 5
    text = HLO.replace("window={size=1}", f"window={{size=2 pad={pad}}}").replace("bf16[8,8,1]", "bf16[8,8,2]")
    text = text.replace("bf16[6,8,5]{2,1,0} parameter", "bf16[6,8,4]{2,1,0} parameter")
    text = text.replace("%product = bf16[6,8,5]", f"%product = bf16[6,8,{size}]")
    assert Program(text).flops() == 2 * 6 * 8 * 8 * meets
