import sys
from pathlib import Path

# pytest's importlib mode leaves a test's folder off the path; painted_street.py is beside the tests.
sys.path.insert(0, str(Path(__file__).parent))
