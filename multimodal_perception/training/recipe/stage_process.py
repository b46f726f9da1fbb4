"""Trains one stage of a recipe under torchrun: `-m ... RECIPE STAGE OUT`."""

from __future__ import annotations

import sys
from pathlib import Path

from multimodal_perception.training.recipe.configuration import load_recipe
from multimodal_perception.training.recipe.plan import Plan


def main() -> None:
    recipe, stage, out = sys.argv[1:]
    Plan(load_recipe(recipe), Path(out), evaluate=lambda words: None).train_stage(stage)


if __name__ == "__main__":
    main()
