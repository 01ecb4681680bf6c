#!/usr/bin/env bash
# Table 3 of Gunel et al. (2021): the size of the contrastive batch.
#
# Usage:  ENCODER=encoders/roberta.base scripts/table3.sh [OPTION...]
#         the options go to `fairseq-scl run`; started again, it goes on:
#           --only 'lambda=0.9,tau=0.3'   one point of the grid instead of 24
#           --precision bf16              fp16 on GPUs before Ampere
#           --smoke                       the whole path in minutes
#           --dry-run                     print the commands
# Writes: DATA_BIN (data folders) and outputs/table3 (records, tables, a page).
# Hardware and cost: GPUs of 16 GB, all that there are or CUDA_VISIBLE_DEVICES=0,1; Slurm
#         as docs/slurm.md. 2,250 runs with the grid, 180 with one point.
# Expected: the paper's SST-2 goes from 93.9 (batch 16) to 94.3 (256).
#
# Settings: ENCODER   encoder folder (model.pt, dict.txt, encoder.json, vocab.bpe)
#           TASKS     which of its tasks   (default: SST-2 CoLA QNLI)
#           TABLE     table3-n1000 takes samples of 1,000 examples of SST-2
#           GLUE, DATA_BIN, SIZES    as prepare_glue.sh
#           PREPARE   options of `fairseq-scl prepare`, as --partial for files that have
#                     not all rows
set -euo pipefail
ENCODER=${ENCODER:?name an encoder folder}
export ENCODER GLUE=${GLUE:-data-bin/glue} DATA_BIN=${DATA_BIN:-data-bin}
export TASKS=${TASKS:-SST-2 CoLA QNLI}
read -ra prepare <<<"${PREPARE:-}"

"$(dirname "$0")/prepare_glue.sh" ${prepare[@]+"${prepare[@]}"}
fairseq-scl run "${TABLE:-table3}" --data "$DATA_BIN" --model "$ENCODER" \
  --only "task=${TASKS// /|}" "$@"
