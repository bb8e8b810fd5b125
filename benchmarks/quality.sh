#!/usr/bin/env bash
# Everything behind the tables and the plot of quality against steps in docs/sampling.md:
#
#     bash benchmarks/quality.sh                 the two models of the phantoms that ship
#     bash benchmarks/quality.sh REAL            also two models of multi-rater sets in REAL/lidc/training, REAL/brain_growth/training
#
# Trains small models by the paper's objective (noise prediction, learned variance, 0/1 masks, linear schedule), and one by
# the demo's (x_0-prediction); of a real set every third case, by name, is kept for testing.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-.venv/bin/python}
WORK=results/quality
PAPER="--preset demo --predict_xstart False --learn_sigma True --mask_low 0 --noise_schedule linear --lr 1e-3"

train() { $PYTHON scripts/segmentation_train.py --log_dir "$WORK/$1/model" --data_dir "$2" "${@:3}"; }
quality() { $PYTHON benchmarks/quality.py --model_path "$WORK/$1/model/savedmodel.pt" --data_dir "$2" --reference_only True \
    --out "benchmarks/results/quality_$1.json" "${@:3}"; }

train eps data/training $PAPER --lr_anneal_steps 8000
quality eps data/testing --cases 12
train x0 data/training --preset demo
quality x0 data/testing --cases 12

[ $# = 0 ] && exit
for set in lidc brain; do
    source=$(realpath "$1/${set/brain/brain_growth}/training")
    mkdir -p "$WORK/$set/training" "$WORK/$set/testing"
    ls "$source" | awk '{print (NR % 3 == 0 ? "testing" : "training"), $0}' | while read -r split case; do
        ln -sfn "$source/$case" "$WORK/$set/$split/$case"
    done
    train $set "$WORK/$set/training" $PAPER --lr_anneal_steps 2500
    quality $set "$WORK/$set/testing" --cases 6 --steps 1000,100,50,20,10,5,2
done
