"""Reading the same prompts again, with blocks left out, gives what a whole pass gives, to the bit."""

import pytest
import torch

from saes.families import find_site
from shift.probe import readout
from shift.reading import Reading
from shift.repeated import RepeatedReading
from tests.saes.models_for_tests import FAMILY_NAMES, tiny


@pytest.mark.parametrize("family", FAMILY_NAMES)
@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize("kept_bytes", [0, 1 << 30])
def test_equal_to_whole_passes(family, pooled, kept_bytes):
    model = tiny(family)
    reading = Reading(find_site(model, "resid_1"), pooled, start=1)
    rng = torch.Generator().manual_seed(0)
    tokens = torch.randint(3, 40, (23, 9), generator=rng)
    position = torch.randint(2, 9, (23,), generator=rng)
    again = RepeatedReading(model, reading, tokens, position, batch_size=7, kept_bytes=kept_bytes)
    for edited in ([], ["embed"], ["attn_0"], ["resid_0"], ["mlp_1"], ["resid_1"], ["resid_0", "attn_1", "resid_1"]):
        edits = {find_site(model, name): lambda x: 1.5 * x - 0.1 for name in edited}
        whole = readout(model, reading, tokens, position, edits, batch_size=7)
        assert torch.equal(again.read(edits), whole), edited
        if edited:
            assert not torch.equal(whole, again.unedited)
    assert torch.equal(again.read(), readout(model, reading, tokens, position, batch_size=7))
