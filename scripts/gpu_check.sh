#!/usr/bin/env bash
# Checks the package on a computer with an NVIDIA GPU and no network, in at most 8 minutes.
#
#   on a computer with network:  scripts/gpu_check.sh --collect wheels
#   on the computer with the GPU: scripts/gpu_check.sh --wheels wheels --out out/gpu_check
#
# Installs torch with CUDA, ONNX Runtime with CUDA and TensorRT from the wheels into an environment in the
# output folder, each if its wheels are there, and runs multimodal_perception.benchmarks.gpu_check: agreement
# with the reference outputs, latency, memory and CUDA graphs in fp32, fp16 and int8. Writes gpu_check.json
# and gpu_check.md. --dry-run does everything except the execution on the GPU.
set -u -o pipefail
ROOT="$(cd "$(dirname "$0")/.." && pwd)"
OUT="$ROOT/out/gpu_check" WHEELS="" COLLECT="" PYTHON="" DRY_RUN="" LIMIT=480
REQUIREMENTS=(-r "$ROOT/requirements/core.txt" -r "$ROOT/requirements/openvino.txt" -r "$ROOT/requirements/train.txt")
# One group per engine: a group that cannot be installed does not prevent the others.
GROUPS_OF_WHEELS=("torch" "onnxruntime-gpu" "tensorrt-cu12" "tensorrt-rtx-cu13")
usage() { sed -n '2,11p' "$0" | sed 's/^# \{0,1\}//'; }
fail() { echo "error: $1" >&2; exit 2; }
while [ $# -gt 0 ]; do
  case "$1" in
    --out|--wheels|--collect|--python|--time-limit)
      [ $# -ge 2 ] || fail "$1 needs a value"
      case "$1" in
        --out) OUT="$2" ;;
        --wheels) WHEELS="$2" ;;
        --collect) COLLECT="$2" ;;
        --python) PYTHON="$2" ;;
        --time-limit) LIMIT="$2" ;;
      esac
      shift 2 ;;
    --dry-run) DRY_RUN="--dry-run"; shift ;;
    -h|--help) usage; exit 0 ;;
    *) fail "unknown argument $1; allowed: --out, --wheels, --collect, --python, --time-limit, --dry-run" ;;
  esac
done
case "$LIMIT" in ''|*[!0-9]*) fail "--time-limit: allowed: whole seconds; got $LIMIT" ;; esac
START=$SECONDS
if [ -z "$PYTHON" ]; then
  PYTHON="$ROOT/.venv/bin/python"
  [ -x "$PYTHON" ] || PYTHON="$(command -v python3)" || fail "no Python found; set --python"
fi
command -v "$PYTHON" > /dev/null || fail "--python: $PYTHON is not a program"

if [ -n "$COLLECT" ]; then
  mkdir -p "$COLLECT" || fail "--collect: cannot create $COLLECT"
  "$PYTHON" -m pip download -q --dest "$COLLECT" "${REQUIREMENTS[@]}" \
    || fail "the packages of requirements/ could not be downloaded"
  for group in "${GROUPS_OF_WHEELS[@]:1}"; do
    "$PYTHON" -m pip download -q --dest "$COLLECT" "$group" || echo "not collected: $group" >&2
  done
  exit 0
fi

mkdir -p "$OUT" || fail "--out: cannot create $OUT"
if [ -n "$WHEELS" ]; then
  [ -d "$WHEELS" ] || fail "--wheels: $WHEELS is not a folder"
  ENVIRONMENT="$OUT/environment"
  "$PYTHON" -m venv "$ENVIRONMENT" || fail "no virtual environment could be made in $ENVIRONMENT"
  # Packages of the Python that runs this script stay available: wheels need not contain all of them.
  SITE="$("$PYTHON" -c 'import site; print("\n".join(site.getsitepackages()))')"
  OWN="$("$ENVIRONMENT/bin/python" -c 'import site; print(site.getsitepackages()[0])')"
  printf '%s\n' "$SITE" > "$OWN/zz_parent.pth"
  PYTHON="$ENVIRONMENT/bin/python"
  "$PYTHON" -m pip install -q --no-index --find-links "$WHEELS" "${REQUIREMENTS[@]}" \
    > "$OUT/install_core.log" 2>&1 || echo "not installed: core (see $OUT/install_core.log)"
  for group in "${GROUPS_OF_WHEELS[@]}"; do
    "$PYTHON" -m pip install -q --no-index --find-links "$WHEELS" "$group" \
      > "$OUT/install_$group.log" 2>&1 || echo "not installed: $group (see $OUT/install_$group.log)"
  done
fi

REMAINING=$((LIMIT - (SECONDS - START)))
[ "$REMAINING" -ge 10 ] || fail "installing took $((SECONDS - START)) s of $LIMIT s"
export PYTHONPATH="$ROOT${PYTHONPATH:+:$PYTHONPATH}"
exec "$PYTHON" -m multimodal_perception.benchmarks.gpu_check \
  --out "$OUT" --time-limit "$REMAINING" --golden "$ROOT/test/evaluation/golden.npz" $DRY_RUN
