"""Why a model does not run on its images, in its own words, in one sentence, and what to change."""

import pytest
import torch
from torch import nn

from attngraft.config import InputSpec
from attngraft.surgery.input_errors import refused_images

SPEC = InputSpec(3, (32, 32))


class Saying(nn.Module):
    """A network with an opinion on its images."""

    def __init__(self, error=None):
        super().__init__()
        self.conv, self.error = nn.Conv2d(3, 4, 3), error

    def forward(self, x):
        if self.error:
            raise self.error
        if x.shape[-1] != 48:
            raise AssertionError
        return self.conv(x)


def sentence(model):
    with pytest.raises(Exception) as caught:
        model(torch.zeros(1, *SPEC.shape))
    return refused_images(model, SPEC, caught.value, "set another image_size")


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_another_type_are_named(kind):
    name = str(kind).removeprefix("torch.")
    text = sentence(nn.Sequential(nn.Conv2d(3, 4, 3)).to(kind))
    assert text.startswith("the model does not run on images of 32 x 32 pixels (Input type")
    assert text.endswith(f": its weights are {name} and images are float32, convert it with model.float().")


@pytest.mark.parametrize("channels", [1, 4, 12])
def test_another_number_of_channels_is_named(channels):
    text = sentence(nn.Conv2d(channels, 4, 3))
    assert f": its first convolution takes {channels} channels and the images have 3, set channels." in text


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ValueError("sides must be\n  multiples of 28"), "(sides must be multiples of 28)"),
        (RuntimeError("x" * 500), f"({'x' * 200})"),
        (None, "(AssertionError at 'raise AssertionError')"),
    ],
    ids=["two-lines", "long", "no-words"],
)
def test_the_models_own_words_are_said(error, words):
    text = sentence(Saying(error))
    assert text == f"the model does not run on images of 32 x 32 pixels {words}: set another image_size."
