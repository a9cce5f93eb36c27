"""Known answers: exact moments of posteriors that have a closed form."""

from typing import NamedTuple

from distmc.types import NumpyArray


class Answer(NamedTuple):
    """What is known exactly about one parameter's posterior.

    Attributes
    ----------
    mean, sd : float64 array, shaped as one value of the parameter
        Posterior mean and standard deviation of each element.
    """

    mean: NumpyArray
    sd: NumpyArray
