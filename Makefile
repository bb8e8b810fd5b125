# make try       draw 8 masks for each of 4 test cases with a shipped model, score them  (a minute)
# make demo      train a small model, sample 4 masks for each test case, score them     (10 minutes on 2 CPU cores)
# make test      the tests, in WORKERS processes; those that measure memory or time after the others, one by one
# make lint      formatting, lint, types and the direction of imports
# make test-all  these on every installed Python, and the nightly ones: full size, all faults, the commands of docs
# make model-phantom   train and export the shipped model `phantom` again               (17 minutes on 2 CPU cores)
# make model-fundus    the same for the shipped model `fundus`
#
# Each makes its own set-up first: a virtual environment in .venv with what requirements.txt pins. To take torch from
# another index: make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu

PYTHON ?= python3
TORCH_INDEX ?=
VENV := .venv
BIN := $(VENV)/bin
DEMO := results/demo
PHANTOM := results/phantom
FUNDUS := results/fundus
WORKERS ?= 2
PYTHONS ?= python3.11 python3.12 python3.13 python3.14

.PHONY: try demo model-phantom model-fundus lint test test-nightly test-all clean

demo: $(VENV)/installed
	$(BIN)/python scripts/segmentation_train.py --preset demo --data_dir data/training --log_dir $(DEMO)
	$(BIN)/python scripts/segmentation_sample.py --data_dir data/testing --model_path $(DEMO)/savedmodel.pt \
		--num_ensemble 4 --batch_size 16 --out_dir $(DEMO)/samples
	$(BIN)/python scripts/segmentation_evaluate.py --data_dir data/testing --samples $(DEMO)/samples \
		--truth data/testing/truth.json --output_size network
	@echo "Open $(DEMO)/samples/report.html to look at the cases."

try: $(VENV)/installed
	$(BIN)/python scripts/segmentation_sample.py --data_dir data/testing --model_path phantom --num_samples 4 \
		--num_ensemble 8 --evaluate --out_dir results/try
	@echo "Open results/try/phantom0000_sheet.png to see a case, and results/try/report.html for all of them."

model-phantom: $(VENV)/installed
	$(BIN)/python scripts/make_phantom.py --out $(PHANTOM)/training --num_cases 2000 --seed 11
	$(BIN)/python scripts/segmentation_train.py --preset tuned --data_dir $(PHANTOM)/training --log_dir $(PHANTOM)/run \
		--image_size 64 --image_channels 1 --num_channels 32 --num_res_blocks 1 --channel_mult 1,1 --denoiser_mult 1,1 \
		--batch_size 16 --lr 2e-3 --lr_anneal_steps 1800
	$(BIN)/python scripts/export.py --model_path $(PHANTOM)/run/savedmodel.pt --out $(PHANTOM)/model --dtype bf16
	$(BIN)/python scripts/segmentation_sample.py --data_dir data/testing --model_path $(PHANTOM)/model --num_ensemble 16 \
		--batch_size 16 --out_dir $(PHANTOM)/samples
	$(BIN)/python scripts/segmentation_evaluate.py --data_dir data/testing --samples $(PHANTOM)/samples \
		--truth data/testing/truth.json
	$(BIN)/python scripts/export.py --model_path $(PHANTOM)/model --out guided_diffusion/models/phantom --dtype bf16 \
		--metrics $(PHANTOM)/samples/metrics.json --license MIT \
		--data_description "2,000 synthetic images of make_phantom.py (--seed 11), 8 raters each"

model-fundus: $(VENV)/installed
	$(BIN)/python scripts/make_phantom.py --kind fundus --out $(FUNDUS)/training --num_cases 2000 --seed 11
	$(BIN)/python scripts/make_phantom.py --kind fundus --out $(FUNDUS)/testing --num_cases 80 --seed 13
	$(BIN)/python scripts/segmentation_train.py --preset tuned --data_dir $(FUNDUS)/training --log_dir $(FUNDUS)/run \
		--image_size 64 --num_channels 32 --num_res_blocks 1 --channel_mult 1,1 --denoiser_mult 1,1 \
		--batch_size 16 --lr 2e-3 --lr_anneal_steps 1800
	$(BIN)/python scripts/export.py --model_path $(FUNDUS)/run/savedmodel.pt --out $(FUNDUS)/model --dtype bf16
	$(BIN)/python scripts/segmentation_sample.py --data_dir $(FUNDUS)/testing --model_path $(FUNDUS)/model --num_ensemble 16 \
		--batch_size 16 --out_dir $(FUNDUS)/samples
	$(BIN)/python scripts/segmentation_evaluate.py --data_dir $(FUNDUS)/testing --samples $(FUNDUS)/samples \
		--truth $(FUNDUS)/testing/truth.json
	$(BIN)/python scripts/export.py --model_path $(FUNDUS)/model --out guided_diffusion/models/fundus --dtype bf16 \
		--metrics $(FUNDUS)/samples/metrics.json --license MIT --picture $(FUNDUS)/samples/fundus0000_sheet.png \
		--data_description "2,000 synthetic fundus images of make_phantom.py (--kind fundus --seed 11), 6 raters each"

lint: $(VENV)/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: $(VENV)/installed
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadscope -m "not serial and not nightly"
	$(BIN)/python -m pytest -n 0 -m "serial and not nightly"

test-nightly: $(VENV)/installed
	$(BIN)/python -m pytest -n 0 -m nightly

test-all: test test-nightly
	@for python in $(PYTHONS); do \
		if ! $$python --version >/dev/null 2>&1; then echo "$$python is not installed"; \
		elif ! $(MAKE) test PYTHON=$$python VENV=$(VENV)/$$python; then exit 1; fi; \
	done

# Visdom builds with setuptools < 81 only; old pips take the constraint from PIP_CONSTRAINT, new ones from
# PIP_BUILD_CONSTRAINT.
$(VENV)/installed: export PIP_CONSTRAINT = build-constraints.txt
$(VENV)/installed: export PIP_BUILD_CONSTRAINT = build-constraints.txt
$(VENV)/installed: requirements.txt build-constraints.txt setup.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) "$$(grep ^torch requirements.txt)"
	$(BIN)/python -m pip install -r requirements.txt -e ".[visdom,mpi,test,dev]"
	touch $@

clean:
	rm -rf $(VENV) $(DEMO)
