#!/usr/bin/env bash
# Everything behind the tables and the plot of quality against steps in docs/sampling.md:
#
#     bash benchmarks/quality.sh                 a model of phantoms
#     bash benchmarks/quality.sh REAL            also two models of multi-rater sets in REAL/lidc/training, REAL/brain_growth/training
#
# Trains small models by the paper's objective (noise prediction, learned variance, 0/1 masks, linear schedule); of a real set
# every third case, by name, is kept for testing, and of LIDC the middle 32 of 128 pixels, where the nodules are.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-.venv/bin/python}
WORK=results/quality
PAPER="--preset demo --image_size 24 --attention_resolutions 6 --predict_xstart False --learn_sigma True --mask_low 0 --noise_schedule linear --lr 1e-3"

train() { $PYTHON scripts/segmentation_train.py --log_dir "$WORK/$1/model" --data_dir "$2" "${@:3}"; }
quality() { $PYTHON benchmarks/quality.py --model_path "$WORK/$1/model/savedmodel.pt" --data_dir "$2" --compile True \
    --out "benchmarks/results/quality_$1.json" "${@:3}"; }

$PYTHON scripts/make_phantom.py --out "$WORK/phantom/training" --num_cases 1500 --size 24 --seed 11
$PYTHON scripts/make_phantom.py --out "$WORK/phantom/testing" --num_cases 5 --size 24 --seed 12
train phantom "$WORK/phantom/training" $PAPER --lr_anneal_steps 5000
quality phantom "$WORK/phantom/testing"

[ $# = 0 ] && exit
real() {
    $PYTHON benchmarks/crop_cases.py --data_dir "$2" --out "$WORK/$1" --test_every 3 "${@:3}"
    train $1 "$WORK/$1/training" $PAPER --lr_anneal_steps 2500
    quality $1 "$WORK/$1/testing"
}
real lidc "$1/lidc/training" --crop 32
real brain "$1/brain_growth/training"
