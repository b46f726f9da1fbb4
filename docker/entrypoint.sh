#!/bin/bash
# Runs a command in the environment of the workspace.
set -e
source /workspace/install/setup.bash
exec "$@"
