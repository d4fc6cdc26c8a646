#!/usr/bin/env bash
# What only a GPU can tell, on a machine that has one: the checks first, then the tables.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-.venv/bin/python}
results=benchmarks/results

"$PYTHON" -m pytest -m gpu
"$PYTHON" benchmarks/graph_steps.py --device cuda --csv "$results/graph-steps-cuda.csv"  # 7 minutes, and what it began
"$PYTHON" -m capecam bench --device cuda --csv "$results/engine-cuda.csv"
"$PYTHON" benchmarks/techniques.py --device cuda --csv "$results/techniques-cuda.csv"
"$PYTHON" benchmarks/image.py --device cuda --size 12500 --csv "$results/image-cuda.csv"
"$PYTHON" benchmarks/memory.py --sample-model --size 12500x12500 --csv "$results/memory-cuda.csv"
"$PYTHON" benchmarks/node.py --workers 1,2,4 --csv "$results/node-cuda.csv"  # the GPU's own cores around it
