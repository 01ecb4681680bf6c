#!/usr/bin/env bash
# Table 3 of Gunel et al. (2021): the size of the contrastive batch.
#
# Usage:  ENCODER=roberta.base scripts/table3.sh [OPTION...]
#         options are passed to `fairseq-scl run`; rerun to resume:
#           --only 'lambda=0.9,tau=0.3'   one point of the grid instead of 24
#           --precision bf16              fp16 on GPUs before Ampere
#           --smoke                       test the whole path in minutes
#           --dry-run                     print the commands
# Writes: DATA_BIN (data folders) and outputs/table3 (records, tables, report.html).
# Hardware and cost: GPUs with 16 GB: all of them, or CUDA_VISIBLE_DEVICES=0,1; for
#         Slurm see docs/slurm.md. 2,250 runs with the grid, 180 with one point.
# Expected: the paper's SST-2 goes from 93.9 (batch 16) to 94.3 (256).
#
# Settings: ENCODER   name (roberta.large …) or encoder folder, see docs/encoders.md
#           TASKS     tasks to run         (default: SST-2 CoLA QNLI)
#           TABLE     table3-n1000 uses samples of 1,000 SST-2 examples
#           GLUE, DATA_BIN, SIZES    see prepare_glue.sh
#           PREPARE   options of `fairseq-scl prepare`, such as --partial for files
#                     with missing rows
set -euo pipefail
ENCODER=${ENCODER:?set it to an encoder folder or name}
export ENCODER GLUE=${GLUE:-data-bin/glue} DATA_BIN=${DATA_BIN:-data-bin}
TABLE=${TABLE:-table3}
[[ $TABLE != table3-n1000 ]] || TASKS=${TASKS:-SST-2}
export TASKS=${TASKS:-SST-2 CoLA QNLI}
read -ra prepare <<<"${PREPARE:-}"

"$(dirname "$0")/prepare_glue.sh" ${prepare[@]+"${prepare[@]}"}
fairseq-scl run "$TABLE" --data "$DATA_BIN" --model "$ENCODER" \
  --only "task=${TASKS// /|}" "$@"
