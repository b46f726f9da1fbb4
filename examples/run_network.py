"""Run one network of the model zoo by itself, with numpy arrays as inputs and outputs.

    python examples/run_network.py --model image_fusion

The model card lists names and shapes of the tensors. The first inference engine that works runs the
network (TensorRT, ONNX Runtime or PyTorch); the inputs here are zeros.
"""

from __future__ import annotations

import argparse

import numpy as np

from multimodal_perception.runtime.card import load_card
from multimodal_perception.runtime.open_model import open_model
from multimodal_perception.runtime.settings import RuntimeConfig


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="near_field", help="shipped model or model folder")
    args = parser.parse_args()

    card = load_card(args.model)
    print(f"{card.name}: {card.task}")
    engine = open_model(card, RuntimeConfig(device="cpu"))
    inputs = {name: np.zeros(s.shape, s.dtype) for name, s in card.inputs.items()}
    for name, array in engine.run(inputs).items():
        print(f"output {name}: shape {array.shape}, mean {array.mean():.4f}")
    times = engine.timings.summary()
    print(f"engine {engine.name} on {engine.device}, median {times['p50_ms']:.1f} ms")


if __name__ == "__main__":
    main()
