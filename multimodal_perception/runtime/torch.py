"""PyTorch backend: the network's module with the card's safetensors weights, on CPU or CUDA."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from multimodal_perception.runtime.architectures import resolve
from multimodal_perception.runtime.card import ModelCard
from multimodal_perception.runtime.engine import Arrays, EngineError
from multimodal_perception.runtime.onnxruntime import available_cores
from multimodal_perception.runtime.settings import RuntimeConfig


class TorchBackend:
    """One module in evaluation mode. Raises EngineError if it cannot be built or loaded."""

    name = "torch"
    precision = "fp32"

    def __init__(self, card: ModelCard, config: RuntimeConfig) -> None:
        try:
            import torch
            from safetensors import SafetensorError
            from safetensors.torch import load
        except ImportError as error:
            raise EngineError(f"not installed ({error})") from error
        if config.device == "cuda" and not torch.cuda.is_available():
            raise EngineError("no CUDA GPU available")
        if config.engine_precision != "fp32":
            raise EngineError(f"{config.engine_precision} is not supported; allowed: fp32")
        use_gpu = config.device != "cpu" and torch.cuda.is_available()
        self.device = f"cuda:{config.gpu}" if use_gpu else "cpu"
        content = card.read_file("weights")
        try:
            self._module = resolve(card, "build")(card.settings)
            self._module.load_state_dict(card.to_module_names(load(content)))
            self._module.to(self.device).eval()
        except (RuntimeError, ValueError, TypeError, KeyError, SafetensorError) as error:
            raise EngineError(
                f"{card.source}: weights do not match the network: {error}"
            ) from error
        torch.set_num_threads(config.threads or available_cores())
        self._torch = torch
        self._outputs = list(card.outputs)

    def infer(self, arrays: Arrays) -> dict[str, NDArray[Any]]:
        torch = self._torch
        with torch.inference_mode():
            tensors = [torch.from_numpy(array).to(self.device) for array in arrays.values()]
            results = self._module(*tensors)
        if isinstance(results, torch.Tensor):
            results = (results,)
        if len(results) != len(self._outputs):
            raise EngineError(f"{len(results)} outputs, but {len(self._outputs)} in the card")
        pairs = zip(self._outputs, results, strict=True)
        return {name: tensor.cpu().numpy() for name, tensor in pairs}
