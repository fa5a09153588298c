from dataclasses import replace

import torch

from attngraft.attention import create_attention


def test_a_part_that_is_taken_out_counts_as_half():
    module, x = create_attention("scse", 8, init="paper"), torch.randn(2, 8, 3, 4)
    gates = module.gates(x)
    without = module.apply_gates(x, replace(gates, spatial=None))
    torch.testing.assert_close(without, x * (gates.channel[..., None, None] + 0.5))
