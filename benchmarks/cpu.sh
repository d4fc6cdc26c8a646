#!/usr/bin/env bash
# Every table of docs/performance.md that needs no GPU, measured again. The machine should do nothing else.
# Usage: cpu.sh BOUNDS, the layout of a city (see city.py); `make demo` comes first.
set -euo pipefail
bounds=$(realpath "$1")
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-.venv/bin/python}
rm -f benchmarks/results/{engine-cpu,techniques,engines,image,memory,products,cog,node,node_model,workers,city,finish,specks,outlines,target-layer}.csv benchmarks/results/planted*.csv

"$PYTHON" -m capecam bench --rounds 2 --batch 1,8 --csv benchmarks/results/engine-cpu.csv
"$PYTHON" benchmarks/techniques.py
"$PYTHON" benchmarks/engines.py
"$PYTHON" benchmarks/image.py --rounds 2
"$PYTHON" benchmarks/workers.py demo/demo.yaml
"$PYTHON" benchmarks/memory.py
"$PYTHON" benchmarks/memory.py --sample-model --size 12500x12500
"$PYTHON" benchmarks/cog.py
"$PYTHON" benchmarks/node.py --rates 183,inf --objects many,few
"$PYTHON" benchmarks/city.py "$bounds"
"$PYTHON" benchmarks/finish.py "$bounds" --like demo/out
"$PYTHON" benchmarks/specks.py
"$PYTHON" benchmarks/outlines.py --city demo
"$PYTHON" benchmarks/target_layer.py
"$PYTHON" benchmarks/planted.py build/planted
