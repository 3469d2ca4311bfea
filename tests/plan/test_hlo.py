# SPDX-License-Identifier: Apache-2.0
"""The reader of HLO counts what a text says, in all the ways in which it is said."""

import pytest

from jaxvl.plan.collectives import collectives
from jaxvl.plan.hlo import Module

# Two turns of a loop: a gather from 4 chips to 8 x 16 numbers, a product with 16 x 32, a fusion
# that reads one row of ten; then a sum over all 8 chips, and a kernel.
TEXT = """HloModule jit_f, num_partitions=8

%fused (param_0: f32[10,32], param_1: s32[]) -> f32[1,32] {
  %param_0 = f32[10,32]{1,0} parameter(0)
  %param_1 = s32[] parameter(1)
  %zero = s32[] constant(0)
  ROOT %slice.1 = f32[1,32]{1,0} dynamic-slice(%param_0, %param_1, %zero), SIZES
}

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%body (p: (s32[], bf16[8,4], bf16[16,32], f32[10,32])) -> (s32[], bf16[8,4]) {
  %p = (s32[], bf16[8,4]{1,0}, bf16[16,32]{1,0}, /*index=3*/f32[10,32]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %x = bf16[8,4]{1,0} get-tuple-element(%p), index=1
  %w = bf16[16,32]{1,0} get-tuple-element(%p), index=2
  %t = f32[10,32]{1,0} get-tuple-element(%p), index=3
  %gathered = bf16[8,16]{1,0} all-gather(%x), channel_id=1, GROUPS, dimensions={1}
  %y = f32[8,32]{1,0} dot(%gathered, %w), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  %row = f32[1,32]{1,0} fusion(%t, %i), kind=kLoop, calls=%fused
  ROOT %next = (s32[], bf16[8,4]{1,0}) tuple(%i, %x)
}

%condition (q: (s32[], bf16[8,4])) -> pred[] {
  %q = (s32[], bf16[8,4]{1,0}) parameter(0)
  %limit = s32[] constant(2)
  %at = s32[] get-tuple-element(%q), index=0
  ROOT %less = pred[] compare(%at, %limit), direction=LT
}

ENTRY %main (x: bf16[8,4]) -> f32[8,32] {
  %start = (s32[], bf16[8,4]{1,0}) parameter(0)
  %loop = (s32[], bf16[8,4]{1,0}) while(%start), condition=%condition, body=%body, TRIPS
  %v = f32[8,32]{1,0:T(8,128)S(1)} custom-call(%start), custom_call_target="tpu_custom_call"
  ROOT %total = f32[8,32] all-reduce(%v), channel_id=2, replica_groups=[1,8]<=[8], to_apply=%add
}
"""
HALVES, EVEN = ((0, 1, 2, 3), (4, 5, 6, 7)), ((0, 2, 4, 6), (1, 3, 5, 7))
GROUPS = {
    "replica_groups={{0,1,2,3},{4,5,6,7}}": HALVES,
    "replica_groups=[2,4]<=[8]": HALVES,
    "replica_groups=[2,4]<=[4,2]T(1,0)": EVEN,
    "replica_groups=mesh['a'=4,'b'=2] {'a'}": EVEN,
    "replica_groups=mesh['a'=2,'b'=4] {'b'}": HALVES,
    "replica_groups=mesh['a'=2,'b'=4], device_ids=([4,2]T(1,0)) {'b'}": EVEN,
    "replica_groups=mesh['a'=1,'b'=2,'c'=4], device_ids=([2,2,2]T(1,0,2)) {'c'}": (
        (0, 1, 4, 5),
        (2, 3, 6, 7),
    ),
}


def module(groups="replica_groups=[2,4]<=[8]", trips="", unknown=1):
    return Module(TEXT.replace("GROUPS", groups).replace("TRIPS", trips), unknown)


@pytest.mark.parametrize("groups", GROUPS)
def test_collectives(groups):
    gather, total = sorted(collectives(module(groups)), key=lambda one: one.kind)
    assert (gather.kind, gather.times, gather.bytes) == ("all-gather", 2, 8 * 16 * 2)
    assert gather.groups == GROUPS[groups]
    assert gather.moved == 8 * 16 * 2 * 3 / 4
    assert (total.kind, total.times, total.size) == ("all-reduce", 1, 8)
    assert total.moved == 2 * 8 * 32 * 4 * 7 / 8


def test_groups_in_other_words():
    with pytest.raises(ValueError, match="not known"):
        collectives(module("replica_groups=everyone"))


