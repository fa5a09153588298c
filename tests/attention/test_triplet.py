from dataclasses import replace

import torch

from attngraft.attention import create_attention


def test_a_part_that_is_taken_out_leaves_the_mean_to_the_others():
    module, x = create_attention("triplet", 8, init="paper").eval(), torch.randn(2, 8, 3, 4)
    gates = module.gates(x)
    without = module.apply_gates(x, replace(gates, spatial=None))
    torch.testing.assert_close(without, x * (gates.rows.unsqueeze(3) + gates.columns.unsqueeze(2)) / 2)
