"""The samplers of rows: diffusers' own, changed where they would wait for the device in each step.

Each copy from pageable memory to a GPU waits until the GPU has done everything it was given. A step with such
a copy lets the GPU idle while the CPU prepares the next call. Here sigmas and coefficients stay on the host,
as floats, and noise is copied from pinned memory, without a wait.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers import LMSDiscreteScheduler, UniPCMultistepScheduler
from torch.overrides import TorchFunctionMode

from inpaint import cuda
from inpaint.schedulers import SCHEDULERS, canonical_name, make_scheduler


class LMS(LMSDiscreteScheduler):  # type: ignore[misc]
    """LMS whose coefficients are integrated in floats; stock takes 1,650 small operations a call."""

    def get_lms_coefficient(self, order: int, t: int, current_order: int) -> float:
        """Integrate the polynomial that is 1 at one of the last sigmas and 0 at the others."""
        sigmas: list[float] = self.sigmas[t - order + 1 : t + 2].tolist()
        *others, end = sigmas
        begin = others[-1]
        node = others.pop(-1 - current_order)
        middle, half = (begin + end) / 2, (end - begin) / 2
        # Gauss's rule with two points is exact up to the third degree, and ``order`` is at most 4.
        points = (middle - half / math.sqrt(3), middle + half / math.sqrt(3))
        total: float = sum(math.prod((x - other) / (node - other) for other in others) for x in points)
        return half * total


class UniPC(UniPCMultistepScheduler):  # type: ignore[misc]
    """UniPC whose coefficients are found once, on the host.

    Stock's updates copy each sigma to the device and solve a linear system there, 5.4 waits a call. They are
    linear in the sample and in the model's outputs: applied to unit vectors, they give their coefficients.
    """

    model_outputs: list[torch.Tensor]
    _step_index: int | None

    def set_timesteps(self, num_inference_steps: int, device: Any = None) -> None:
        """Set the timesteps, and find the coefficients of every step."""
        super().set_timesteps(num_inference_steps, device)
        orders = self.config.solver_order
        self._predictor = torch.zeros(num_inference_steps, orders, orders + 1, dtype=torch.float64)
        self._corrector = torch.zeros(num_inference_steps, orders, orders + 2, dtype=torch.float64)
        outputs = self.model_outputs
        for step in range(num_inference_steps):
            self._step_index = step
            # Order k looks k - 1 steps back, and the corrector k. (The last step is never of order 2.)
            for order in range(1, min(orders, step + 1) + 1):
                self._predictor[step, order - 1, : order + 1] = self._prediction_of(order)
            for order in range(1, min(orders, step) + 1):
                self._corrector[step, order - 1, : order + 2] = self._correction_of(order)
        self.model_outputs, self._step_index = outputs, None

    def _prediction_of(self, order: int) -> torch.Tensor:
        """Return the weights (1 + order,) of the sample and of the outputs, the latest first."""
        sample, *outputs = torch.eye(1 + order, dtype=torch.float64)[:, None]
        self.model_outputs = outputs[::-1]
        return torch.as_tensor(super().multistep_uni_p_bh_update(outputs[0], sample=sample, order=order))[0]

    def _correction_of(self, order: int) -> torch.Tensor:
        """Return the weights (2 + order,) of the new output, the last sample and the old outputs."""
        new, last, *outputs = torch.eye(2 + order, dtype=torch.float64)[:, None]
        self.model_outputs = outputs[::-1]
        corrected = super().multistep_uni_c_bh_update(new, last_sample=last, this_sample=last, order=order)
        return torch.as_tensor(corrected)[0]

    def multistep_uni_p_bh_update(
        self, model_output: torch.Tensor, *, sample: torch.Tensor, order: int
    ) -> torch.Tensor:
        """Return the next sample (1, 4, h, w)."""
        weights = self._predictor[self.step_index, order - 1].tolist()
        return _weighted(weights, [sample, *self.model_outputs[-order:][::-1]])

    def multistep_uni_c_bh_update(
        self,
        this_model_output: torch.Tensor,
        *,
        last_sample: torch.Tensor,
        this_sample: torch.Tensor,
        order: int,
    ) -> torch.Tensor:
        """Return the sample (1, 4, h, w) of this step, made better by the model's output for it."""
        weights = self._corrector[self.step_index, order - 1].tolist()
        return _weighted(weights, [this_model_output, last_sample, *self.model_outputs[-order:][::-1]])


def _weighted(weights: Sequence[float], tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return the weighted sum of tensors; weights without a tensor are left out."""
    total = tensors[0] * weights[0]
    for tensor, weight in zip(tensors[1:], weights[1:], strict=False):
        total.add_(tensor, alpha=weight)
    return total


_OWN: Mapping[str, Any] = {"LMS": LMS, "UniPC": UniPC}


def make_sampler(name: str, base_config: Mapping[str, Any], num_inference_steps: int) -> Any:
    """Make the scheduler of one row; see :func:`inpaint.schedulers.make_scheduler`."""
    return make_scheduler(name, base_config, num_inference_steps, cls=_OWN.get(canonical_name(name)))


def take_step(
    name: str,
    sampler: Any,
    prediction: torch.Tensor,
    timestep: torch.Tensor,
    latents: torch.Tensor,
    generator: torch.Generator,
) -> torch.Tensor:
    """Return the latents (1, 4, h, w) after the sampler's step, in fp32."""
    extra = {"generator": generator} if SCHEDULERS[name].step_takes_generator else {}
    with _UploadedNoise(latents.device):
        stepped = sampler.step(prediction, timestep, latents, **extra, return_dict=False)[0]
    return torch.as_tensor(stepped).float()


class _UploadedNoise(TorchFunctionMode):
    """A mode in which the noise that a sampler draws on the host is copied to the device without a wait."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self._device = device

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        return cuda.runtime.upload(made, self._device) if func is torch.randn else made