def test_collectives_that_share_a_channel():
    """In two places two; in fusions beside which one runs, one, unless they are of two chains."""
    text = """HloModule m, num_partitions=4
%fused (p: f32[8]) -> f32[8] {
  %p = f32[8]{0} parameter(0)
  ROOT %g = f32[8]{0} all-reduce(%p), channel_id=1, frontend_attributes={chain_id="0"}
}
%fused.1 (p.1: f32[8]) -> f32[8] {
  %p.1 = f32[8]{0} parameter(0)
  ROOT %g.1 = f32[8]{0} all-reduce(%p.1), channel_id=1, frontend_attributes={chain_id="CHAIN"}
}
ENTRY %main (x: f32[8]) -> f32[8] {
  %x = f32[8]{0} parameter(0)
  %a = f32[8]{0} fusion(%x), kind=kCustom, calls=%fused
  %b = f32[8]{0} fusion(%a), kind=kCustom, calls=%fused.1
  %c = f32[8]{0} all-reduce(%b), channel_id=2
  ROOT %d = f32[8]{0} all-reduce(%c), channel_id=2
}
"""
    found = collectives(Module(text.replace("CHAIN", "0")))
    assert [one.beside for one in found] == [True, False, False]
    assert len(collectives(Module(text.replace("CHAIN", "1")))) == 4


def test_a_loop_runs_as_often_as_its_text_says():
    """By XLA's note, else by the constant of its condition, else by what the caller says."""
    assert module().times["body"] == 2
    noted = 'backend_config={"known_trip_count":{"n":"28"}}'
    assert module(trips=noted).times["body"] == 28
    text = TEXT.replace("GROUPS", "").replace("compare(%at, %limit)", "compare(%at, %at)")
    assert Module(text, 700).times["body"] == 700


def test_flops_and_traffic():
    found = module()
    assert found.flops() == 2 * (2 * 8 * 32 * 16)
    product = (8 * 16 + 16 * 32) * 2 + 8 * 32 * 4
    row = 32 * 4 * 2  # read one, write one, of the ten
    # The kernel writes beside the arithmetic, and reads the loop's counter and the array.
    kernel = 4 + 8 * 4 * 2
    counter = 4 + 4 + 4 + 1  # the fusion's index; two numbers that are compared
    assert found.traffic() == 2 * (product + row + counter) + kernel
    gather, total = (8 * 16 * 2) * (1 + 3 / 4), (8 * 32 * 4) * (1 + 2 * 7 / 8)
    assert sum(one.traffic for one in collectives(found)) == 2 * gather + total


@pytest.mark.parametrize(
    ("pairs", "groups"), [("{0,0},{1,3},{2,0}", ((1, 3), (2, 0))), ("{0,0},{1,1}", ((0,),))]
)
def test_pairs_of_chips(pairs, groups):
    """A chip that sends to itself exchanges nothing."""
    (one,) = collectives(
        Module(f"""HloModule m, num_partitions=4
ENTRY %main (x: f32[4,8]) -> f32[4,8] {{
  %x = f32[4,8]{{1,0}} parameter(0)
  ROOT %y = f32[4,8]{{1,0}} collective-permute(%x), channel_id=1, source_target_pairs={{{pairs}}}
}}
""")
    )
    assert (one.kind, one.groups) == ("collective-permute", groups)
    assert one.moved == (128 if one.size > 1 else 0)


ACROSS = """HloModule m, num_partitions=8
ENTRY %main (x: f32[4,8]) -> f32[4,8] {
  %x = f32[4,8]{1,0} parameter(0)
  %token = token[] after-all()
  %send = (f32[4,8]{1,0}, u32[], token[]) send(%x, %token), channel_id=3, is_host_transfer=true,\
 frontend_attributes={_xla_host_transfer_rendezvous="all-reduce.1_0",_xla_megascale_target=\
"{SLICES}x{0:7}",_xla_megascale_transfer_type="KIND"}
  %recv = (f32[4,8]{1,0}, u32[], token[]) recv(%token), channel_id=2, is_host_transfer=true,\
 frontend_attributes={_xla_host_transfer_rendezvous="all-reduce.1_0",_xla_megascale_target=\
"{SLICES}x{0:7}",_xla_megascale_transfer_type="KIND"}
  %sent = token[] send-done(%send), channel_id=3, is_host_transfer=true
  %got = (f32[4,8]{1,0}, token[]) recv-done(%recv), channel_id=2, is_host_transfer=true
  ROOT %y = f32[4,8]{1,0} get-tuple-element(%got), index=0
}
"""


