# SPDX-License-Identifier: Apache-2.0
"""A forecast is the sum of the compiler's cycles by part, and says what has none."""

import pytest

from jaxvl.plan.forecast import forecast
from jaxvl.plan.hlo import Module

# ruff: noqa: E501 (lines as HLO has them)
# Ten turns of a loop with a product of the head, one of a layer, a sort and an exchange; then the
# tower, a kernel, something whose cycles are not known, and a number.
TEXT = """HloModule m, num_partitions=8

%body (p: (s32[], f32[64,512])) -> (s32[], f32[64,512]) {
  %p = (s32[], f32[64,512]{1,0}) parameter(0)
  %x = f32[64,512]{1,0} get-tuple-element(%p), index=1
  %a = f32[64,512]{1,0} fusion(%x), calls=%f, metadata={op_name="jit(f)/while/body/SCOPE"}, CYCLES300
  %b = f32[64,512]{1,0} fusion(%a), calls=%f, metadata={op_name="jit(f)/mlp/dot"}, CYCLES500
  %c = f32[8]{0} sort(%b), metadata={op_name="jit(f)/sampling/top_k"}
  %d = f32[64,512]{1,0} all-reduce(%b), channel_id=1, replica_groups=[1,8]<=[8]
  ROOT %next = (s32[], f32[64,512]{1,0}) tuple(%p, %d)
}

%condition (q: (s32[], f32[64,512])) -> pred[] {
  %q = (s32[], f32[64,512]{1,0}) parameter(0)
  ROOT %less = pred[] compare(%q, %q), direction=GT
}

ENTRY %main (x: f32[64,512]) -> f32[64,512] {
  %start = (s32[], f32[64,512]{1,0}) parameter(0)
  %loop = (s32[], f32[64,512]{1,0}) while(%start), condition=%condition, body=%body
  %e = f32[64,512]{1,0} fusion(%loop), calls=%f, metadata={op_name="jit(f)/jvp(tower)/mlp/dot"}, CYCLES7000
  %k = f32[64,512]{1,0} custom-call(%e), custom_call_target="tpu_custom_call"
  %u = f32[64,512]{1,0} fusion(%k), calls=%f, metadata={op_name="jit(f)/mul"}, CYCLES9223372036854775807
  ROOT %n = f32[8]{0} add(%u, %u)
}
"""


def made(text: str, clock: float = 1e9):
    cycles = 'backend_config={"estimated_cycles":"'
    lines = (line + '"}' * ("CYCLES" in line) for line in text.splitlines())
    return forecast(Module("\n".join(lines).replace("CYCLES", cycles), 10), clock, 2e-6)


@pytest.mark.parametrize(
    ("scope", "part"),
    [
        ("head/dot", "head"),
        ("transpose(jvp(head))/while/body/reduce_sum", "head"),
        ("checkpoint/rematted_computation/decoder/while/body/attention/dot", "decoder"),
        ("sampling/head/dot", "sampling"),
        ("embedding/gather", "decoder"),
        ("jvp(tower)/mlp/dot", "tower"),
        ("overhead/dot", "rest"),
        ("mul", "rest"),
    ],
)
def test_seconds_by_part(scope, part):
    """Cycles as often as their loop turns, by the clock."""
    found = made(TEXT.replace("SCOPE", scope))
    expected = {"decoder": 5e-6, "tower": 7e-6}
    expected[part] = expected.get(part, 0.0) + 3e-6
    assert found.parts == pytest.approx(expected)
    assert found.seconds == pytest.approx(15e-6 + 2e-6)
    twice = made(TEXT.replace("SCOPE", scope), 2e9)
    assert twice.seconds == pytest.approx(15e-6 / 2 + 2e-6)


def test_what_has_no_figure_is_named():
    """A sort and an exchange whatever their size, and what is large; no single numbers."""
    found = made(TEXT)
    assert found.missing == {"sort": 10, "all-reduce": 10, "kernel": 1, "fusion": 1}


def test_a_compiler_that_gives_no_cycles():
    assert made(TEXT.replace("CYCLES", "#")) is None
