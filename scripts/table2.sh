#!/usr/bin/env bash
# Table 2 of Gunel et al. (2021): full training sets.
#
# Usage:  ENCODER=encoders/roberta.large scripts/table2.sh [OPTION...]
#         the options go to `fairseq-scl run`; started again, it goes on:
#           --only 'lambda=0.9,tau=0.3'   one point of the grid instead of 24
#           --precision bf16              fp16 on GPUs before Ampere
#           --smoke                       the whole path in minutes
#           --dry-run                     print the commands
# Writes: DATA_BIN (data folders) and outputs/table2 (records, tables, a page).
# Hardware and cost: GPUs of 16 GB, all that there are or CUDA_VISIBLE_DEVICES=0,1; Slurm
#         as docs/slurm.md. 1,500 runs with the grid, 120 with one point.
# Expected: the paper's averages are 89.7 (CE) and 90.3 (CE+SCL).
#
# Settings: ENCODER   encoder folder (model.pt, dict.txt, encoder.json, vocab.bpe)
#           TASKS     which of its tasks   (default: SST-2 CoLA MRPC RTE QNLI MNLI)
#           GLUE, DATA_BIN, SIZES    as prepare_glue.sh
#           PREPARE   options of `fairseq-scl prepare`, as --partial for files that have
#                     not all rows
set -euo pipefail
ENCODER=${ENCODER:?name an encoder folder}
export ENCODER GLUE=${GLUE:-data-bin/glue} DATA_BIN=${DATA_BIN:-data-bin}
export TASKS=${TASKS:-SST-2 CoLA MRPC RTE QNLI MNLI}
read -ra prepare <<<"${PREPARE:-}"

"$(dirname "$0")/prepare_glue.sh" ${prepare[@]+"${prepare[@]}"}
fairseq-scl run table2 --data "$DATA_BIN" --model "$ENCODER" \
  --only "task=${TASKS// /|}" "$@"
