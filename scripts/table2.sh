#!/usr/bin/env bash
# Table 2 of Gunel et al. (2021): full training sets.
#
# Usage:  ENCODER=roberta.large scripts/table2.sh [OPTION...]
#         options are passed to `fairseq-scl run`; rerun to resume:
#           --only 'lambda=0.9,tau=0.3'   one point of the grid instead of 24
#           --precision bf16              fp16 on GPUs before Ampere
#           --smoke                       test the whole path in minutes
#           --dry-run                     print the commands
# Writes: DATA_BIN (data folders) and outputs/table2 (records, tables, report.html).
# Hardware and cost: GPUs with 16 GB: all of them, or CUDA_VISIBLE_DEVICES=0,1; for
#         Slurm see docs/slurm.md. 1,500 runs with the grid, 120 with one point.
# Expected: the paper's averages are 89.7 (CE) and 90.3 (CE+SCL).
#
# Settings: ENCODER   name (roberta.large …) or encoder folder, see docs/encoders.md
#           TASKS     tasks to run         (default: SST-2 CoLA MRPC RTE QNLI MNLI)
#           GLUE, DATA_BIN, SIZES    see prepare_glue.sh
#           PREPARE   options of `fairseq-scl prepare`, such as --partial for files
#                     with missing rows
set -euo pipefail
ENCODER=${ENCODER:?set it to an encoder folder or name}
export ENCODER GLUE=${GLUE:-data-bin/glue} DATA_BIN=${DATA_BIN:-data-bin}
export TASKS=${TASKS:-SST-2 CoLA MRPC RTE QNLI MNLI}
read -ra prepare <<<"${PREPARE:-}"

"$(dirname "$0")/prepare_glue.sh" ${prepare[@]+"${prepare[@]}"}
fairseq-scl run table2 --data "$DATA_BIN" --model "$ENCODER" \
  --only "task=${TASKS// /|}" "$@"