@pytest.mark.parametrize(
    ("kind", "slices", "expected", "moved"),
    [
        ("ALL_REDUCE", "1,2", ("all-reduce", (1, 2)), 128),
        ("ALL_REDUCE", "1:4", ("all-reduce", (1, 2, 3, 4)), 192),
        ("ALL_GATHER", "1:4", ("all-gather", (1, 2, 3, 4)), 384),
        ("ONE_TO_ONE", "1,2", ("collective-permute", (1, 2)), 128),
    ],
)
def test_what_slices_exchange(kind, slices, expected, moved):
    """One exchange of 4 x 8 numbers, which is no traffic beside."""
    found = Module(ACROSS.replace("KIND", kind).replace("SLICES", slices))
    (one,) = collectives(found)
    assert one.across and (one.kind, *one.groups) == expected
    assert one.moved == moved and found.traffic() == 0


def test_kernels_and_arrays():
    found = module()
    assert found.kernels() == {"tpu_custom_call": 1}
    assert [str(array) for array, _ in found.arrays()][:2] == ["f32[8,32]", "bf16[8,16]"]


def test_products_that_xla_writes_as_convolutions():
    """TPU programs have no dot: a plain product, one over two axes, and a batch of products."""
    line = """HloModule m
ENTRY %main (a: f32[8,16]) -> f32[8,32] {
  %a = f32[8,16]{1,0} parameter(0)
  %b = f32[KERNEL]{1,0} parameter(1)
  ROOT %c = f32[RESULT]{1,0} convolution(%a, %b), WINDOW
}
"""
    for kernel, result, window, flops in (
        ("16,32", "8,32", "dim_labels=bf_io->bf", 2 * 8 * 32 * 16),
        ("4,16,32", "1,8,32", "window={size=4}, dim_labels=0bf_0io->0bf", 2 * 8 * 32 * 16 * 4),
        (
            "4,16,32",
            "4,8,32",
            "window={size=4 stride=3 pad=0_0 lhs_dilate=4}, dim_labels=0bf_0io->0bf",
            2 * 4 * 8 * 32 * 16,
        ),
    ):
        text = line.replace("KERNEL", kernel).replace("RESULT", result).replace("WINDOW", window)
        assert Module(text).flops() == flops


def test_slices_inside_of_fusions_in_fusions():
    """A row of ten is read, through another fusion; a row of ten is written, in place; and ten rows
    are read by a product, though a fusion gives them another name first."""
    text = """HloModule m
%inner (p: f32[10,32], i: s32[]) -> f32[1,32] {
  %p = f32[10,32]{1,0} parameter(0)
  %i = s32[]{:S(2)} parameter(1)
  %same = f32[10,32]{1,0} bitcast(%p)
  ROOT %row = f32[1,32]{1,0} dynamic-slice(%same, %i, %i)
}
%rename (w: f32[10,32]) -> f32[32,10] {
  %w = f32[10,32]{1,0} parameter(0)
  ROOT %turned = f32[32,10]{0,1} bitcast(%w)
}
%outer (a: f32[10,32], j: s32[], b: f32[10,32]) -> f32[10,32] {
  %a = f32[10,32]{1,0} parameter(0)
  %j = s32[]{:S(2)} parameter(1)
  %b = f32[10,32]{1,0} parameter(2)
  %taken = f32[1,32]{1,0} fusion(%a, %j), kind=kLoop, calls=%inner
  ROOT %put = f32[10,32]{1,0} dynamic-update-slice(%b, %taken, %j, %j)
}
%product (c: f32[4,32], d: f32[10,32]) -> f32[4,10] {
  %c = f32[4,32]{1,0:S(1)} parameter(0)
  %d = f32[10,32]{1,0} parameter(1)
  %e = f32[32,10]{0,1} fusion(%d), kind=kLoop, calls=%rename
  ROOT %g = f32[4,10]{1,0:S(1)} convolution(%c, %e), dim_labels=bf_io->bf
}
ENTRY %main (x: f32[10,32], k: s32[], y: f32[10,32]) -> f32[10,32] {
  %x = f32[10,32]{1,0} parameter(0)
  %k = s32[]{:S(2)} parameter(1)
  %y = f32[10,32]{1,0} parameter(2)
  %z = f32[4,32]{1,0:S(1)} constant({...})
  %h = f32[4,10]{1,0:S(1)} fusion(%z, %x), kind=kOutput, calls=%product
  ROOT %f = f32[10,32]{1,0} fusion(%x, %k, %y), kind=kLoop, calls=%outer
}
"""
    whole, row = 10 * 32 * 4, 32 * 4
    assert Module(text).traffic() == whole + 2 * row
