# make demo    train a small model, sample 4 masks for each test case, score them       (10 minutes on 2 CPU cores)
# make test    the tests
#
# Each makes its own set-up first: a virtual environment in .venv with what requirements.txt pins. To take torch from
# another index: make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu

PYTHON ?= python3
TORCH_INDEX ?=
VENV := .venv
BIN := $(VENV)/bin
DEMO := results/demo

.PHONY: demo test clean

demo: $(VENV)/installed
	$(BIN)/python scripts/segmentation_train.py --preset demo --data_dir data/training --log_dir $(DEMO)
	$(BIN)/python scripts/segmentation_sample.py --data_dir data/testing --model_path $(DEMO)/savedmodel.pt \
		--num_ensemble 4 --batch_size 16 --out_dir $(DEMO)/samples
	$(BIN)/python scripts/segmentation_evaluate.py --data_dir data/testing --samples $(DEMO)/samples \
		--truth data/testing/truth.json
	@echo "Open $(DEMO)/samples/report.html to look at the cases."

test: $(VENV)/installed
	$(BIN)/python -m pytest

# Visdom builds with setuptools < 81 only; old pips take the constraint from PIP_CONSTRAINT, new ones from
# PIP_BUILD_CONSTRAINT.
$(VENV)/installed: export PIP_CONSTRAINT = build-constraints.txt
$(VENV)/installed: export PIP_BUILD_CONSTRAINT = build-constraints.txt
$(VENV)/installed: requirements.txt build-constraints.txt setup.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) "$$(grep ^torch requirements.txt)"
	$(BIN)/python -m pip install -r requirements.txt -e ".[visdom,mpi,test]"
	touch $@

clean:
	rm -rf $(VENV) $(DEMO)
